function render({ model, el }) {
  el.classList.add("jepa-rate-field");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const button = document.createElement("button");
  label.append("learning rate ", input);
  label.title = "New learning rate; the rest of its schedule is rescaled";
  input.className = "jepa-learning-rate";
  input.size = 8;
  button.className = "jupyter-button lm-mod-noselect jepa-apply";
  button.title = "Use this learning rate from the next step on";
  button.innerHTML = '<i class="fa fa-check"></i> Apply';
  el.append(label, button);

  const apply = () => model.send({ event: "apply", value: input.value });
  const renew = () => {
    input.placeholder = model.get("rate");
    button.disabled = !model.get("enabled");
  };
  button.addEventListener("click", apply);
  input.addEventListener("keydown", (event) => {
    event.stopPropagation(); // else the notebook takes letters for its commands
    if (event.key === "Enter" && !button.disabled) apply();
  });
  model.on("change:rate change:enabled", renew);
  renew();
  return () => model.off("change:rate change:enabled", renew);
}

export default { render };
