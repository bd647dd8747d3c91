const MODES = {
  scale: ["rescale", "The rest of its schedule is rescaled"],
  hold: ["hold", "It stays there until the end"],
  schedule: ["schedule", "It goes from its present value to the new one, which it reaches with the last step"],
};

function parameter(model, row) {
  const line = element("tr", `jepa-parameter-${row.name}`);
  const choice = element("select", "jepa-field jepa-mode");
  choice.setAttribute("aria-label", `How ${row.label} goes on`);
  choice.setAttribute("data-lm-suppress-shortcuts", "true"); // else the notebook takes letters for its commands
  for (const mode of row.modes) {
    const [text, title] = MODES[mode];
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
  const course = element("div", "jepa-course");
  const more = element("td", "jepa-range");
  more.append(course, row.unit ? `${row.range}, ${row.unit}` : row.range);
  cells.push(more);
  line.append(...cells);
  return { line, name: row.name, present, course, input, confirm };
}

function render({ model, el }) {
  const table = element("table", "");
  const ranges = element("details", "jepa-ranges");
  const heading = element("summary", "");
  const folded = element("table", "");
  ranges.append(heading, folded);
  el.append(table, ranges);
  let shown = "";
  let parameters = [];
  return follow(model, el, ["rows", "values", "courses", "enabled"], () => {
    const rows = JSON.stringify(model.get("rows"));
    if (rows !== shown) {
      shown = rows;
      parameters = model.get("rows").map((row) => ({ ...parameter(model, row), folded: row.folded }));
      const [open, away] = [false, true].map((is) => parameters.filter(({ folded }) => folded === is));
      table.replaceChildren(...open.map(({ line }) => line));
      folded.replaceChildren(...away.map(({ line }) => line));
      heading.textContent = `How views are drawn (${away.length})`;
      ranges.hidden = away.length === 0;
    }
    for (const { name, present, course, input, confirm } of parameters) {
      present.textContent = model.get("values")[name] ?? "";
      course.textContent = (model.get("courses")[name] ?? "").replace(/^as planned$/, "");
      input.disabled = confirm.disabled = !model.get("enabled");
    }
  });
}

export default { render };
