/* Settings as points, and which of them no other beats. */

/* Runs that differ only in seeds as one point: means, and the standard deviation of the outcome.
   A run that lies in two experiments counts once. */
function settingPoints(runs, bits, outcome, by) {
  const groups = new Map();
  for (const run of runs) {
    const [x, y] = [number(run.bits[bits]), number(run.outcomes[outcome])];
    if (x === null || y === null || !Number.isFinite(x) || !Number.isFinite(y)) continue;
    const key = `${run.setting}\n${run[by]}`;
    if (!groups.has(key)) groups.set(key, []);
    const members = groups.get(key);
    if (!members.some((one) => one.run.run_id === run.run_id)) members.push({ run, x, y });
  }
  return [...groups.values()].map((members) => {
    const { mean: y, spread } = meanAndSpread(members.map((one) => one.y));
    const x = meanAndSpread(members.map((one) => one.x)).mean;
    return { run: members[0].run, x, y, spread, count: members.length };
  });
}

/* Points that none beats in both, from the fewest bits on. */
function frontOf(points, lowerIsBetter) {
  const sign = lowerIsBetter ? 1 : -1;
  const front = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || sign * (a.y - b.y))) {
    if (!front.length || sign * point.y < sign * front[front.length - 1].y) front.push(point);
  }
  return front;
}

/* A front for each model, and next to it that of its runs without fine-tuning where there are both. */
function frontTraces(points, outcome) {
  const models = unique(points.map((point) => String(point.run.model)));
  return models.flatMap((model) => {
    const own = points.filter((point) => String(point.run.model) === model);
    const untuned = own.filter((point) => !point.run.finetuned);
    const name = (text) => plain(models.length > 1 ? `${text}, ${model}` : text);
    const line = (some, text, dash) => {
      const front = frontOf(some, DATA.quality[outcome]);
      return {
        type: "scatter",
        mode: "lines",
        name: name(text),
        x: front.map((point) => point.x),
        y: front.map((point) => point.y),
        line: { color: themed("--quiet"), width: 1.5, dash, shape: "hv" },
        hoverinfo: "skip",
      };
    };
    return untuned.length && untuned.length < own.length
      ? [line(own, "best, fine-tuned or not", "dot"), line(untuned, "best without fine-tuning", "solid")]
      : [line(own, "best so far", "dot")];
  });
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
