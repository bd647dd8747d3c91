function render({ model, el }) {
  el.classList.add("jepa-choice");
  const label = document.createElement("label");
  const select = document.createElement("select");
  select.setAttribute("data-lm-suppress-shortcuts", "true"); // else the notebook takes letters for its commands
  el.append(label, select);

  const renew = () => {
    label.replaceChildren(model.get("label") + " ", select);
    label.title = model.get("title");
    select.replaceChildren(...model.get("options").map((text) => new Option(text, text)));
    select.value = model.get("value");
  };
  select.addEventListener("change", () => model.send({ event: "choose", value: select.value }));
  model.on("change:label change:options change:value", renew);
  renew();
  return () => model.off("change:label change:options change:value", renew);
}

export default { render };
