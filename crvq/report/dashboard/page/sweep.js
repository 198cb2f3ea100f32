/* One chart for each experiment: an outcome along a swept key, a line for each setting of the rest. */

const LONG_NAME = 26;

function renderSweeps(runs) {
  const body = bodyOf("sweeps");
  const experiments = unique(runs.map((run) => run.experiment)).filter(
    (name) => DATA.experiments[name].axes.length,
  );
  show("sweeps", experiments.length > 0);
  body.replaceChildren();
  if (!experiments.length) return;
  const names = outcomeNames(runs.filter((run) => experiments.includes(run.experiment)));
  const outcome = names.includes(choice("outcome")) ? choice("outcome") : "";
  if (!names.length) {
    body.append(h("p", { class: "quiet" }, "No run has come to a number yet."));
    return;
  }
  const log = choice("log", "yes") === "yes";
  body.append(
    h(
      "div",
      { class: "controls" },
      select("outcome", [["", "perplexity"], ...names.map((name) => [name, name])], outcome, (value) => {
        choose("outcome", value);
        renderSweeps(shownRuns());
      }),
      checkbox("log axis where values span far", log, (value) => {
        choose("log", value ? "" : "no");
        renderSweeps(shownRuns());
      }),
    ),
  );
  const grid = h("div", { class: "grid" });
  body.append(grid);
  for (const name of experiments) {
    const own = runs.filter((run) => run.experiment === name);
    grid.append(sweepPanel(name, own, outcome || defaultOutcome(own), log));
  }
}

function sweepPanel(name, runs, outcome, log) {
  const experiment = DATA.experiments[name];
  const key = `x:${name}`;
  const axis = experiment.axes.includes(choice(key)) ? choice(key) : experiment.axes[0];
  const panel = h("figure", { class: "panel" }, h("figcaption", {}, name));
  if (experiment.axes.length > 1) {
    panel.append(
      select(
        "along",
        experiment.axes.map((one) => [one, axisName(name, one)]),
        axis,
        (value) => {
          choose(key, value);
          renderSweeps(shownRuns());
        },
      ),
    );
  }
  const lines = sweepLines(experiment, runs, axis, outcome);
  const missing = runs.length - lines.reduce((count, line) => count + line.points.length, 0);
  const node = h("div", { class: "chart" });
  panel.append(node);
  const notes = [
    fullPrecisionNote(runs, outcome),
    missing ? `${missing} of ${runs.length} runs have no finite value or do not set ${axisName(name, axis)}.` : null,
  ];
  panel.append(h("p", { class: "quiet" }, notes.filter(Boolean).join(" ")));
  if (lines.length) {
    queueMicrotask(() => drawSweep(node, lines, axis, outcome, experiment.numeric.includes(axis), log, name));
    panel.append(sweepNumbers(lines, axisName(name, axis), outcome));
  } else {
    node.replaceWith(h("p", { class: "quiet" }, "Nothing to draw for this outcome."));
  }
  return panel;
}

/* Points by the settings of all other swept keys; seeds are points of one line. */
function sweepLines(experiment, runs, axis, outcome) {
  const others = experiment.axes.filter((key) => key !== axis && !experiment.seeds.includes(key));
  const lines = new Map();
  for (const run of runs) {
    const values = experiment.values[run.key];
    const y = number(run.outcomes[outcome]);
    if (!(axis in values) || y === null || !Number.isFinite(y)) continue;
    const name = others
      .filter((key) => key in values)
      .map((key) => `${experiment.names[key]}=${valueText(values[key])}`)
      .join(" ");
    if (!lines.has(name)) lines.set(name, { name, points: [] });
    lines.get(name).points.push({ x: values[axis], y, run });
  }
  return [...lines.values()];
}

function drawSweep(node, lines, axis, outcome, numeric, log, name) {
  const all = lines.flatMap((line) => line.points.map((point) => point.y));
  const xs = unique(lines.flatMap((line) => line.points.map((point) => point.x)));
  // Long names are read from left to right: they take the vertical axis.
  const lying = !numeric && xs.some((x) => valueText(x).length > LONG_NAME);
  const [across, up] = lying ? ["y", "x"] : ["x", "y"];
  const traces = lines.map((line, index) => {
    const sorted = numeric ? [...line.points].sort((a, b) => a.x - b.x) : line.points;
    const means = meansByX(sorted, axis);
    return {
      type: "scatter",
      mode: numeric && means.length > 1 ? "lines+markers" : "markers",
      name: plain(line.name || outcome),
      [across]: means.map((point) => (numeric ? point.x : plain(valueText(point.x)))),
      [up]: means.map((point) => point.y),
      showlegend: lines.length > 1,
      [`error_${up}`]: means.some((point) => point.spread)
        ? { type: "data", array: means.map((point) => point.spread) }
        : undefined,
      marker: { color: colour(index), symbol: SYMBOLS[index % SYMBOLS.length], size: 10 },
      line: { color: colour(index) },
      text: means.map((point) => point.about),
      hovertemplate: `%{text}<br>%{${up}:.5~g}<extra></extra>`,
    };
  });
  const logX = numeric && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 50;
  const logY = log && wantsLog(all);
  return draw(
    node,
    traces,
    {
      height: lying ? Math.max(340, 150 + rowHeight(xs) * xs.length) : 340,
      [`${across}axis`]: {
        title: { text: lying ? "" : plain(axisName(name, axis)) },
        ...(numeric ? { type: logX ? "log" : "linear" } : categories(xs, lying)),
      },
      [`${up}axis`]: {
        title: { text: lying ? wrapped(outcome, node.clientWidth < 450 ? 14 : 40).map(plain).join("<br>") : upright(outcome) },
        type: logY ? "log" : "linear",
        ...(logY ? logTicks(all, lying ? node.clientWidth / 3 : Infinity) : {}),
      },
    },
    `${outcome} against ${axisName(name, axis)}, experiment ${name}`,
  );
}

/* An axis of names; on the vertical one long names are broken into lines, the first on top. */
function categories(values, lying) {
  const names = values.map((value) => plain(valueText(value)));
  return {
    type: "category",
    categoryarray: names,
    tickvals: names,
    ticktext: values.map((value) => wrapped(valueText(value)).map(plain).join("<br>")),
    automargin: true,
    ...(lying ? { autorange: "reversed" } : {}),
  };
}

/* Pixels that the longest of some names takes on the vertical axis. */
function rowHeight(values) {
  return 12 + 16 * Math.max(...values.map((value) => wrapped(valueText(value)).length));
}

/* Lines of about so many characters, broken at spaces. */
function wrapped(text, width = LONG_NAME + 4) {
  const lines = [];
  for (const word of text.split(" ")) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + 1 + word.length <= width) lines[last] += ` ${word}`;
    else lines.push(word);
  }
  return lines;
}

/* One point an x; runs that differ only in seeds are averaged, their standard deviation the bar. */
function meansByX(points, axis) {
  return unique(points.map((point) => point.x)).map((x) => {
    const same = points.filter((point) => point.x === x);
    const { mean: y, spread } = meanAndSpread(same.map((point) => point.y));
    return { x, y, spread, about: sweepHover(same, axis, spread) };
  });
}

function sweepHover(same, axis, spread) {
  const { run } = same[0];
  const title = axisName(run.experiment, axis);
  const texts = unique(same.map((point) => axisText(point.run, axis)));
  const bits = same.map((point) => number((point.run.bits || {}).average_quantized_weights));
  const known = bits.filter((value) => value !== null);
  return [
    plain(same.length > 1 ? `${run.label} and ${same.length - 1} more` : run.label),
    texts.join() === valueText(same[0].x) ? null : plain(`${title}, asked → used: ${texts.join("; ")}`),
    known.length ? `${bitsText(meanAndSpread(known).mean)} bits per quantized weight` : null,
    spread ? `mean ± ${plainText(spread)} of ${same.length} runs` : null,
  ]
    .filter(Boolean)
    .join("<br>");
}

function fullPrecisionNote(runs, outcome) {
  const found = /^(perplexity of .*), quantized$/.exec(outcome);
  const values = found
    ? unique(
        runs
          .map((run) => run.outcomes[`${found[1]}, full precision`])
          .filter((value) => value != null)
          .map(perplexityText),
      )
    : [];
  return values.length ? `Full precision: ${values.join(", ")}.` : null;
}

function sweepNumbers(lines, title, outcome) {
  const rows = lines.flatMap((line) =>
    line.points.map((point) => [
      valueText(point.x),
      line.name,
      { text: plainText(point.y), class: "number" },
    ]),
  );
  return h(
    "details",
    {},
    h("summary", {}, "numbers"),
    table([title, "others", { text: outcome, class: "number" }], rows, `${outcome} against ${title}`),
  );
}

/* A key as short as distinguishes an experiment's keys. */
function axisName(experiment, key) {
  return DATA.experiments[experiment].names[key];
}

function valueText(value) {
  return value === null ? "null" : String(value);
}
