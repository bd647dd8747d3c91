// An element of a class with some text.
function element(kind, name, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  return made;
}

// A button with an icon and a word.
function button(name, icon, text, title, click) {
  const made = element("button", `jupyter-button lm-mod-noselect ${name}`);
  made.title = title;
  made.append(element("i", `fa fa-${icon}`), ` ${text}`);
  made.addEventListener("click", click);
  return made;
}

// A text field; Enter does what its button does, Escape empties it.
function field(name, label, enter) {
  const made = element("input", `jepa-field ${name}`);
  made.setAttribute("aria-label", label);
  made.addEventListener("keydown", (event) => {
    event.stopPropagation(); // else the notebook takes letters for its commands
    if (event.key === "Enter") enter();
    if (event.key === "Escape") made.value = "";
  });
  return made;
}

// Keep an element up to date with some traits, and show the part's own errors below it.
function follow(model, el, traits, renew) {
  const error = element("div", "jepa-widget-error");
  error.setAttribute("role", "alert");
  el.append(error);
  const update = () => {
    renew();
    error.textContent = model.get("error");
  };
  const names = [...traits, "error"].map((trait) => `change:${trait}`).join(" ");
  model.on(names, update);
  update();
  return () => model.off(names, update);
}
