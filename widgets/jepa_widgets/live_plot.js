const PANELS = ["loss", "learning rate", "EMA momentum", "embedding std", "effective rank"];

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

function figure(snapshot, width) {
  const columns = width < 700 ? 2 : 3;
  const rows = Math.ceil(PANELS.length / columns);
  const layout = {
    height: 190 * rows + 30,
    width,
    margin: { l: 52, r: 16, t: 28, b: 34 },
    showlegend: false,
    annotations: [],
    shapes: [],
    uirevision: snapshot.uid,
  };
  const gap = { x: 0.075, y: 0.3 / rows };
  const size = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
  PANELS.forEach((name, index) => {
    const column = index % columns;
    const row = Math.floor(index / columns);
    const key = index === 0 ? "" : String(index + 1);
    const left = column * (size.x + gap.x);
    const top = 1 - row * (size.y + gap.y);
    layout[`xaxis${key}`] = { domain: [left, left + size.x], anchor: `y${key}`, rangemode: "tozero", nticks: 6 };
    layout[`yaxis${key}`] = { domain: [top - size.y, top], anchor: `x${key}`, nticks: 5, exponentformat: "power" };
    layout.annotations.push({
      text: name, x: left, y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false,
    });
  });
  const data = snapshot.curves.map((curve) => {
    const key = curve.panel === 0 ? "" : String(curve.panel + 1);
    return {
      type: "scatter",
      mode: curve.x.length < 3 ? "lines+markers" : "lines",
      name: curve.name,
      x: curve.x,
      y: curve.y,
      xaxis: `x${key}`,
      yaxis: `y${key}`,
      line: { color: curve.name.startsWith("val_") ? "#D55E00" : "#3B8FC7", width: 1.6 },
      hovertemplate: "step %{x}<br>%{y:.5g}<extra>" + curve.name + "</extra>",
    };
  });
  if (snapshot.marks.length) {
    const loss = snapshot.curves.find((curve) => curve.panel === 0);
    const level = loss ? Math.max(...loss.y) : 1;
    data.push({
      type: "scatter",
      mode: "markers",
      name: "commands",
      x: snapshot.marks.map((mark) => mark.step),
      y: snapshot.marks.map(() => level),
      text: snapshot.marks.map((mark) => mark.text),
      marker: { symbol: "triangle-down", size: 9, color: "#CC79A7" },
      hovertemplate: "step %{x}<br>%{text}<extra></extra>",
    });
    for (const mark of snapshot.marks) {
      layout.shapes.push({
        type: "line", x0: mark.step, x1: mark.step, xref: "x", y0: 0, y1: 1, yref: "y domain",
        line: { color: "#CC79A7", width: 1, dash: "dot" },
      });
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
