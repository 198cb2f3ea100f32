"use strict";
// What the page does with its data: unpack it, draw the table and the figures, open the side panel.

const get = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Return a new element; strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(get(`#${id}`).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function load(id) {
  const script = document.createElement("script");
  script.textContent = await unpack(id); // allowed by its hash in the page's policy
  document.head.append(script);
}

let data, table, plotly;
const ticked = new Set();

// Theme -----------------------------------------------------------------------------------------

const wantsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => document.documentElement.classList.contains("dark");

function setTheme() {
  const asked = get("#theme").value;
  const dark = asked === "auto" ? wantsDark.matches : asked === "dark";
  document.documentElement.classList.toggle("dark", dark);
  all(".js-plotly-plot").forEach((chart) => draw(chart, chart.figure));
}

const INKS = { "#444444": "#c8ced4", "#a6611a": "#e0a35f", "#5e3c99": "#b39ddb" };

/** Plotly's layout in the colours of the page; captions say what long axis titles would. */
function themed(figure) {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name));
  const layout = structuredClone(figure.layout);
  Object.assign(layout, { paper_bgcolor: "transparent", plot_bgcolor: "transparent", autosize: true });
  layout.font = { ...layout.font, color: text };
  for (const axis of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis/.test(key))]) {
    layout[axis] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...layout[axis] };
  }
  for (const note of layout.annotations || []) note.font = { ...note.font, color: text };
  const traces = structuredClone(figure.data);
  for (const trace of traces) {
    // Frontiers are drawn in inks for paper.
    if (isDark() && trace.mode === "lines" && INKS[trace.line?.color]) trace.line.color = INKS[trace.line.color];
  }
  return [traces, layout];
}

async function draw(chart, figure) {
  chart.figure = figure;
  await plotly;
  const [traces, layout] = themed(figure);
  if (innerWidth < 700) layout.margin = { ...layout.margin, l: 44, r: 8 };
  await Plotly.react(chart, traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
}

/** Draw when the chart comes into view: what nobody looks at costs nothing. */
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    draw(entry.target, entry.target.figure);
  }
}, { rootMargin: "200px" });

function chart(figure, head = "") {
  const place = make("div", { style: `min-height: ${figure.layout.height || 360}px` });
  place.figure = figure;
  seen.observe(place);
  return make("figure", {}, head ? make("figcaption", {}, head) : null, place);
}

/** A section with a choice of which of its entries is drawn. */
function choices(id, entries) {
  const section = get(`#${id}`), select = get("select", section);
  section.hidden = entries.length === 0;
  entries.forEach((entry, number) => select.append(make("option", { value: number }, entry.name)));
  const show = () => {
    const entry = entries[select.value];
    if (get(".about", section)) get(".about", section).textContent = entry.about;
    get(".charts", section).replaceChildren(
      ...Object.entries(entry.draw).map(([head, figure]) => chart(figure, head)),
    );
  };
  select.addEventListener("change", show);
  if (entries.length) show();
}

// The table ------------------------------------------------------------------------------------

function readState() {
  try {
    return JSON.parse(decodeURIComponent(location.hash.slice(1))) || {};
  } catch {
    return {};
  }
}

/** Sorting, search and columns stand in the address, so that a link shows the same. */
function saveState(_, state) {
  const visible = state.columns.flatMap((column, number) => (column.visible ? [number] : []));
  const filters = state.columns.map((column) => column.search?.search || "");
  const kept = { order: state.order, search: state.search.search, visible, filters, cc: state.columnControl };
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(kept))}`);
}

/** Compare values so that runs without one come last either way. */
const valuesBy = (sign) => (a, b) => {
  const [first, second] = [a, b].map((value) => (value === null || value === "" ? null : Number(value)));
  return first === null || second === null ? (first === null) - (second === null) : sign * (first - second);
};

function drawTable() {
  Object.assign(dataTables.default.ext.type.order, { "value-asc": valuesBy(1), "value-desc": valuesBy(-1) });
  const columns = data.columns.map((column, number) => ({
    title: column.title,
    className: column.number ? "number" : "",
    visible: column.shown && !(innerWidth < 700 && ["experiment", "model", "seeds"].includes(column.title)),
    type: column.number ? "value" : "html",
    data: { _: `cells.${number}.1`, display: `cells.${number}.0`, sort: `cells.${number}.1`, filter: `cells.${number}.${column.number ? 0 : 1}` },
    orderSequence: ["asc", "desc", ""],
    createdCell: (cell, _, row) => { cell.title = row.cells[number][2] || cell.textContent; },
  }));
  columns[0].createdCell = (cell, _, row) => {
    cell.title = row.cells[0][2];
    const button = make("a", { class: "run", href: "#", onclick: (event) => { event.preventDefault(); openRun(row.runs); } });
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
  };
  const tick = {
    title: "", orderable: false, searchable: false, data: null, defaultContent: "", className: "tick",
    createdCell: (cell, _, row) => {
      const box = make("input", { type: "checkbox", "aria-label": "compare", onchange: () => setTick(row, box.checked) });
      cell.replaceChildren(box);
    },
  };
  const state = readState();
  const visible = state.visible && new Set(state.visible);
  const options = {
    data: data.rows,
    columns: [tick, ...columns].map((column, number) => ({ ...column, ...(visible && { visible: visible.has(number) }) })),
    order: state.order || [],
    ordering: { indicators: true, handler: true },
    search: { search: state.search || "" },
    pageLength: 50,
    autoWidth: false,
    stateSave: true,
    stateSaveCallback: saveState,
    stateLoadCallback: () => null,
    columnControl: { target: 0, content: [["searchClear", "search", "searchList"]] },
    columnDefs: [{ target: 0, columnControl: [] }],
    layout: {
      topStart: "search",
      topEnd: { buttons: [
        { extend: "colvis", text: "columns", columns: ":gt(1)" },
        { extend: "csvHtml5", text: "save as CSV", exportOptions: { columns: ":visible:not(.tick)", escapeExcelFormula: true } },
      ] },
      bottomStart: "info", bottomEnd: "paging",
    },
    createdRow: (line, row) => {
      line.dataset.key = row.runs[0];
      line.classList.add(unescaped(row.cells[4][0]));
    },
    language: { info: "_START_ to _END_ of _TOTAL_ rows", infoFiltered: "(of _MAX_)" },
  };
  // Heads that are there already are sorted by; those that DataTables makes later are not.
  get("#run-table").append(make("thead", {}, make("tr", {}, ...options.columns.map(() => make("th")))));
  table = new dataTables.default(get("#run-table"), options);
  const heads = table.columns().header().toArray();
  data.columns.forEach((column, number) => { heads[number + 1].title = column.about; });
  get("#compare").addEventListener("click", () => openCompare([...ticked]));
  get("#untick").addEventListener("click", () => {
    all(".tick input", get("#run-table")).forEach((box) => { box.checked = false; });
    ticked.clear();
    setTick(null, false);
  });
}

const unescaped = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;

function setTick(row, on) {
  if (row) ticked[on ? "add" : "delete"](row);
  get("#compare").disabled = ticked.size < 2;
  get("#untick").disabled = ticked.size === 0;
  get("#compare").textContent = ticked.size > 1 ? `compare ${ticked.size} runs` : "compare";
}

// The side panel -------------------------------------------------------------------------------

function openPanel(wide, ...children) {
  const panel = get("#panel");
  panel.classList.toggle("wide", wide);
  get("div", panel).replaceChildren(...children.filter((child) => child !== null));
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
}

const pairs = (entries) => make("table", {}, ...entries.map(([name, ...values]) =>
  make("tr", {}, make("th", {}, name), ...values.map((value) => make("td", {}, value ?? "")))));
const fold = (title, content, open = false) => make("details", open ? { open: "" } : {}, make("summary", {}, title), content);
const head = (text) => make("h3", {}, text);

function copyable(text) {
  const button = make("button", { onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch { // not allowed on a file's page in some browsers: select it instead
      getSelection().selectAllChildren(code);
      button.textContent = document.execCommand("copy") ? "copied" : "selected";
    }
  } }, "copy");
  const code = make("pre", {}, text);
  return make("div", { class: "command" }, button, code);
}

const texts = (runs) => {
  const prompts = [...new Set(runs.flatMap((run) => run.generations.map((one) => one[0])))];
  const of = (run, prompt, place) => run.generations.find((one) => one[0] === prompt)?.[place] || "";
  return prompts.length === 0 ? null : make("div", {}, head("Continuations"), ...prompts.map((prompt) =>
    pairs([["prompt", prompt], ["full precision", of(runs.find((run) => of(run, prompt, 1)) || runs[0], prompt, 1)],
      ...runs.map((run) => [runs.length > 1 ? run.shown : "quantized", of(run, prompt, 2)])])));
};

function heatmap(layers, name, over = null) {
  const ratio = (value, row, column) => (over ? value / over.maps[name]?.[row]?.[column] : value);
  const values = layers.maps[name].map((line, row) => line.map((value, column) => (value === null ? null : ratio(value, row, column))));
  const logs = name === "relative loss" || over;
  const z = logs ? values.map((line) => line.map((value) => (value > 0 && isFinite(value) ? Math.log10(value) : null))) : values;
  const ticks = [-4, -3, -2, -1, -0.301, 0, 0.301, 1];
  return {
    data: [{ type: "heatmap", x: layers.blocks, y: layers.kinds, z, customdata: values, colorscale: over ? "RdBu" : "Cividis",
      ...(over && { zmid: 0 }), xgap: 1, ygap: 1, hovertemplate: "block %{x}, %{y}<br>%{customdata:.4g}<extra></extra>",
      colorbar: { thickness: 10, ...(logs && { tickvals: ticks, ticktext: ticks.map((tick) => `${+(10 ** tick).toPrecision(1)}`) }) } }],
    layout: { height: 60 + 26 * layers.kinds.length, margin: { l: 10, r: 10, t: 8, b: 30 }, yaxis: { autorange: "reversed", automargin: true } },
  };
}

function channels(kind, points, blocks) {
  return {
    data: [{ type: "scatter", mode: "markers", x: points.map((point) => point[0]), y: points.map((point) => point[1]),
      marker: { size: 4, symbol: "square", color: "#3f7cc4" }, hovertemplate: "block %{y}, in feature %{x}<extra></extra>" }],
    layout: { height: 150, margin: { l: 40, r: 10, t: 6, b: 24 }, yaxis: { range: [Math.max(...blocks) + 1, -1], zeroline: false }, xaxis: { zeroline: false } },
  };
}

function layerCharts(run) {
  if (!run.layers) return [];
  const maps = Object.keys(run.layers.maps).filter((name) => run.layers.maps[name].flat().some((value) => value));
  const critical = Object.entries(run.layers.critical);
  return [
    ...maps.map((name) => chart(heatmap(run.layers, name), `${name}: linear layer by block`)),
    critical.length ? fold("Critical channels: in feature by block", make("div", {}, ...critical.map(([kind, points]) =>
      chart(channels(kind, points, run.layers.blocks), kind)))) : null,
  ].filter((child) => child !== null);
}

function curves(run) {
  if (run.curves.length === 0) return null;
  const lines = run.curves.map((one) => ({ type: "scatter", mode: "lines", name: one.name, x: one.step, y: one.loss }));
  return chart({ data: lines, layout: { height: 260, margin: { l: 50, r: 10, t: 8, b: 30 }, yaxis: { type: "log" }, showlegend: false } },
    "Fine-tuning: training loss by step, a line per block");
}

function openRun(keys, number = 0) {
  const row = data.rows.find((one) => one.runs.includes(keys[0]));
  const run = data.runs[keys[number]];
  const seeds = keys.length < 2 ? null : make("label", {}, `one of ${keys.length} seeds `, make("select",
    { onchange: (event) => openRun(keys, Number(event.target.value)) },
    ...keys.map((key, place) => make("option", place === number ? { value: place, selected: "" } : { value: place }, data.runs[key].id))));
  openPanel(false,
    make("h2", {}, unescaped(row.cells[0][0])),
    make("p", { class: "caption" }, `${run.experiment} · ${run.status}${run.reference ? " · reference record" : ""} · ${run.folder}`),
    seeds,
    run.progress && make("p", {}, run.progress),
    run.error && make("div", { class: "failed" }, head(run.error.type || "error"), make("pre", {}, run.error.message || ""),
      run.error.traceback ? fold("traceback", make("pre", {}, run.error.traceback)) : null),
    run.command && head("Reproduce"), run.command && copyable(run.command),
    ...run.notes.map((note) => make("p", { class: "caption" }, note)),
    head("Results"), pairs(data.columns.flatMap((column, place) =>
      column.number && row.cells[place][0] ? [[unescaped(column.title), unescaped(row.cells[place][0])]] : [])),
    ...layerCharts(run),
    curves(run),
    texts([run]),
    Object.keys(run.used).length ? fold("Asked and used", pairs(Object.entries(run.used).map(([key, both]) => [key, both.join(" → ")])), true) : null,
    fold("All numbers", pairs(Object.entries(run.results))),
    fold("Configuration", pairs(Object.entries(run.config))),
    fold("Made on", pairs(Object.entries(run.made))),
  );
}

function openCompare(rows) {
  const runs = rows.map((row) => ({ ...data.runs[row.runs[0]], shown: unescaped(row.cells[0][0]) }));
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const differ = keys.filter((key) => new Set(runs.map((run) => run.config[key])).size > 1);
  const [first, second] = runs.map((run) => run.layers);
  openPanel(true,
    make("h2", {}, "Side by side"),
    pairs([["run", ...runs.map((run) => run.shown)], ["experiment", ...runs.map((run) => run.experiment)], ["record", ...runs.map((run) => run.id)]]),
    head("Configuration where it differs"), pairs(differ.map((key) => [key, ...runs.map((run) => run.config[key] ?? "absent")])),
    head("Results"), pairs(data.columns.flatMap((column, place) =>
      column.number && rows.some((row) => row.cells[place][0]) ? [[unescaped(column.title), ...rows.map((row) => unescaped(row.cells[place][0]))]] : [])),
    runs.length === 2 && first && second && String(first.kinds) === String(second.kinds) && first.blocks.length === second.blocks.length
      ? chart(heatmap(second, "relative loss", first), `relative loss of ${runs[1].shown}, divided by that of ${runs[0].shown}`) : null,
    texts(runs),
  );
}

// Start ----------------------------------------------------------------------------------------

function failures() {
  get("#failures").hidden = get("nav [href='#failures']").hidden = data.failures.length === 0;
  get("#failures ul").append(...data.failures.map((one) => make("li", {},
    make("a", { class: "run", href: "#", onclick: (event) => { event.preventDefault(); openRun([one.key]); } }, one.label), ` ${one.error}`)));
}

/** Ask the server whether a record changed; the address keeps what is shown. */
async function watch(made) {
  try {
    const now = await (await fetch("stamp", { cache: "no-store" })).text();
    if (now !== made && !get("#panel").open) {
      sessionStorage.setItem("scroll", scrollY);
      location.reload();
      return;
    }
  } catch { /* the server ended: the page stays as it is */ }
  setTimeout(watch, 2000, made);
}

async function start() {
  data = JSON.parse(await unpack("data"));
  await load("lib-table");
  get("#theme").value = localStorage.getItem("crvq-theme") || "auto";
  get("#theme").addEventListener("change", () => { localStorage.setItem("crvq-theme", get("#theme").value); setTheme(); });
  wantsDark.addEventListener("change", setTheme);
  setTheme();
  get("#about").textContent = `${data.results}: ${Object.keys(data.runs).length} runs, made ${data.made}`;
  get("#notices").append(...data.notices.map((notice) => make("li", {}, notice)));
  all("nav a").forEach((link) => link.addEventListener("click", (event) => { // the address holds the table's state
    event.preventDefault();
    get(link.getAttribute("href")).scrollIntoView({ behavior: "smooth" });
  }));
  get("#panel .close").addEventListener("click", () => get("#panel").close());
  get("#panel").addEventListener("click", (event) => { if (event.target === get("#panel")) get("#panel").close(); });
  drawTable();
  failures();
  plotly = new Promise((done) => { setTimeout(async () => { await load("lib-plotly"); done(); }, 0); });
  choices("pareto", data.pareto);
  choices("sweeps", data.sweeps);
  document.body.dataset.ready = "yes";
  scrollTo(0, Number(sessionStorage.getItem("scroll") || 0));
  sessionStorage.removeItem("scroll");
  if (data.stamp) setTimeout(watch, 2000, data.stamp);
}

start();
