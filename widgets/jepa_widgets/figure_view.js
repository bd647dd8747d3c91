async function render({ model, el }) {
  el.classList.add("jepa-figure-view");
  return attachDrawing(model, el, "figure", async (Plotly, chart) => {
    const text = model.get("figure");
    if (!text) {
      Plotly.purge(chart);
      return;
    }
    const { data, layout } = JSON.parse(text);
    const width = Math.min(layout.width || Infinity, Math.max(el.clientWidth || 0, 320));
    await Plotly.react(chart, data, themed(el, { ...layout, width }), { displaylogo: false });
  });
}

export default { render };
