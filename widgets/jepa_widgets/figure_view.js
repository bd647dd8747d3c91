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

async function render({ model, el }) {
  el.classList.add("jepa-figure-view");
  return attachDrawing(model, el, "figure", async (Plotly, chart) => {
    const text = model.get("figure");
    if (!text) {
      Plotly.purge(chart);
      return;
    }
    const { data, layout } = JSON.parse(text);
    const size = fitted(layout, Math.max(el.clientWidth || 0, 320));
    await Plotly.react(chart, data, themed(el, { ...layout, ...size }), { displaylogo: false });
  });
}

export default { render };
