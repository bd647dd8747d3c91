const MODES = [
  ["scale", "rescale", "The rest of its schedule is rescaled"],
  ["hold", "hold", "It stays there until the end"],
  ["schedule", "schedule", "It goes from its present value to the new one, which it reaches with the last step"],
];

function parameter(model, row) {
  const line = element("tr", `jepa-parameter-${row.name}`);
  const choice = element("select", "jepa-field jepa-mode");
  choice.setAttribute("aria-label", `How ${row.label} goes on`);
  for (const [mode, text, title] of MODES) {
    const option = new Option(text, mode);
    option.title = title;
    choice.append(option);
  }
  const apply = () => {
    if (!confirm.disabled) model.send({ name: row.name, value: input.value, mode: choice.value });
  };
  const input = field(`jepa-${row.name.replaceAll("_", "-")}`, `New ${row.label}`, apply);
  input.size = 8;
  const title = `Use this ${row.label} from the next step on`;
  const confirm = button(`jepa-apply jepa-apply-${row.name.replaceAll("_", "-")}`, "check", "Apply", title, apply);
  const present = element("td", "jepa-present");
  const cells = [element("th", "", row.label), present];
  for (const content of [input, choice, confirm]) {
    const cell = element("td", "");
    cell.append(content);
    cells.push(cell);
  }
  cells.push(element("td", "jepa-range", row.unit ? `${row.range}, ${row.unit}` : row.range));
  line.append(...cells);
  return { line, name: row.name, present, confirm };
}

function render({ model, el }) {
  const table = element("table", "");
  el.append(table);
  let shown = "";
  let parameters = [];
  return follow(model, el, ["rows", "values", "enabled"], () => {
    const rows = JSON.stringify(model.get("rows"));
    if (rows !== shown) {
      shown = rows;
      parameters = model.get("rows").map((row) => parameter(model, row));
      table.replaceChildren(...parameters.map(({ line }) => line));
    }
    for (const { name, present, confirm } of parameters) {
      present.textContent = model.get("values")[name] ?? "";
      confirm.disabled = !model.get("enabled");
    }
  });
}

export default { render };
