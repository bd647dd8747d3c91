const PANELS = ["loss", "learning rate", "EMA momentum", "embedding std", "effective rank", "gradient norm"];
const TRAINING = "#3B8FC7";
const VALIDATION = "#D55E00";
const COMMAND = "#CC79A7";

function unpack(bytes) {
  if (!bytes || bytes.byteLength === 0) return { curves: [], marks: [], uid: "empty" };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerLength = view.getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(bytes.buffer, bytes.byteOffset + 4, headerLength));
  const header = JSON.parse(text);
  let offset = 4 + headerLength;
  for (const curve of header.curves) {
    curve.x = Array.from({ length: curve.length }, (_, i) => view.getUint32(offset + 4 * i, true));
    offset += 4 * curve.length;
    curve.y = Array.from({ length: curve.length }, (_, i) => view.getFloat32(offset + 4 * i, true));
    offset += 4 * curve.length;
  }
  return header;
}

function axisKey(panel) {
  return panel === 0 ? "" : String(panel + 1);
}

function figure(snapshot, width) {
  const columns = width < 700 ? 2 : 3;
  const present = new Set(snapshot.curves.map((curve) => curve.panel));
  const panels = [...PANELS.keys()].filter((panel) => present.size === 0 || present.has(panel));
  const rows = Math.ceil(panels.length / columns);
  const layout = {
    height: 180 * rows + 40,
    width,
    margin: { l: 48, r: 16, t: 24, b: 42 },
    showlegend: false,
    annotations: [],
    shapes: [],
    uirevision: snapshot.uid,
  };
  const gap = { x: Math.min(62 / (width - 64), 0.3), y: 0.3 / rows };
  const size = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
  panels.forEach((panel, place) => {
    const column = place % columns;
    const row = Math.floor(place / columns);
    const key = axisKey(panel);
    const left = column * (size.x + gap.x);
    const top = 1 - row * (size.y + gap.y);
    layout[`xaxis${key}`] = {
      domain: [left, left + size.x],
      anchor: `y${key}`,
      rangemode: "tozero",
      nticks: columns === 2 ? 4 : 6,
      title: place + columns >= panels.length ? { text: "step", standoff: 4 } : undefined,
    };
    layout[`yaxis${key}`] = {
      domain: [top - size.y, top], anchor: `x${key}`, nticks: 5, exponentformat: "power", automargin: true,
    };
    const validated = panel === 0 && snapshot.curves.some((curve) => curve.name === "val_loss");
    const text = validated ? `${PANELS[panel]}, <span style="color:${VALIDATION}">validation</span>` : PANELS[panel];
    layout.annotations.push({
      text, x: left, y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false,
      font: { size: 12 },
    });
  });
  const data = snapshot.curves.map((curve) => {
    const key = axisKey(curve.panel);
    return {
      type: "scatter",
      mode: curve.x.length < 3 ? "lines+markers" : "lines",
      name: curve.name,
      x: curve.x,
      y: curve.y,
      xaxis: `x${key}`,
      yaxis: `y${key}`,
      line: { color: curve.name.startsWith("val_") ? VALIDATION : TRAINING, width: 1.6 },
      hovertemplate: "step %{x}<br>%{y:.5g}<extra>" + curve.name + "</extra>",
    };
  });
  const loss = snapshot.curves.find((curve) => curve.panel === 0);
  if (snapshot.marks.length && loss) {
    const level = Math.max(...loss.y);
    data.push({
      type: "scatter",
      mode: "markers",
      name: "commands",
      x: snapshot.marks.map((mark) => mark.step),
      y: snapshot.marks.map(() => level),
      text: snapshot.marks.map((mark) => mark.text),
      marker: { symbol: "triangle-down", size: 9, color: COMMAND },
      hovertemplate: "step %{x}<br>%{text}<extra></extra>",
    });
    for (const mark of snapshot.marks) {
      for (const key of ["", "2"].filter((name) => layout[`xaxis${name}`])) {
        layout.shapes.push({
          type: "line", x0: mark.step, x1: mark.step, xref: `x${key}`, y0: 0, y1: 1, yref: `y${key} domain`,
          line: { color: COMMAND, width: 1, dash: "dot" },
        });
      }
    }
  }
  return { data, layout };
}

async function render({ model, el }) {
  el.classList.add("jepa-live-plot");
  return attachDrawing(model, el, "snapshot", async (Plotly, chart) => {
    const width = Math.max(el.clientWidth || 0, 320);
    const { data, layout } = figure(unpack(model.get("snapshot")), width);
    await Plotly.react(chart, data, themed(el, layout), { displaylogo: false, responsive: false });
  });
}

export default { render };
