/* Zero-shot scores by task, and agreement with full precision. */

function scoreColumns(runs) {
  const columns = [];
  const known = outcomeNames(runs);
  const average = known.find((name) => /^zero-shot average of acc, quantized$/.test(name));
  if (average) columns.push(["zero-shot", average, percentText]);
  for (const name of known.filter((one) => /^KL divergence on /.test(one)))
    columns.push([name.replace("divergence on ", ""), name, plainText]);
  for (const name of known.filter((one) => /^top-1 agreement on /.test(one)))
    columns.push([name.replace("agreement on ", ""), name, percentText]);
  return columns;
}

function renderScores(runs) {
  const body = bodyOf("scores");
  const tested = runs.filter((run) => run.sections.zero_shot);
  const compared = runs.filter((run) => run.sections.agreement);
  show("scores", tested.length + compared.length > 0);
  body.replaceChildren();
  if (tested.length) body.append(h("h3", {}, "Zero-shot tasks"), ...zeroShot(tested));
  if (compared.length) body.append(h("h3", {}, "Agreement with full precision"), agreementTable(compared));
}

function zeroShot(runs) {
  const metrics = unique(
    runs.flatMap((run) =>
      Object.values(run.sections.zero_shot).flatMap((task) => Object.keys(task.metrics || {})),
    ),
  );
  const metric = metrics.includes(choice("metric"))
    ? choice("metric")
    : metrics.includes("acc")
      ? "acc"
      : metrics[0];
  const tasks = unique(runs.flatMap((run) => Object.keys(run.sections.zero_shot)));
  const score = (run, task) => ((run.sections.zero_shot[task] || {}).metrics || {})[metric] || {};
  const right = (text, title) => ({ text, title, class: "number" });
  const heads = [
    "run",
    ...tasks.map((task) => right(task)),
    right("average", `of ${metric} over all tasks`),
    right("recovery", "average in parts of full precision's"),
  ];
  const rows = [];
  const reference = (name, key) => {
    const found = tasks.map((task) =>
      runs.map((run) => score(run, task)[key]).find((value) => value != null),
    );
    if (found.some((value) => value != null))
      rows.push([name, ...found.map((value) => right(scoreText(value))), right(scoreText(mean(found))), ""]);
  };
  reference("chance", "chance");
  for (const model of unique(runs.map((run) => run.model))) {
    const own = runs.filter((run) => run.model === model);
    const found = tasks.map((task) =>
      own.map((run) => score(run, task).full_precision).find((value) => value != null),
    );
    rows.push([
      `full precision, ${model}`,
      ...found.map((value) => right(scoreText(value))),
      right(scoreText(mean(found))),
      "",
    ]);
  }
  for (const run of runs) {
    const values = tasks.map((task) => score(run, task).quantized);
    const before = tasks.map((task) => score(run, task).full_precision);
    if (values.every((value) => value == null)) continue;
    const recovery = mean(values) !== null && mean(before) ? mean(values) / mean(before) : null;
    rows.push([
      runButton(run),
      ...tasks.map((task) => scoreCell(score(run, task), run.sections.zero_shot[task])),
      right(scoreText(mean(values))),
      right(percentText(recovery)),
    ]);
  }
  return [
    metrics.length > 1
      ? h(
          "div",
          { class: "controls" },
          select(
            "metric",
            metrics.map((name) => [name, name]),
            metric,
            (value) => {
              choose("metric", value);
              renderScores(shownRuns());
            },
          ),
        )
      : "",
    table(heads, rows, `Zero-shot ${metric}`),
    h(
      "p",
      { class: "quiet" },
      `${metric} in percent ± standard error; ≈ marks scores within two standard errors of chance. ${limits(runs, tasks)}`,
    ),
  ];
}

function limits(runs, tasks) {
  const parts = tasks.flatMap((task) =>
    unique(
      runs
        .map((run) => run.sections.zero_shot[task])
        .filter((one) => one && one.available > one.samples)
        .map((one) => `${task}: first ${one.samples} of ${one.available} questions`),
    ),
  );
  return parts.length ? `${parts.join("; ")}.` : "";
}

function scoreCell(entry, task) {
  if (entry.quantized == null) return { text: NOTHING, class: "number" };
  const error = number(entry.quantized_stderr);
  const near =
    entry.chance != null && error !== null && Math.abs(entry.quantized - entry.chance) <= 2 * error;
  const spread = error === null ? "" : ` ± ${(100 * error).toFixed(1)}`;
  const title = [
    entry.chance == null ? null : `chance ${scoreText(entry.chance)}`,
    `recovery ${percentText(entry.recovery)}`,
    task.samples ? `${task.samples} questions` : null,
    task.shots == null ? null : `${task.shots} shots`,
    task.data,
  ]
    .filter(Boolean)
    .join(", ");
  return {
    text: `${near ? "≈ " : ""}${scoreText(entry.quantized)}${spread}`,
    title,
    class: near ? "number near" : "number",
  };
}

function scoreText(value) {
  return written(value, (x) => (100 * x).toFixed(1));
}

function mean(values) {
  const known = values.map(number);
  return known.length && known.every((value) => value !== null)
    ? known.reduce((sum, value) => sum + value, 0) / known.length
    : null;
}

function agreementTable(runs) {
  const right = (text, title) => ({ text, title, class: "number" });
  const rows = runs.flatMap((run) =>
    Object.entries(run.sections.agreement).map(([dataset, entry]) => [
      runButton(run),
      dataset,
      right(plainText(entry.kl_divergence)),
      right(percentText(entry.top1_agreement)),
      right(plainText(entry.tokens)),
      right(plainText(entry.context)),
    ]),
  );
  return table(
    [
      "run",
      "text",
      right("KL divergence", "mean KL(full precision || quantized), nats a token"),
      right("top-1 agreement", "share of positions with the same most likely token"),
      right("tokens"),
      right("context"),
    ],
    rows,
    "Agreement with full precision",
  );
}
