/* Zero-shot scores by task, and agreement with full precision. */

function scoreColumns(runs) {
  const columns = [];
  for (const name of outcomeNames(runs)) {
    const average = /^(zero-shot) average of acc( over .*|), quantized$/.exec(name);
    if (average) columns.push([average[1] + average[2].replace(" over", ","), name, percentText]);
    else if (/^KL divergence on /.test(name))
      columns.push([name.replace("divergence on ", ""), name, plainText]);
    else if (/^top-1 agreement on /.test(name))
      columns.push([name.replace("agreement on ", ""), name, percentText]);
  }
  return columns;
}

function renderScores(runs) {
  const body = bodyOf("scores");
  const tested = runs.filter((run) => Object.keys(run.zero_shot).length);
  const compared = runs.filter((run) => Object.keys(run.agreement).length);
  show("scores", tested.length + compared.length > 0);
  body.replaceChildren();
  if (tested.length) body.append(h("h3", {}, "Zero-shot tasks"), ...zeroShot(tested));
  if (compared.length) body.append(h("h3", {}, "Agreement with full precision"), agreementTable(compared));
}

function zeroShot(runs) {
  const tasksOf = (run) => Object.keys(run.zero_shot);
  const metrics = unique(
    runs.flatMap((run) => Object.values(run.zero_shot).flatMap((task) => Object.keys(task.metrics))),
  );
  const metric = metrics.includes(choice("metric"))
    ? choice("metric")
    : metrics.includes("acc")
      ? "acc"
      : metrics[0];
  // An average means something only over the same tasks and limits: a table for each set of them.
  const setOf = (run) => tasksOf(run).sort().join("\n");
  const tables = unique(runs.map(setOf)).map((set) =>
    zeroShotTable(
      runs.filter((run) => setOf(run) === set),
      metric,
    ),
  );
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
    ...tables,
    h(
      "p",
      { class: "quiet" },
      `${metric} in percent ± standard error; ≈ marks scores within two standard errors of chance, ▼ those that are lower. A recovery is in brackets where tasks count in it in which full precision itself is marked: there is nothing to recover. ${limits(runs, unique(runs.flatMap(tasksOf)))}`,
    ),
  ];
}

/* A table of runs that answered the same tasks. */
function zeroShotTable(runs, metric) {
  const tasks = Object.keys(runs[0].zero_shot);
  const score = (run, task) => run.zero_shot[task].metrics[metric] || {};
  const right = (text, title) => ({ text, title, class: "number" });
  const heads = [
    "run",
    ...tasks.map((task) => right(task)),
    right("average", `of ${metric} over all tasks`),
    right("recovery", "average in parts of full precision's"),
  ];
  const rows = [];
  const chances = tasks.map((task) =>
    runs.map((run) => score(run, task).chance).find((value) => value != null),
  );
  if (chances.some((value) => value != null))
    rows.push(["chance", ...chances.map((value) => right(scoreText(value))), right(scoreText(mean(chances))), ""]);
  const seen = new Set();
  for (const run of runs) {
    const values = tasks.map((task) => score(run, task).full_precision);
    const key = [run.model, ...values.map(scoreText)].join("\n");
    if (seen.has(key) || values.every((value) => value == null)) continue;
    seen.add(key);
    rows.push([
      `full precision, ${run.model}`,
      ...tasks.map((task) => scoreCell(score(run, task), "full_precision", run.zero_shot[task])),
      right(scoreText(mean(values))),
      "",
    ]);
  }
  for (const run of runs) {
    const values = tasks.map((task) => score(run, task).quantized);
    if (values.every((value) => value == null)) continue;
    rows.push([
      runButton(run),
      ...tasks.map((task) => scoreCell(score(run, task), "quantized", run.zero_shot[task])),
      right(scoreText(mean(values))),
      recoveryCell(tasks.map((task) => score(run, task))),
    ]);
  }
  return table(heads, rows, `Zero-shot ${metric} of ${tasks.join("; ")}`);
}

/* Of the average; in brackets where full precision itself only guesses at some of the tasks. */
function recoveryCell(scores) {
  const [before, after] = ["full_precision", "quantized"].map((which) =>
    mean(scores.map((one) => one[which])),
  );
  if (!before || after === null) return { text: NOTHING, class: "number" };
  const guessed = scores.filter((one) => one.full_precision_flag).length;
  const recovery = percentText(after / before);
  return {
    text: guessed ? `(${recovery})` : recovery,
    title: guessed
      ? `full precision itself is no better than chance on ${guessed} of ${plural(scores.length, "task")}`
      : undefined,
    class: guessed ? "number near" : "number",
  };
}

function limits(runs, tasks) {
  const parts = tasks.flatMap((task) =>
    unique(
      runs
        .map((run) => run.zero_shot[task])
        .filter((one) => one && one.available > one.samples)
        .map((one) => `${task}: ${plainText(one.samples)} of ${plainText(one.available)} questions`),
    ),
  );
  return parts.length ? `${parts.join("; ")}.` : "";
}

function scoreCell(entry, which, task) {
  if (entry[which] == null) return { text: NOTHING, class: "number" };
  const error = number(entry[`${which}_stderr`]);
  const flag = entry[`${which}_flag`];
  const spread = error === null ? "" : ` ± ${(100 * error).toFixed(1)}`;
  const recovery =
    which === "quantized" && entry.recovery != null ? `recovery ${percentText(entry.recovery)}` : null;
  const title = [
    entry.chance == null ? null : `chance ${scoreText(entry.chance)}`,
    recovery && entry.full_precision_flag
      ? `${recovery}, which says nothing: full precision itself is no better than chance`
      : recovery,
    task.samples ? `${task.samples} questions` : null,
    task.shots == null ? null : `${task.shots} shots`,
    task.data,
  ]
    .filter(Boolean)
    .join(", ");
  return {
    text: `${flag ? `${flag} ` : ""}${scoreText(entry[which])}${spread}`,
    title,
    class: flag ? "number near" : "number",
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
    Object.entries(run.agreement).map(([dataset, entry]) => [
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
      right("KL divergence", "mean KL(full precision || quantized), nats per token"),
      right("top-1 agreement", "share of positions with the same most likely token"),
      right("tokens"),
      right("context"),
    ],
    rows,
    "Agreement with full precision",
  );
}
