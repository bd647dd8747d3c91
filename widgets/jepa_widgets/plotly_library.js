// Load plotly.js from the library model, once a page.
function loadPlotly(model) {
  globalThis.__jepaPlotly ??= (async () => {
    const id = model.get("library").slice("IPY_MODEL_".length);
    const library = await model.widget_manager.get_model(id);
    const packed = new Blob([library.get("source")]).stream();
    const script = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
    const module = { exports: {} };
    new Function("module", "exports", "define", script)(module, module.exports, undefined);
    return module.exports;
  })();
  return globalThis.__jepaPlotly;
}

function themed(element, layout) {
  const style = getComputedStyle(element);
  const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  const text = read("--jp-ui-font-color1", "#222");
  const grid = read("--jp-border-color2", "#ddd");
  const axes = {};
  for (const key of Object.keys(layout)) {
    if (/^[xy]axis/.test(key)) axes[key] = { ...layout[key], gridcolor: grid, zeroline: false, linecolor: grid };
  }
  return {
    ...layout,
    ...axes,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { ...layout.font, color: text, size: 11 },
    hoverlabel: { namelength: -1 },
  };
}

// Draw when the model changes, when the size or the theme changes, and when the element hears "jepa-redraw"; show errors
// instead of hiding them. What comes while a drawing is made is drawn once after it.
async function attachDrawing(model, el, traits, draw) {
  const chart = document.createElement("div");
  const trouble = document.createElement("div");
  trouble.className = "jepa-widget-error";
  trouble.hidden = true;
  el.append(chart, trouble);
  const once = async () => {
    try {
      await draw(await loadPlotly(model), chart);
      trouble.hidden = true;
    } catch (error) {
      trouble.textContent = `This chart cannot be drawn: ${error.message}`;
      trouble.hidden = false;
    }
  };
  let drawing = false;
  let again = false;
  const redraw = async () => {
    again = true;
    if (drawing) return;
    drawing = true;
    while (again) {
      again = false;
      await once();
    }
    drawing = false;
  };
  const changes = [traits].flat().map((trait) => `change:${trait}`).join(" ");
  model.on(changes, redraw);
  el.addEventListener("jepa-redraw", redraw);
  const size = new ResizeObserver(redraw);
  size.observe(el);
  const theme = new MutationObserver(redraw);
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"] });
  await redraw();
  return () => {
    model.off(changes, redraw);
    el.removeEventListener("jepa-redraw", redraw);
    size.disconnect();
    theme.disconnect();
    globalThis.__jepaPlotly?.then((Plotly) => Plotly.purge(chart));
  };
}
