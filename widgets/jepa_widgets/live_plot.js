const GROUPS = ["overview", "terms", "diagnostics", "optimisation", "other"];
const TITLES = {
  overview: "Overview", terms: "Loss terms", diagnostics: "Diagnostics", optimisation: "Optimisation",
  other: "Other",
};
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const COMMAND = "#CC79A7";
const EMPTY = { uid: "empty", groups: [], panels: [], runs: [], metrics: [], traces: [], curves: [], marks: [], clocks: [] };
const SIZE = { panel: 132, title: 24, axis: 44, group: 24, left: 50, right: 14, gap: 62 };

function unpack(bytes) {
  if (!bytes || bytes.byteLength === 0) return { ...EMPTY };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(bytes.buffer, bytes.byteOffset + 4, length));
  const header = JSON.parse(text);
  let offset = 4 + length;
  const column = (count, kind) => {
    const numbers = Array.from({ length: count }, (_, i) => view[kind](offset + 4 * i, true));
    offset += 4 * count;
    return numbers;
  };
  header.clocks = header.clocks.map(([count, since]) => ({
    since, steps: column(count, "getUint32"), epochs: column(count, "getFloat32"), seconds: column(count, "getFloat32"),
  }));
  header.curves = header.curves.map(([trace, points, means, old]) => {
    const [panel, metric, run] = header.traces[trace];
    return {
      panel, run, metric: header.metrics[metric], old: Boolean(old),
      x: column(points, "getUint32"), y: column(points, "getFloat32"),
      meanX: column(means, "getUint32"), meanY: column(means, "getFloat32"),
    };
  });
  return header;
}

// Epoch and time of a step, from those of its neighbours.
function moment(clock, step) {
  const { steps, epochs, seconds, since } = clock ?? { steps: [] };
  if (!steps.length || step < steps[0] || step > steps.at(-1)) return "";
  let low = 0;
  let high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  const share = high === low ? 0 : (step - steps[low]) / (steps[high] - steps[low]);
  const at = (column) => column[low] + share * (column[high] - column[low]);
  const date = new Date(1000 * (since + at(seconds)));
  const two = (number) => String(number).padStart(2, "0");
  const clockTime = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `<br>epoch ${Math.floor(at(epochs) + 1e-6)}, ${date.getMonth() + 1}/${date.getDate()} ${clockTime}`;
}

// Exponential smoothing with a time constant in steps; early values do not lean towards zero.
function smoothed(x, y, constant) {
  let sum = 0;
  let weight = 0;
  return y.map((value, i) => {
    const decay = i ? Math.exp((x[i - 1] - x[i]) / constant) : 0;
    sum = sum * decay + value * (1 - decay || 1);
    weight = weight * decay + (1 - decay || 1);
    return sum / weight;
  });
}

// Put the points that a zoom was answered with in the place of the coarse ones.
function refine(curve, detail) {
  const fine = detail?.curves.find(
    (other) => !curve.old && other.metric === curve.metric && detail.runs[other.run][0] === curve.runName
  );
  if (!fine?.x.length) return curve;
  const splice = (xs, ys, newX, newY) => {
    const before = xs.findIndex((x) => x >= fine.x[0]);
    const head = before < 0 ? xs.length : before;
    const after = xs.findIndex((x) => x > fine.x.at(-1));
    const tail = after < 0 ? xs.length : after;
    return [[...xs.slice(0, head), ...newX, ...xs.slice(tail)], [...ys.slice(0, head), ...newY, ...ys.slice(tail)]];
  };
  const [x, y] = splice(curve.x, curve.y, fine.x, fine.y);
  const coarse = curve.meanX.length ? [curve.meanX, curve.meanY] : [curve.x, curve.y];
  const means = fine.meanX.length ? [fine.meanX, fine.meanY] : [fine.x, fine.y];
  const [meanX, meanY] = splice(...coarse, ...means);
  return { ...curve, x, y, meanX, meanY };
}

// One mark for all that was done at a step: of marks on top of each other only one could be read.
function joined(marks) {
  const texts = new Map();
  for (const { step, text } of marks) texts.set(step, texts.has(step) ? `${texts.get(step)}<br>${text}` : text);
  return [...texts].map(([step, text]) => ({ step, text }));
}

const axisKey = (place) => (place === 0 ? "" : String(place + 1));

// Where each panel and each title of a group lies, in pixels from the top.
function arrange(panels, width) {
  const columns = Math.max(1, Math.min(width < 700 ? 2 : 3, panels.length));
  const wide = (width - SIZE.left - SIZE.right - SIZE.gap * (columns - 1)) / columns;
  const places = [];
  const titles = [];
  let top = 0;
  const groups = [...new Set(panels.map(([, group]) => group))];
  for (const group of groups) {
    if (groups.length > 1) {
      titles.push({ text: TITLES[GROUPS[group]], top });
      top += SIZE.group;
    }
    const members = panels.flatMap(([, other], number) => (other === group ? [number] : []));
    members.forEach((panel, number) => {
      const row = Math.floor(number / columns);
      places[panel] = {
        left: SIZE.left + (number % columns) * (wide + SIZE.gap), width: wide,
        top: top + row * (SIZE.title + SIZE.panel + SIZE.axis) + SIZE.title,
        last: number + columns >= members.length,
      };
    });
    top += Math.ceil(members.length / columns) * (SIZE.title + SIZE.panel + SIZE.axis);
  }
  return { places, titles, height: Math.max(top, 40) };
}

function figure(snapshot, detail, settings, width, ink) {
  const panels = snapshot.panels.filter(([, group]) => !settings.folded.includes(GROUPS[group]));
  const { places, titles, height } = arrange(panels, width);
  const layout = {
    width, height, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, annotations: [], shapes: [],
    uirevision: snapshot.uid, hovermode: "closest",
  };
  const note = (text, left, top, size) => layout.annotations.push({
    text, x: left / width, y: 1 - top / height, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom",
    showarrow: false, font: { size },
  });
  const several = snapshot.runs.length > 1;
  const shade = (run) => {
    const colour = COLOURS[snapshot.runs[run][1] % COLOURS.length];
    return colour === "#000000" ? ink : colour;
  };
  titles.forEach(({ text, top }) => note(`<b>${text}</b>`, 4, top + 20, 12));
  panels.forEach(([title, group], place) => {
    const key = axisKey(place);
    const { left, top, width: wide, last } = places[place];
    const range = { domain: [left / width, (left + wide) / width], anchor: `y${key}` };
    layout[`xaxis${key}`] = {
      ...range, matches: place ? "x" : undefined, rangemode: "tozero", nticks: Math.max(3, Math.floor(wide / 60)),
      title: last ? { text: "step", standoff: 4 } : undefined, uirevision: snapshot.uid,
    };
    layout[`yaxis${key}`] = {
      domain: [1 - (top + SIZE.panel) / height, 1 - top / height], anchor: `x${key}`, nticks: 5,
      exponentformat: "power", type: settings.log_axis ? "log" : "linear", minorloglabels: "none",
      uirevision: `${snapshot.uid} ${settings.log_axis} ${title} ${group}`,
    };
    const validated = snapshot.curves.some(
      (curve) => snapshot.panels[curve.panel][0] === title && curve.metric.startsWith("val_")
    );
    const suffix = several ? ", validation dotted" : `, <span style="color:${COLOURS[1]}">validation</span>`;
    note(validated ? title + suffix : title, left, top - 2, 12);
  });

  const data = [];
  const spans = {};
  for (const raw of snapshot.curves) {
    const place = panels.findIndex(([title, group]) => {
      const [otherTitle, otherGroup] = snapshot.panels[raw.panel];
      return title === otherTitle && group === otherGroup;
    });
    if (place < 0) continue;
    const [runName, number] = snapshot.runs[raw.run];
    const curve = refine({ ...raw, runName }, detail);
    const validation = curve.metric.startsWith("val_");
    const shown = runName === "this run" ? curve.metric : `${curve.metric}, ${runName}`;
    const dash = several && validation ? "dot" : DASHES[Math.floor(number / COLOURS.length) % DASHES.length];
    const color = several ? shade(raw.run) : validation ? COLOURS[1] : settings.dark ? "#56B4E9" : COLOURS[0];
    const axes = { type: "scatter", xaxis: `x${axisKey(place)}`, yaxis: `y${axisKey(place)}` };
    const smooth = settings.smoothing > 0 && !curve.old;
    const info = { hovertemplate: `step %{x}%{customdata}<br>%{y:.5g}<extra>${shown}</extra>` };
    data.push({
      ...axes, ...info, name: curve.old ? `${shown}, given up` : shown,
      mode: curve.x.length < 3 ? "lines+markers" : "lines", x: curve.x, y: curve.y,
      customdata: curve.x.map((step) => (curve.old ? "<br>given up" : moment(snapshot.clocks[raw.run], step))),
      line: { color, width: curve.old ? 1.2 : 1.6, dash: curve.old ? "dot" : dash },
      opacity: curve.old ? 0.45 : smooth ? 0.3 : 1,
    });
    if (smooth) {
      const [x, y] = curve.meanX.length ? [curve.meanX, curve.meanY] : [curve.x, curve.y];
      const range = settings.zoom ?? [0, x.at(-1)];
      data.push({
        ...axes, name: `${shown}, smoothed`, mode: "lines", x, y: smoothed(x, y, settings.smoothing * (range[1] - range[0])),
        customdata: x.map((step) => moment(snapshot.clocks[raw.run], step)), ...info, line: { color, width: 2, dash },
      });
    }
    if (place === 0) spans.top = curve.y.reduce((top, value) => Math.max(top, value), spans.top ?? -Infinity);
  }
  const marks = joined(snapshot.marks);
  if (marks.length && spans.top !== undefined) {
    data.push({
      type: "scatter", mode: "markers", name: "commands",
      x: marks.map((mark) => mark.step), y: marks.map(() => spans.top),
      text: marks.map((mark) => mark.text + moment(snapshot.clocks[0], mark.step)),
      marker: { symbol: "triangle-down", size: 9, color: COMMAND },
      hovertemplate: "step %{x}<br>%{text}<extra></extra>",
    });
    for (const mark of marks) {
      for (const key of panels.slice(0, 2).map((_, place) => axisKey(place))) {
        layout.shapes.push({
          type: "line", x0: mark.step, x1: mark.step, xref: `x${key}`, y0: 0, y1: 1, yref: `y${key} domain`,
          line: { color: COMMAND, width: 1, dash: "dot" },
        });
      }
    }
  }
  return { data, layout };
}

// The settings of the model, and what this page has asked for while the kernel has not answered.
class Settings {
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.asked = {};
  }

  get(name) {
    if (name in this.asked && same(this.asked[name], this.model.get(name))) delete this.asked[name];
    return name in this.asked ? this.asked[name] : this.model.get(name);
  }

  set(name, value) {
    this.asked[name] = value;
    this.model.send({ event: "set", name, value });
    this.changed();
  }
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Native controls, so that keys reach them; the notebook must not take these keys for its commands.
function makeControls(settings, resetZoom) {
  const groups = element("span", { className: "jepa-plot-groups", role: "group", ariaLabel: "Groups of panels" });
  const log = element("input", { type: "checkbox", className: "jepa-log-axis" });
  const slider = element("input", { type: "range", className: "jepa-smoothing", min: 0, max: 0.2, step: 0.01 });
  const share = element("output", { className: "jepa-smoothing-share" });
  const reset = element("button", { type: "button", className: "jepa-reset-zoom", textContent: "Show all" });
  reset.title = "Leave the zoom, as a double-click in the chart does";
  const legend = element("span", { className: "jepa-plot-legend" });
  const bar = element(
    "div", { className: "jepa-plot-controls" }, groups, element("label", {}, log, " log axis"),
    element("label", {}, "smoothing ", slider, share), reset, legend
  );
  bar.addEventListener("keydown", (event) => event.stopPropagation());
  log.addEventListener("change", () => settings.set("log_axis", log.checked));
  slider.addEventListener("input", () => settings.set("smoothing", Number(slider.value)));
  reset.addEventListener("click", resetZoom);
  return { bar, groups, log, slider, share, reset, legend };
}

function renewControls(controls, settings, snapshot, zoom, ink) {
  controls.log.checked = settings.get("log_axis");
  controls.slider.value = settings.get("smoothing");
  controls.share.textContent = settings.get("smoothing") ? `${Math.round(100 * settings.get("smoothing"))} %` : "off";
  controls.slider.setAttribute("aria-valuetext", `${controls.share.textContent} of the range shown`);
  controls.reset.disabled = !zoom;
  for (const [name, count] of snapshot.groups) {
    let button = controls.groups.querySelector(`[data-group="${name}"]`);
    if (!button) {
      button = element("button", { type: "button", className: "jepa-plot-group" });
      button.dataset.group = name;
      button.addEventListener("click", () => {
        const folded = settings.get("folded");
        settings.set("folded", folded.includes(name) ? folded.filter((one) => one !== name) : [...folded, name]);
      });
      const after = [...controls.groups.children].find(
        (other) => GROUPS.indexOf(other.dataset.group) > GROUPS.indexOf(name)
      );
      controls.groups.insertBefore(button, after ?? null);
    }
    const open = !settings.get("folded").includes(name);
    button.setAttribute("aria-expanded", String(open));
    button.textContent = `${open ? "\u25be" : "\u25b8"} ${TITLES[name]} (${count})`;
    button.title = open ? "Hide these panels" : "Show these panels";
  }
  const entries = snapshot.runs.map(([name, number]) => {
    const colour = COLOURS[number % COLOURS.length] === "#000000" ? ink : COLOURS[number % COLOURS.length];
    const line = ["solid", "dashed", "dotted"][Math.floor(number / COLOURS.length) % 3];
    const key = element("i", {});
    key.style.borderTop = `3px ${line} ${colour}`;
    return element("span", {}, key, name);
  });
  const told = snapshot.left_out ? [`${snapshot.left_out} more curves: hide a group to see them`] : [];
  controls.legend.replaceChildren(...(entries.length > 1 ? entries : []), ...told);
}

// What the user has zoomed into, from an event of plotly: a range of steps, null for all, undefined for no news.
function zoomOf(change) {
  let range;
  for (const [key, value] of Object.entries(change)) {
    if (/^xaxis\d*\.autorange$/.test(key) && value) return null;
    if (/^xaxis\d*\.range$/.test(key)) range = [...value];
    if (/^xaxis\d*\.range\[0\]$/.test(key)) range = [value, change[key.replace("[0]", "[1]")]];
  }
  return range;
}

async function render({ model, el }) {
  el.classList.add("jepa-live-plot");
  let zoom = null;
  let detail = null;
  let request = "";
  let waiting = 0;
  let drawn = null;
  const redraw = () => el.dispatchEvent(new Event("jepa-redraw"));
  const settings = new Settings(model, redraw);
  const resetZoom = () => {
    if (!drawn) return;
    const axes = Object.keys(drawn.chart.layout).filter((key) => /^[xy]axis\d*$/.test(key));
    drawn.Plotly.relayout(drawn.chart, Object.fromEntries(axes.map((key) => [`${key}.autorange`, true])));
  };
  const controls = makeControls(settings, resetZoom);
  const trouble = element("div", { className: "jepa-widget-error", hidden: true });
  el.append(controls.bar, trouble);

  const ask = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (!zoom) return;
      request = `${Date.now()}-${Math.random()}`;
      model.send({ event: "range", id: request, from: zoom[0], to: zoom[1] });
    }, 120);
  };
  const zoomed = (change) => {
    const range = zoomOf(change);
    if (range === undefined) return;
    zoom = range;
    detail = null;
    if (zoom) ask();
    redraw();
  };
  const receive = (message, buffers) => {
    if (message.event === "error") {
      trouble.textContent = message.text;
      trouble.hidden = false;
    } else if (message.event === "range" && message.id === request && zoom) {
      const buffer = buffers[0];
      detail = unpack(buffer instanceof DataView ? buffer : new DataView(buffer.buffer ?? buffer));
      redraw();
    }
  };
  const renewDetail = () => {
    if (zoom && detail) ask(); // new points may have come, another group may have been opened
  };
  model.on("msg:custom", receive);
  model.on("change:snapshot", renewDetail);

  const stop = await attachDrawing(model, el, ["snapshot", "folded", "smoothing", "log_axis"], async (Plotly, chart) => {
    const snapshot = unpack(model.get("snapshot"));
    const style = getComputedStyle(el);
    const ink = style.getPropertyValue("--jp-ui-font-color1").trim() || "#222";
    const dark = document.body.dataset.jpThemeLight === "false";
    const chosen = {
      folded: settings.get("folded"), smoothing: settings.get("smoothing"), log_axis: settings.get("log_axis"), zoom, dark,
    };
    renewControls(controls, settings, snapshot, zoom, ink);
    const width = Math.max(el.clientWidth || 0, 320);
    const { data, layout } = figure(snapshot, detail, chosen, width, ink);
    await Plotly.react(chart, data, themed(el, layout), { displaylogo: false, responsive: false });
    if (!drawn) {
      drawn = { Plotly, chart };
      chart.on("plotly_relayout", zoomed);
    }
  });
  return () => {
    clearTimeout(waiting);
    model.off("msg:custom", receive);
    model.off("change:snapshot", renewDetail);
    stop();
  };
}

export default { render };
