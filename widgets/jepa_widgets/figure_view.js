// The size in which a figure that is wider than the room keeps the shape of what it draws; its margins stay.
function fitted(layout, room) {
  if (!layout.width || layout.width <= room) return { width: layout.width || room };
  const { l = 80, r = 80, t = 100, b = 80 } = layout.margin || {};
  const shrink = (room - l - r) / (layout.width - l - r);
  const size = { width: room, height: (layout.height - t - b) * shrink + t + b };
  const font = { size: Math.max(9, 12 * shrink) };
  for (const key of Object.keys(layout)) {
    if (/^yaxis/.test(key) && layout[key].title) size[key] = { ...layout[key], title: { ...layout[key].title, font } };
  }
  return size;
}

const TABLE_WIDTH = 660; // below it, cells would lose letters: a narrower room is scrolled

// Titles over small pictures must not run into each other.
function titled(layout, room) {
  const smaller = (note) => {
    const size = Math.min(note.font?.size ?? 12, Math.max(8, room / 50));
    return { ...note, font: { ...note.font, size } };
  };
  return layout.annotations ? { annotations: layout.annotations.map(smaller) } : {};
}

// A table in the colours of the page.
function inked(el, trace) {
  if (trace.type !== "table") return trace;
  const style = getComputedStyle(el);
  const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  const font = { color: read("--jp-ui-font-color1", "#222") };
  const line = { color: read("--jp-border-color2", "#ddd") };
  const header = { ...trace.header, font, line, fill: { color: read("--jp-layout-color2", "#e8ecf1") } };
  const cells = { ...trace.cells, font, line, fill: { color: read("--jp-layout-color1", "white") } };
  return { ...trace, header, cells };
}

async function render({ model, el }) {
  el.classList.add("jepa-figure-view");
  return attachDrawing(model, el, "figure", async (Plotly, chart) => {
    const text = model.get("figure");
    if (!text) {
      Plotly.purge(chart);
      return;
    }
    const { data, layout } = JSON.parse(text);
    const least = data.some((trace) => trace.type === "table") ? TABLE_WIDTH : 320;
    const room = Math.max(el.clientWidth || 0, least);
    const shown = { ...layout, ...fitted(layout, room), ...titled(layout, room) };
    await Plotly.react(chart, data.map((trace) => inked(el, trace)), themed(el, shown), { displaylogo: false });
  });
}

export default { render };
