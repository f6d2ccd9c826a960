"use strict";
// Interactivity: the plot, its filters, the selected trial, sortable tables. Study data is only ever inserted as text.
const data = JSON.parse(document.getElementById("data").textContent);
const trials = data.ids.map((id, i) => ({ id, i }));
const cell = (trial, name) => data.columns[name][trial.i];
const find = (id) => document.getElementById(id);
const hidden = Object.fromEntries(Object.keys(data.levels).map((axis) => [axis, new Set()]));
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B2912F"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "x"];
const MAX_ROWS = 500; // of the table of trials
const MAX_BESIDE = 4; // trials side by side
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const order = { name: null, rising: true }; // of the list of trials
let chosen = []; // ids of the opened trials

function make(tag, text, parent) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// A cell's value as displayed text.
function format(name, value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (data.percents.includes(name)) return (100 * value).toFixed(1);
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(4)));
}

// Plotly interprets some HTML tags in its labels.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shown = () => trials.filter((t) => Object.entries(hidden).every(([axis, off]) => !off.has(cell(t, axis))));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What the plot shows: the trade-off with its front, or any other column against another.
const isTradeOff = (x, y) => y.name === "test_accuracy" && !x.slice;
const across = (trial, x) => (typeof cell(trial, x.name) === "number" ? cell(trial, x.name) / x.scale : String(cell(trial, x.name)));
const up = (trial, y) => (y.name === "test_accuracy" ? shownAccuracy(trial) : cell(trial, y.name)) / y.scale;

function hover(trial, x, y) {
  const wide = cell(trial, "half_width");
  const spread = cell(trial, "place") === "front" && wide !== null ? ` ± ${(100 * wide).toFixed(2)}` : "";
  const names = data.listed.filter((name) => data.recipe.includes(name) && cell(trial, name) !== null);
  const lines = [`<b>test accuracy ${(100 * shownAccuracy(trial)).toFixed(2)}${spread} %</b>`,
    ...[x, y].filter((axis) => !axis.slice && axis.name !== "test_accuracy").map((axis) =>
      `${escaped(axis.label)}: ${Number((cell(trial, axis.name) / axis.scale).toPrecision(4))}`), `trial ${escaped(trial.id)}`,
    ...names.map((name) => `${data.labels[name]}: ${escaped(format(name, cell(trial, name)))}`)];
  return lines.join("<br>");
}

const isFront = (trial) => cell(trial, "place") === "front";
const shownAccuracy = (trial) => cell(trial, isFront(trial) ? "mean" : "test_accuracy");
const kinds = () => data.levels.granularity || [...new Set(data.columns.granularity)];

// The levels of a column that colours the points, or null if it is a range of numbers.
function levelsOf(name) {
  if (data.levels[name]) return data.levels[name];
  const found = [...new Set(data.columns[name])].filter((value) => value !== null);
  return found.length > COLOURS.length && found.every((value) => typeof value === "number") ? null : found;
}

function points(own, x, y, front) {
  const errors = (high, low) => ({ type: "data", symmetric: false, array: high, arrayminus: low, thickness: 1, width: 3 });
  const half = own.map((t) => 100 * (cell(t, "half_width") || 0));
  const away = (name, sign) => own.map((t) => (cell(t, name) === null ? 0 : sign * (cell(t, name) - cell(t, x.name)) / x.scale));
  const quartiles = front && x.name === "latency_ms" && data.columns.latency_low_ms;
  return {
    type: "scatter", mode: "markers", showlegend: false, customdata: own.map((t) => t.id),
    text: own.map((t) => hover(t, x, y)),
    hovertemplate: "%{text}<extra></extra>",
    x: own.map((t) => across(t, x)), y: own.map((t) => up(t, y)),
    error_y: { ...errors(half, half), visible: front && isTradeOff(x, y) && half.some((width) => width > 0) },
    ...(quartiles ? { error_x: errors(away("latency_high_ms", 1), away("latency_low_ms", -1)) } : {}),
    marker: { size: front ? 11 : 7, opacity: front ? 1 : dark.matches ? 0.8 : 0.5,
      symbol: own.map((t) => SYMBOLS[kinds().indexOf(cell(t, "granularity")) % SYMBOLS.length] || "circle"),
      line: { color: colour("--ink"), width: front ? 1.5 : 0 } },
  };
}

// What the legend shows belongs to no point: a point has a colour and a shape, which mean two things.
function key(group, title, name, marker) {
  return { type: "scatter", mode: "markers", x: [null], y: [null], name: escaped(name.replace(/_/g, " ")), legendgroup: group,
    legendgrouptitle: { text: escaped(title) }, marker: { size: 9, ...marker } };
}

function traces(rows, x, y, by) {
  const known = rows.filter((t) => cell(t, x.name) !== null && cell(t, y.name) !== null);
  const front = known.filter((t) => isTradeOff(x, y) && isFront(t)).sort((a, b) => cell(a, x.name) - cell(b, x.name));
  const made = [{ type: "scatter", mode: "lines", x: front.map((t) => cell(t, x.name) / x.scale), hoverinfo: "skip",
    y: front.map((t) => 100 * shownAccuracy(t)), showlegend: false, line: { color: colour("--quiet"), width: 1 } }];
  const levels = levelsOf(by);
  [false, true].forEach((best) => {
    const own = known.filter((t) => isFront(t) === best);
    if (!own.length) return;
    const trace = points(own, x, y, best);
    if (levels === null) Object.assign(trace.marker, { color: own.map((t) => cell(t, by)), coloraxis: "coloraxis" });
    else trace.marker.color = own.map((t) => COLOURS[levels.indexOf(cell(t, by)) % COLOURS.length] || colour("--quiet"));
    made.push(trace);
  });
  const name = (axis, level) => format(axis, level);
  (levels || []).forEach((level, n) => made.push(key("colour", data.labels[by], name(by, level),
    { color: COLOURS[n % COLOURS.length] })));
  kinds().forEach((kind, n) => made.push(key("shape", "shape", String(kind),
    { color: colour("--quiet"), symbol: SYMBOLS[n % SYMBOLS.length] })));
  made.push(key("place", "on the front", "chosen on validation", { color: "rgba(0,0,0,0)", size: 11,
    line: { color: colour("--ink"), width: 1.5 } }));
  return made;
}

function layout(xTitle, yTitle, more) {
  const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line") };
  const small = narrow.matches;
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: small ? 11 : 12 },
    margin: small ? { l: 42, r: 8, t: 10, b: 40 } : { l: 60, r: 20, t: 20, b: 50 }, hoverlabel: { align: "left" },
    legend: { orientation: small ? "h" : "v", y: small ? -0.2 : 1, itemclick: false, itemdoubleclick: false },
    xaxis: { ...axis, title: { text: xTitle } }, yaxis: { ...axis, title: { text: yTitle } }, ...more };
}

const plotlyConfig = { displaylogo: false, responsive: true,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

function draw() {
  const x = data.abscissae[Number(find("abscissa").value)];
  const y = data.ordinates[Number(find("ordinate").value)];
  const by = find("colour").value;
  const lines = data.baseline === null || y.name !== "test_accuracy" ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 100 * data.baseline,
    y1: 100 * data.baseline, line: { color: colour("--quiet"), dash: "dash", width: 1 } }];
  const notes = lines.map((line) => ({ xref: "paper", x: 0, y: line.y1, xanchor: "left", yanchor: "bottom", showarrow: false,
    text: `baseline ${line.y1.toFixed(1)} %`, font: { color: colour("--quiet"), size: 11 } }));
  const knee = isTradeOff(x, y) && shown().find((t) => t.id === data.knee && cell(t, x.name) !== null);
  if (knee) notes.push({ x: cell(knee, x.name) / x.scale, y: 100 * shownAccuracy(knee), text: "knee", showarrow: true,
    arrowhead: 0, ax: 18, ay: 26, arrowcolor: colour("--quiet"), font: { color: colour("--quiet"), size: 11 } });
  const scale = { colorscale: "Viridis", colorbar: { title: { text: escaped(data.labels[by]) }, thickness: 12, x: 1.22 } };
  const chart = layout(x.label, y.label, { shapes: lines, annotations: notes, coloraxis: scale });
  const words = trials.some((t) => typeof cell(t, x.name) === "string" || typeof cell(t, x.name) === "boolean");
  Object.assign(chart.xaxis, words ? { type: "category", categoryarray: levelsOf(x.name).map(String) }
    : { type: x.log ? "log" : "linear" });
  Plotly.react("plot", traces(shown(), x, y, by), chart, plotlyConfig);
  list();
  remember();
}

function compared(name) {
  const value = (trial) => (name === "trial_id" ? trial.id : cell(trial, name));
  return (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === null || second === null) return (first === null) - (second === null); // missing values stay last
    const difference = typeof first === "number" ? first - second : String(first).localeCompare(String(second));
    return order.rising ? difference : -difference;
  };
}

function list() {
  const body = find("trials").querySelector("tbody");
  const rows = shown();
  if (order.name !== null) rows.sort(compared(order.name));
  body.replaceChildren(...rows.slice(0, MAX_ROWS).map((trial) => {
    const row = document.createElement("tr");
    row.dataset.trial = trial.id;
    row.tabIndex = 0;
    data.listed.forEach((name) => {
      const value = name === "trial_id" ? trial.id : cell(trial, name);
      make("td", format(name, value), row).className = typeof value === "number" ? "number" : "";
    });
    return row;
  }));
  find("trials").querySelectorAll("thead th").forEach((head, column) => {
    const rising = order.rising ? "ascending" : "descending";
    head.setAttribute("aria-sort", data.listed[column] === order.name ? rising : "none");
  });
  find("counted").textContent = `${rows.length} of ${trials.length} networks`
    + (rows.length > MAX_ROWS ? `; the first ${MAX_ROWS} are listed, trials.csv has all` : "");
}

function pairs(names, trial, parent) {
  const table = make("dl", undefined, parent);
  names.filter((name) => cell(trial, name) !== null).forEach((name) => {
    make("dt", data.labels[name], table);
    make("dd", format(name, cell(trial, name)), table);
  });
}

// One trial's recipe and measures, or those of several in columns.
function about(opened, panel) {
  const two = make("div", undefined, panel);
  if (opened.length === 1) {
    two.className = "two";
    [data.recipe, data.measures].forEach((names) => pairs(names, opened[0], make("div", undefined, two)));
    return;
  }
  two.className = "wide";
  const table = make("table", undefined, two);
  const head = make("tr", undefined, make("thead", undefined, table));
  ["", ...opened.map((trial) => `trial ${trial.id}`)].forEach((text) => make("th", text, head));
  const body = make("tbody", undefined, table);
  [...data.recipe, ...data.measures].forEach((name) => {
    const values = opened.map((trial) => format(name, cell(trial, name)));
    if (values.every((value) => value === "–")) return;
    const row = make("tr", undefined, body);
    row.className = new Set(values).size > 1 ? "differs" : "";
    [data.labels[name], ...values].forEach((text) => make("td", text, row));
  });
}

// Opens a trial, beside those that are open or in their place.
function open(id, beside) {
  if (!trials.some((t) => t.id === id)) return;
  chosen = [...(beside ? chosen.filter((other) => other !== id).slice(1 - MAX_BESIDE) : []), id];
  show();
  find("trial").scrollIntoView({ block: "nearest" });
  remember();
}

function show() {
  const panel = find("trial");
  const opened = chosen.map((id) => trials.find((t) => t.id === id)).filter(Boolean);
  panel.hidden = !opened.length;
  panel.replaceChildren();
  if (!opened.length) return;
  const trial = opened[opened.length - 1];
  make("h3", opened.length > 1 ? `Trials ${chosen.join(", ")}` : `Trial ${trial.id}`, panel);
  const close = make("button", "Close", panel);
  close.addEventListener("click", () => { chosen = []; show(); remember(); });
  about(opened, panel);
  if (opened.length > 1) make("h3", `Trial ${trial.id}`, panel);
  curve(data.history[trial.id], make("div", undefined, panel));
  layers(data.layers[trial.id], panel);
  const kept = data.kept.includes(trial.id);
  make("p", kept ? "Load its network:" : "Its network was not saved. Run the recipe again:", panel);
  make("pre", kept ? loading(trial.id) : again(trial), panel);
}

// What is open and chosen outlives a reload, as when the page of a running study is made anew.
const place = `study ${window.location.pathname}`;

function remember() {
  const off = Object.fromEntries(Object.entries(hidden).map(([axis, levels]) => [axis, [...levels]]));
  const now = { chosen, order, off, abscissa: find("abscissa").value, ordinate: find("ordinate").value,
    colour: find("colour").value };
  try { window.sessionStorage.setItem(place, JSON.stringify(now)); } catch { /* without storage it starts afresh */ }
}

function recall() {
  try {
    const then = JSON.parse(window.sessionStorage.getItem(place));
    if (then === null) return;
    chosen = then.chosen;
    Object.assign(order, then.order);
    Object.entries(then.off).forEach(([axis, levels]) => levels.forEach((level) => hidden[axis] && hidden[axis].add(level)));
    ["abscissa", "ordinate", "colour"].map((name) => [name, then[name]]).forEach(([name, value]) => {
      if ([...find(name).options].some((option) => option.value === value)) find(name).value = value;
    });
  } catch { /* what cannot be read is not restored */ }
}

function loading(id) {
  return `import models\n\nnetwork, card = models.load(${JSON.stringify(`${data.folder}/models/${id}`)})`;
}

function again(trial) {
  const set = data.recipe.filter((name) => cell(trial, name) !== null && data.keys[name]);
  const quoted = (value) => `'${String(value).replace(/'/g, "'\\''")}'`;
  const parts = set.map((name) => `--set ${quoted(`space.${data.keys[name]}=${cell(trial, name)}`)}`);
  const seed = cell(trial, "seed") === null ? "" : ` --seed ${cell(trial, "seed")}`;
  return `python -m study.trial --space again.yaml${seed} \\\n    ${parts.join(" \\\n    ")}`;
}

function curve(rows, place) {
  if (!rows) return void make("p", "No fine-tuning history.", place);
  place.id = "curve";
  const column = (i, factor) => rows.map((row) => (row[i] === null ? null : factor * row[i]));
  const line = (i, factor, name, axis, dash) => ({ type: "scatter", mode: "lines+markers", name, x: column(0, 1),
    y: column(i, factor), yaxis: axis, line: { dash } });
  const chart = layout("fine-tuning epoch", "%", {
    yaxis2: { overlaying: "y", side: "right", title: { text: "train loss (nats)" }, showgrid: false },
    legend: { orientation: "h", y: 1.2 }, margin: { l: 60, r: 60, t: 30, b: 45 } });
  if (rows.length <= 12) Object.assign(chart.xaxis, { tick0: 1, dtick: 1 });
  Plotly.newPlot(place, [line(3, 100, "validation accuracy (%)", "y", "solid"), line(1, 100, "sparsity (%)", "y", "dot"),
    line(2, 1, "train loss (nats)", "y2", "dash")], chart, plotlyConfig);
}

function layers(rows, panel) {
  if (!rows) return;
  const wide = make("div", undefined, panel);
  wide.className = "wide";
  const table = make("table", undefined, wide);
  const head = make("tr", undefined, make("thead", undefined, table));
  data.layerColumns.forEach((name) => make("th", name, head));
  const body = make("tbody", undefined, table);
  rows.forEach((values) => {
    const row = make("tr", undefined, body);
    values.forEach((value) => { make("td", format("", value), row).className = typeof value === "number" ? "number" : ""; });
  });
  sortable(table);
}

function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(table, head, column));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(table, head, column); });
  });
}

function sort(table, head, column) {
  const rising = head.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("thead th").forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const key = (row) => row.cells[column].textContent.replace("−", "-");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: key(row), number: Number(key(row) || NaN) }));
  const numbers = rows.every(({ text, number }) => text === "–" || !Number.isNaN(number));
  const compare = (a, b) => (numbers ? a.number - b.number : a.text.localeCompare(b.text));
  const known = rows.filter(({ text }) => text !== "–").sort((a, b) => (rising ? compare(a, b) : compare(b, a)));
  body.append(...[...known, ...rows.filter(({ text }) => text === "–")].map(({ row }) => row)); // missing values stay last
}

function filters() {
  Object.entries(data.levels).forEach(([axis, levels]) => {
    const box = make("fieldset", undefined, find("controls"));
    make("legend", data.labels[axis], box);
    levels.forEach((level) => {
      const label = make("label", undefined, box);
      const tick = make("input", undefined, label);
      tick.type = "checkbox";
      tick.checked = !hidden[axis].has(level);
      tick.addEventListener("change", () => { hidden[axis][tick.checked ? "delete" : "add"](level); draw(); });
      label.append(` ${format(axis, level).replace(/_/g, " ")}`);
    });
  });
}

if (trials.length) {
  data.abscissae.forEach((x, i) => { make("option", x.label, find("abscissa")).value = i; });
  data.ordinates.forEach((y, i) => { make("option", y.label, find("ordinate")).value = i; });
  data.colours.forEach((name) => { make("option", data.labels[name], find("colour")).value = name; });
  recall();
  ["abscissa", "ordinate", "colour"].forEach((name) => find(name).addEventListener("change", draw));
  filters();
  draw();
  show();
  find("plot").on("plotly_click", ({ points: [point], event }) => open(point.customdata, event.shiftKey));
  const body = find("trials").querySelector("tbody");
  body.addEventListener("click", (event) => open(event.target.closest("tr").dataset.trial, event.shiftKey));
  body.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open(event.target.closest("tr").dataset.trial, event.shiftKey);
  });
  find("trials").querySelectorAll("thead th").forEach((head, column) => {
    head.tabIndex = 0;
    const turn = () => {
      const name = data.listed[column];
      Object.assign(order, { name, rising: order.name !== name || !order.rising });
      list();
      remember();
    };
    head.addEventListener("click", turn);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") turn(); });
  });
  [dark, narrow].forEach((media) => media.addEventListener("change", draw));
}
document.querySelectorAll("main table").forEach((table) => { if (!table.closest("#trials")) sortable(table); });
