function described(file) {
  const step = /^step-0*(\d+)\./.exec(file);
  if (step) return `step ${step[1]}`;
  return { best: "the best", initial: "the beginning" }[file.split(".")[0]] ?? file;
}

function render({ model, el }) {
  const details = element("details", "");
  const heading = element("summary", "");
  const name = field("jepa-fork-name", "Name of the fork", () => {});
  const label = element("label", "", "name of a fork ");
  label.append(name);
  const rows = element("div", "jepa-rows");
  const table = element("table", "");
  rows.append(table);
  details.append(heading, label, rows);
  el.append(details);
  let shown = "";
  let buttons = [];
  const line = (file) => {
    const row = element("tr", "");
    const back = () => model.send({ action: "rewind", file });
    const branch = () => model.send({ action: "fork", file, name: name.value });
    const made = [
      button("jepa-rewind", "undo", "Rewind", `Go back to ${file} and on from there`, back),
      button("jepa-fork", "code-fork", "Fork", `Go on from ${file} in a new run folder`, branch),
    ];
    buttons.push(...made);
    const title = element("th", "", described(file));
    title.title = file;
    row.append(title);
    for (const one of made) {
      const cell = element("td", "");
      cell.append(one);
      row.append(cell);
    }
    return row;
  };
  return follow(model, el, ["files", "enabled"], () => {
    const files = model.get("files");
    heading.textContent = `Checkpoints (${files.length})`;
    if (JSON.stringify(files) !== shown) {
      shown = JSON.stringify(files);
      buttons = [];
      table.replaceChildren(...files.map(line));
    }
    for (const one of buttons) one.disabled = !model.get("enabled");
  });
}

export default { render };
