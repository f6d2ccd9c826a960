"use strict";
// Interactivity: the plot, its filters, the selected trial, sortable tables. Study data is only ever inserted as text.
const data = JSON.parse(document.getElementById("data").textContent);
const trials = data.ids.map((id, i) => ({ id, i }));
const cell = (trial, name) => data.columns[name][trial.i];
const find = (id) => document.getElementById(id);
const hidden = Object.fromEntries(Object.keys(data.levels).map((axis) => [axis, new Set()]));
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "x"];
const MAX_ROWS = 500; // of the table of trials

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

function hover(trial) {
  const lines = data.recipe.filter((name) => cell(trial, name) !== null);
  const words = lines.map((name) => `${data.labels[name]}: ${escaped(format(name, cell(trial, name)))}`);
  return `<b>trial ${escaped(trial.id)}</b><br>${words.join("<br>")}`;
}

function traces(rows, x) {
  const names = data.levels.schedule || [...new Set(data.columns.schedule)];
  const kinds = data.levels.granularity || [...new Set(data.columns.granularity)];
  const made = [];
  names.forEach((name, n) => ["front", "other"].forEach((place) => {
    const own = rows.filter((t) => cell(t, "schedule") === name && (cell(t, "place") === "front") === (place === "front")
      && cell(t, x.name) !== null && cell(t, "test_accuracy") !== null);
    if (!own.length) return;
    const front = place === "front";
    const halfWidths = own.map((t) => (front ? cell(t, "half_width") : null));
    made.push({
      type: "scatter", mode: "markers", name: `${escaped(format("", name).replace(/_/g, " "))}${front ? ", front" : ""}`,
      x: own.map((t) => cell(t, x.name) / x.scale), y: own.map((t) => 100 * cell(t, front ? "mean" : "test_accuracy")),
      error_y: { type: "data", array: halfWidths.map((w) => (w === null ? 0 : 100 * w)), thickness: 1, width: 3,
        visible: front && halfWidths.some((w) => w !== null) },
      customdata: own.map((t) => t.id), text: own.map(hover), hovertemplate: "%{text}<br>test accuracy %{y:.2f} %<extra></extra>",
      marker: { color: COLOURS[n % COLOURS.length], size: front ? 11 : 6, opacity: front ? 1 : 0.45,
        symbol: own.map((t) => SYMBOLS[kinds.indexOf(cell(t, "granularity")) % SYMBOLS.length] || "circle"),
        line: { color: colour("--ink"), width: front ? 1 : 0 } },
    });
  }));
  return made;
}

function layout(xTitle, yTitle, more) {
  const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line") };
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: 12 },
    margin: { l: 60, r: 20, t: 20, b: 50 }, hoverlabel: { align: "left" }, legend: { orientation: "v" },
    xaxis: { ...axis, title: { text: xTitle } }, yaxis: { ...axis, title: { text: yTitle } }, ...more };
}

const plotlyConfig = { displaylogo: false, responsive: true };

function draw() {
  const x = data.abscissae[Number(find("abscissa").value)];
  const lines = data.baseline === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 100 * data.baseline,
    y1: 100 * data.baseline, line: { color: colour("--quiet"), dash: "dash", width: 1 } }];
  const notes = lines.map((line) => ({ xref: "paper", x: 0, y: line.y1, xanchor: "left", yanchor: "bottom", showarrow: false,
    text: `baseline ${line.y1.toFixed(1)} %`, font: { color: colour("--quiet"), size: 11 } }));
  const baseline = { shapes: lines, annotations: notes };
  Plotly.react("plot", traces(shown(), x), layout(x.label, "test accuracy (%)", baseline), plotlyConfig);
  list();
}

function list() {
  const body = find("trials").querySelector("tbody");
  const rows = shown();
  body.replaceChildren(...rows.slice(0, MAX_ROWS).map((trial) => {
    const row = document.createElement("tr");
    row.dataset.trial = trial.id;
    data.listed.forEach((name) => {
      const value = name === "trial_id" ? trial.id : cell(trial, name);
      make("td", format(name, value), row).className = typeof value === "number" ? "number" : "";
    });
    return row;
  }));
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

function show(id) {
  const trial = trials.find((t) => t.id === id);
  if (!trial) return;
  const panel = find("trial");
  panel.hidden = false;
  panel.replaceChildren();
  make("h3", `Trial ${id}`, panel);
  const two = make("div", undefined, panel);
  two.className = "two";
  pairs(data.recipe, trial, make("div", undefined, two));
  pairs(data.measures, trial, make("div", undefined, two));
  curve(data.history[id], make("div", undefined, panel));
  layers(data.layers[id], panel);
  make("p", data.kept.includes(id) ? "Load its network:" : "Its network was not saved. Run the recipe again:", panel);
  make("pre", data.kept.includes(id) ? loading(id) : again(trial), panel);
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
  const order = (a, b) => (numbers ? a.number - b.number : a.text.localeCompare(b.text));
  const known = rows.filter(({ text }) => text !== "–").sort((a, b) => (rising ? order(a, b) : order(b, a)));
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
      tick.checked = true;
      tick.addEventListener("change", () => { hidden[axis][tick.checked ? "delete" : "add"](level); draw(); });
      label.append(` ${format(axis, level).replace(/_/g, " ")}`);
    });
  });
}

if (trials.length) {
  data.abscissae.forEach((x, i) => { make("option", x.label, find("abscissa")).value = i; });
  find("abscissa").addEventListener("change", draw);
  filters();
  draw();
  find("plot").on("plotly_click", (event) => show(event.points[0].customdata));
  find("trials").querySelector("tbody").addEventListener("click", (event) => show(event.target.closest("tr").dataset.trial));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
document.querySelectorAll("table").forEach(sortable);
