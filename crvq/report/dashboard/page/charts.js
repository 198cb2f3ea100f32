/* What all charts share: colours of the theme, safe palettes, one way to draw. */

/* Okabe and Ito's colours (darker where white is behind them): distinguishable by the colour-blind. */
const PALETTES = {
  light: ["#0072b2", "#d55e00", "#00805c", "#b0518a", "#5b5b5b", "#8a6d00", "#2f91c9", "#7a3db8"],
  dark: ["#56b4e9", "#ff9147", "#2fc99b", "#e39ac4", "#c8c8c8", "#f0e442", "#8ecbff", "#c7a0ff"],
};
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x"];

function isDark() {
  const asked = document.documentElement.dataset.theme;
  return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function colour(index) {
  const palette = PALETTES[isDark() ? "dark" : "light"];
  return palette[index % palette.length];
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layoutWith(changes) {
  const axis = () => ({
    gridcolor: themed("--line"),
    zerolinecolor: themed("--line"),
    linecolor: themed("--line"),
    automargin: true,
    title: { standoff: 8 },
  });
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: themed("--ink") },
    margin: { l: 50, r: 12, t: 10, b: 40 },
    height: 360,
    hovermode: "closest",
    hoverlabel: {
      align: "left",
      bgcolor: themed("--card"),
      bordercolor: themed("--line"),
      font: { color: themed("--ink") },
    },
    legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0 },
    dragmode: onTouch() ? false : "zoom",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: themed("--quiet"), activecolor: themed("--accent") },
    xaxis: axis(),
    yaxis: axis(),
  };
  for (const [key, value] of Object.entries(changes)) {
    const both =
      value &&
      typeof value === "object" &&
      !Array.isArray(value) &&
      layout[key] &&
      typeof layout[key] === "object";
    layout[key] = both ? { ...layout[key], ...value } : value;
  }
  return layout;
}

function draw(node, traces, layout, label) {
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  const remove = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"];
  return Plotly.react(node, traces, layoutWith(layout), {
    responsive: true,
    displaylogo: false,
    displayModeBar: onTouch() ? false : "hover",
    modeBarButtonsToRemove: remove,
  });
}

/* Where a finger scrolls the page, a chart must not take it for a zoom. */
function onTouch() {
  return matchMedia("(pointer: coarse)").matches;
}

/* A title for an upright axis: long ones break after a comma, or about the middle. */
function upright(text) {
  if (text.length < 26) return plain(text);
  const commas = [...text.matchAll(/, /g)].map((found) => found.index);
  const middle = text.length / 2;
  const comma = commas.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))[0];
  const gap = comma > 0 ? comma + 1 : text.indexOf(" ", Math.floor(middle) - 4);
  return gap > 0 ? `${plain(text.slice(0, gap))}<br>${plain(text.slice(gap + 1))}` : plain(text);
}

/* A log axis with ticks that can be read over any span; `width` is that of a lying axis. */
function logTicks(values, width = Infinity) {
  const positive = values.filter((value) => Number.isFinite(value) && value > 0);
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  const span = high / low;
  if (Math.log10(span) * 3 * TICK_WIDTH > width) return { tickformat: "~g", ...fewTicks(low, high, width) };
  return {
    tickformat: "~g",
    ...(span > 300
      ? { dtick: 1, minor: { dtick: "D1", showgrid: false } }
      : span > 8
        ? { dtick: "D2" }
        : { nticks: 6 }),
  };
}

const TICK_WIDTH = 44;

/* Powers of ten, every so many of them, and 3 between them where there is room. */
function fewTicks(low, high, width) {
  const room = Math.max(1, Math.floor(width / TICK_WIDTH));
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const inside = (tick) => tick >= low / 1.2 && tick <= high * 1.2;
  const powers = Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
  const halves = powers.flatMap((power) => [power, 3 * power]).filter(inside);
  if (halves.length <= room) return { tickvals: halves };
  const shown = powers.filter(inside);
  if (!shown.length) return { nticks: 2 };
  const every = Math.ceil(shown.length / room);
  return { tickvals: shown.filter((_, index) => index % every === 0) };
}

function wantsLog(values) {
  const low = Math.min(...values);
  return values.length > 1 && low > 0 && Math.max(...values) / low > 4;
}

/* Names of outcomes of the runs, in their order, most informative first. */
function outcomeNames(runs) {
  return unique(runs.flatMap((run) => Object.keys(run.outcomes)));
}

/* The perplexity that most runs have (or what else fits the pattern). */
function defaultOutcome(runs, pattern = /^perplexity of .*, quantized$/) {
  const names = outcomeNames(runs);
  const fitting = names.filter((name) => pattern.test(name));
  const count = (name) => runs.filter((run) => isFiniteNumber(run.outcomes[name])).length;
  return fitting.length
    ? fitting.reduce((best, name) => (count(name) > count(best) ? name : best))
    : names[0];
}
