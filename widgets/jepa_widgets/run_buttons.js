const BUTTONS = [
  ["start", "play", "Start", "Start training, or go on after a stop"],
  ["pause", "pause", "Pause", "Hold before the next step"],
  ["resume", "forward", "Resume", "Go on after a pause"],
  ["step", "step-forward", "Step", "Do so many steps and pause"],
  ["stop", "stop", "Stop", "End with a checkpoint"],
  ["checkpoint", "save", "Checkpoint", "Write a checkpoint now"],
  ["evaluate", "check-square-o", "Evaluate", "Run the validation data now"],
  ["inspect", "search", "Inspect", "Look at the last batch and the model"],
  ["history", "list", "History", "Show the run's journal"],
];

function render({ model, el }) {
  const row = element("div", "jepa-button-row");
  el.append(row);
  const press = (name) => model.send({ button: name, n: count.value || "1" });
  const count = field("jepa-step-number", "Number of steps", () => buttons.step.disabled || press("step"));
  count.placeholder = "1";
  count.size = 4;
  count.title = "How many steps Step does";
  const buttons = {};
  for (const [name, icon, text, title] of BUTTONS) {
    buttons[name] = button(`jepa-${name}`, icon, text, title, () => press(name));
    row.append(buttons[name]);
    if (name === "step") row.append(count);
  }
  let left = "start"; // what had the focus and could not keep it
  const keepFocus = (name) => {
    const next = [left, "resume", "pause", "start"].find((other) => !buttons[other].disabled);
    if (next) buttons[next].focus({ preventScroll: true });
    left = name;
  };
  const titles = Object.fromEntries(BUTTONS.map(([name, , , title]) => [name, title]));
  return follow(model, el, ["enabled", "unavailable"], () => {
    const enabled = model.get("enabled");
    const unavailable = model.get("unavailable");
    const focused = BUTTONS.map(([name]) => name).find((name) => buttons[name] === document.activeElement);
    for (const [name, made] of Object.entries(buttons)) {
      made.disabled = !enabled.includes(name);
      made.title = unavailable[name] ? `Not here: ${unavailable[name]}` : titles[name];
    }
    if (focused && buttons[focused].disabled) keepFocus(focused);
  });
}

export default { render };
