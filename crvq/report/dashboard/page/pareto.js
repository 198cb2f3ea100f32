/* Bits per weight against a measure of quality, one point per setting; published numbers faint behind. */

const BITS = [
  ["average_quantized_weights", "bits per quantized weight, all counted"],
  ["average_all_weights", "bits per weight, all weights"],
];
const COLOURED_BY = [
  ["method", "method"],
  ["experiment", "experiment"],
  ["model", "model"],
];

function renderPareto(runs) {
  const body = bodyOf("pareto");
  const measured = runs.filter((run) => run.bits);
  const names = outcomeNames(measured).filter((name) => name in DATA.quality);
  show("pareto", names.length > 0);
  body.replaceChildren();
  if (!names.length) return;
  const again = (name) => (value) => {
    choose(name, value);
    renderPareto(shownRuns());
  };
  const outcome = names.includes(choice("quality")) ? choice("quality") : defaultQuality(measured, names);
  const bits = choice("bits", BITS[0][0]);
  const by = choice("by", "method");
  const sets = publishedSets(outcome);
  const set = publishedSet(outcome, sets);
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
  const points = settingPoints(measured, bits, outcome, by);
  const missing = measured.filter((run) => !isFiniteNumber(run.outcomes[outcome])).length;
  const positive = points.every((point) => point.y > 0);
  const outliers = points.length - inView(points, DATA.quality[outcome] && positive).length;
  body.append(
    node,
    h("p", { class: "quiet" }, paretoNote(points, missing, outliers, set !== "none")),
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

/* The ratio to full precision where published numbers can be compared with it, else the perplexity. */
function defaultQuality(runs, names) {
  const ratios = publishedSets("perplexity of any, ratio to full precision").length > 1;
  const outcome = ratios ? defaultOutcome(runs, RATIO) : defaultOutcome(runs);
  return names.includes(outcome) ? outcome : names[0];
}

function pointText(point) {
  const { run } = point;
  return [
    `<b>${plain(run.label)}</b>${point.count > 1 ? ` and ${plural(point.count - 1, "more seed")}` : ""}`,
    `${plain(run.experiment)}, ${plain(run.method)}, ${plain(run.model)}`,
    run.finetuned ? `fine-tuned: ${plain(run.finetuned)}` : "not fine-tuned",
    point.count > 1 ? `mean ± ${plainText(point.spread)} over ${point.count} runs` : null,
  ]
    .filter(Boolean)
    .join("<br>");
}

function drawPareto(node, points, outcome, bits, by, published) {
  const groups = unique(points.map((point) => String(point.run[by])));
  const traces = groups.map((group, index) => {
    // The legend shows the first one's symbol: a filled one, if there is any.
    const own = points.filter((point) => String(point.run[by]) === group);
    const members = [
      ...own.filter((point) => !point.run.finetuned),
      ...own.filter((point) => point.run.finetuned),
    ];
    const symbol = SYMBOLS[index % SYMBOLS.length];
    return {
      type: "scatter",
      mode: "markers",
      name: plain(group),
      x: members.map((point) => point.x),
      y: members.map((point) => point.y),
      error_y: members.some((point) => point.spread)
        ? { type: "data", array: members.map((point) => point.spread), thickness: 1.2, width: 3 }
        : undefined,
      marker: {
        color: colour(index),
        symbol: members.map((point) => (point.run.finetuned ? `${symbol}-open` : symbol)),
        size: 11,
        line: {
          width: members.map((point) => (point.run.finetuned ? 2 : 1)),
          color: members.map((point) => (point.run.finetuned ? colour(index) : themed("--card"))),
        },
      },
      text: members.map(pointText),
      hovertemplate: "%{text}<br>%{x:.3f} bits: %{y:.5~g}<extra></extra>",
    };
  });
  traces.unshift(
    publishedTrace(published),
    ...frontTraces(points, outcome),
    ...fullPrecisionTraces(points, outcome),
  );
  const values = points.map((point) => point.y);
  const log = DATA.quality[outcome] && Math.min(...values) > 0;
  const reach = reachOf(points, published, log);
  draw(
    node,
    traces.filter(Boolean),
    {
      height: 460 + (node.clientWidth < 450 ? 19 * traces.filter(Boolean).length : 0), // the legend's lines
      xaxis: { title: { text: BITS.find(([key]) => key === bits)[1] }, ...reach.x },
      yaxis: {
        title: { text: upright(outcome) },
        type: log ? "log" : "linear",
        ...(log ? logTicks(reach.values || values) : {}),
        ...reach.y,
      },
    },
    `${outcome} against bits per weight, ${plural(points.length, "setting")}`,
  );
}

/* Our runs decide what is in view, but degenerate ones do not: a double click shows them, and what is
   published beyond. */
const DEGENERATE = 1000;

function inView(points, log) {
  const ys = points.map((point) => point.y);
  return log ? ys.filter((y) => y <= DEGENERATE * Math.min(...ys)) : ys;
}

function reachOf(points, published, log) {
  const xs = points.map((point) => point.x);
  const inside = inView(points, log);
  const tops = points.filter((point) => inside.includes(point.y)).map((point) => point.y + point.spread);
  const ys = [...inside, ...tops]; // a bar's lower end may be below zero, where a log axis has nothing
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

function paretoNote(points, missing, outliers, published) {
  return [
    "Bits count codes, codebooks, scales and permutations.",
    points.some((point) => point.run.finetuned) ? "Open symbols: fine-tuned." : null,
    points.some((point) => point.count > 1)
      ? "Runs that differ in seeds alone are one point, their standard deviation its bar."
      : null,
    missing ? `${plural(missing, "run")} without a finite value here.` : null,
    outliers
      ? `${plural(outliers, "point")} above the view, at more than ${DEGENERATE} times the best: double click to see all.`
      : null,
    published
      ? "Published numbers are of other models and texts and count bits in their own way: not to be compared, but to see how methods lie to one another."
      : null,
  ]
    .filter(Boolean)
    .join(" ");
}
