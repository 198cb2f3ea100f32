/* Bits a weight against an outcome, all runs; published numbers faint behind them. */

const BITS = [
  ["average_quantized_weights", "bits a quantized weight, all counted"],
  ["average_all_weights", "bits a weight, all weights"],
];
const COLOURED_BY = [
  ["method", "method"],
  ["experiment", "experiment"],
  ["model", "model"],
];

function renderPareto(runs) {
  const body = bodyOf("pareto");
  const measured = runs.filter((run) => run.bits);
  const names = outcomeNames(measured).filter((name) => !/^(bits |seconds|resumes|used )/.test(name));
  show("pareto", names.length > 0);
  body.replaceChildren();
  if (!names.length) return;
  const again = (name) => (value) => {
    choose(name, value);
    renderPareto(shownRuns());
  };
  const outcome = names.includes(choice("quality")) ? choice("quality") : defaultOutcome(names);
  const bits = choice("bits", BITS[0][0]);
  const by = choice("by", "method");
  const sets = publishedSets(outcome);
  const set = sets.some(([key]) => key === choice("published")) ? choice("published") : (sets[1] || [""])[0];
  body.append(
    h(
      "div",
      { class: "controls" },
      select("bits", BITS, bits, again("bits")),
      select(
        "outcome",
        names.map((name) => [name, name]),
        outcome,
        again("quality"),
      ),
      select("colour", COLOURED_BY, by, again("by")),
      sets.length > 1 ? select("published, other models and texts", sets, set, again("published")) : null,
    ),
  );
  const node = h("div", { class: "chart" });
  const points = measured
    .map((run) => ({ run, x: number(run.bits[bits]), y: number(run.outcomes[outcome]) }))
    .filter(
      (point) => Number.isFinite(point.x) && point.x !== null && Number.isFinite(point.y) && point.y !== null,
    );
  const positive = points.every((point) => point.y > 0);
  const ruined = points.length - inView(points, lowerIsBetter(outcome) && positive).length;
  body.append(
    node,
    h(
      "p",
      { class: "quiet" },
      paretoNote(measured.length - points.length, ruined, sets.length > 1 && set !== "none"),
    ),
  );
  if (points.length)
    drawPareto(
      node,
      points,
      outcome,
      bits,
      by,
      publishedFor(outcome).filter((point) => publishedKey(point) === set),
    );
}

function drawPareto(node, points, outcome, bits, by, published) {
  const groups = unique(points.map((point) => String(point.run[by])));
  const traces = groups.map((group, index) => {
    const members = points.filter((point) => String(point.run[by]) === group);
    return {
      type: "scatter",
      mode: "markers",
      name: plain(group),
      x: members.map((point) => point.x),
      y: members.map((point) => point.y),
      marker: {
        color: colour(index),
        symbol: SYMBOLS[index % SYMBOLS.length],
        size: 11,
        line: { width: 1, color: themed("--card") },
      },
      text: members.map(
        (point) =>
          `<b>${plain(point.run.label)}</b><br>${plain(point.run.experiment)}, ${plain(point.run.method)}, ${plain(point.run.model)}`,
      ),
      hovertemplate: "%{text}<br>%{x:.3f} bits: %{y:.5~g}<extra></extra>",
    };
  });
  traces.unshift(
    publishedTrace(published),
    frontTrace(points, outcome),
    ...fullPrecisionTraces(points, outcome),
  );
  const values = points.map((point) => point.y);
  const log = lowerIsBetter(outcome) && Math.min(...values) > 0;
  const reach = reachOf(points, published, log);
  draw(
    node,
    traces.filter(Boolean),
    {
      height: 460,
      xaxis: { title: { text: BITS.find(([key]) => key === bits)[1] }, ...reach.x },
      yaxis: {
        title: { text: upright(outcome) },
        type: log ? "log" : "linear",
        ...(log ? logTicks(reach.values || values) : {}),
        ...reach.y,
      },
    },
    `${outcome} against bits a weight, ${points.length} runs`,
  );
}

/* Our runs decide what is in view, but ruins do not: a double click shows them, and what is
   published beyond. */
const RUINED = 1000;

function inView(points, log) {
  const ys = points.map((point) => point.y);
  return log ? ys.filter((y) => y <= RUINED * Math.min(...ys)) : ys;
}

function reachOf(points, published, log) {
  const xs = points.map((point) => point.x);
  const ys = inView(points, log);
  const near = published.map((point) => point.y).filter((y) => y < 3 * Math.max(...ys));
  const [low, high] = [Math.min(...ys, ...near), Math.max(...ys, ...near)];
  const y = log
    ? [Math.log10(low) - 0.1, Math.log10(high) + 0.1]
    : [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  return {
    values: [low, high],
    x: { range: [Math.max(0, Math.min(...xs) - 0.4), Math.max(...xs) + 0.4] },
    y: { range: y },
  };
}

function lowerIsBetter(outcome) {
  return !/acc|agreement|top|recovery/.test(outcome) || /kl/.test(outcome);
}

/* Runs that no other run beats in both: a line from the fewest bits on. */
function frontTrace(points, outcome) {
  const sign = lowerIsBetter(outcome) ? 1 : -1;
  const front = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || sign * (a.y - b.y))) {
    if (!front.length || sign * point.y < sign * front[front.length - 1].y) front.push(point);
  }
  return {
    type: "scatter",
    mode: "lines",
    name: "best so far",
    x: front.map((point) => point.x),
    y: front.map((point) => point.y),
    line: { color: themed("--quiet"), width: 1.5, dash: "dot", shape: "hv" },
    hoverinfo: "skip",
  };
}

function fullPrecisionTraces(points, outcome) {
  const key = outcome.replace(/, quantized$/, ", full precision");
  if (key === outcome) return [];
  const known = [];
  for (const { run } of points) {
    const y = run.outcomes[key];
    // Devices round differently: values of one model that are a thousandth apart are one line.
    const same = (one) => one.model === run.model && Math.abs(one.y - y) < 1e-3 * Math.abs(y);
    if (isFiniteNumber(y) && !known.some(same)) known.push({ model: run.model, y });
  }
  const xs = points.map((point) => point.x);
  return known.map(({ model, y }) => ({
    type: "scatter",
    mode: "lines",
    name: plain(known.length > 1 ? `full precision, ${model}` : "full precision"),
    x: [Math.min(...xs), Math.max(...xs)],
    y: [y, y],
    line: { color: themed("--ink"), width: 1.5, dash: "dash" },
    hovertemplate: `full precision, ${plain(model)}: %{y:.5~g}<extra></extra>`,
  }));
}

function publishedKey(point) {
  return `${point.model}|${point.dataset}`;
}

/* What papers print of an outcome: perplexities as they are, or in parts of full precision's. */
function publishedFor(outcome) {
  const field = /^perplexity of .*, quantized$/.test(outcome)
    ? "perplexity"
    : /^perplexity of .*, ratio to full precision$/.test(outcome)
      ? "relative"
      : null;
  return field === null
    ? []
    : DATA.published
        .filter((point) => isFiniteNumber(point[field]))
        .map((point) => ({ ...point, y: number(point[field]) }));
}

/* Model and dataset of published points, those with most points first. */
function publishedSets(outcome) {
  const counts = new Map();
  for (const point of publishedFor(outcome))
    counts.set(publishedKey(point), (counts.get(publishedKey(point)) || 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  return [["none", "none"], ...sorted.map(([key, count]) => [key, `${key.replace("|", ", ")} (${count})`])];
}

function publishedTrace(published) {
  if (!published.length) return null;
  const about = (point) =>
    [
      `<b>${plain(point.method)}</b> (published)`,
      `${plain(point.model)}, ${plain(point.dataset)}${point.context ? `, context ${plain(point.context)}` : ""}`,
      `read in: ${plain(point.source)}`,
      point.note ? plain(point.note) : null,
    ]
      .filter(Boolean)
      .join("<br>");
  return {
    type: "scatter",
    mode: "markers",
    name: plain(`published: ${published[0].model}, ${published[0].dataset}`),
    x: published.map((point) => point.bits),
    y: published.map((point) => point.y),
    opacity: 0.45,
    marker: { color: themed("--quiet"), symbol: "circle-open", size: 8 },
    text: published.map(about),
    hovertemplate: "%{text}<br>%{x:.3f} bits: %{y:.5~g}<extra></extra>",
  };
}

function paretoNote(missing, ruined, published) {
  return [
    "Bits count codes, codebooks, scales and permutations.",
    missing ? `${missing} runs have no finite value here.` : null,
    ruined
      ? `${plural(ruined, "run")} above the view, at more than ${RUINED} times the best: double click to see all.`
      : null,
    published
      ? "Published numbers are of other models and texts and count bits in their own way: not to be compared, but to see how methods lie to one another."
      : null,
  ]
    .filter(Boolean)
    .join(" ");
}
