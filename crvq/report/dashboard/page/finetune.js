/* Losses over the steps of fine-tuning, one line per block, and what each block gained. */

function renderFinetune(runs) {
  const tuned = runs.filter((run) => run.finetune.length);
  const body = bodyOf("finetune");
  show("finetune", tuned.length > 0);
  body.replaceChildren();
  if (!tuned.length) return;
  const again = (name) => (value) => {
    choose(name, value);
    renderFinetune(shownRuns());
  };
  const run = tuned.find((one) => one.key === choice("tuned")) || newest(tuned);
  const stages = unique(run.finetune.map((curve) => curve.stage));
  const stage = stages.includes(choice("stage")) ? choice("stage") : stages[0];
  const curves = run.finetune.filter((curve) => curve.stage === stage);
  body.append(
    h(
      "div",
      { class: "controls" },
      select(
        "run",
        tuned.map((one) => [one.key, fullName(one)]),
        run.key,
        again("tuned"),
      ),
      stages.length > 1
        ? select(
            "stage",
            stages.map((name) => [name, name]),
            stage,
            again("stage"),
          )
        : null,
    ),
  );
  const grid = h("div", { class: "grid" });
  const lines = h("div", { class: "chart" });
  const gains = h("div", { class: "chart" });
  grid.append(h("figure", { class: "panel" }, h("figcaption", {}, "loss over steps"), lines));
  if (curves.length > 1)
    grid.append(
      h(
        "figure",
        { class: "panel" },
        h("figcaption", {}, "best validation loss, in parts of that before"),
        gains,
      ),
    );
  body.append(grid);
  queueMicrotask(() => {
    drawCurves(lines, curves, stage);
    if (curves.length > 1) drawGains(gains, curves, stage);
  });
}

function drawCurves(node, curves, stage) {
  const several = curves.length > 1;
  const traces = curves.flatMap((curve, index) => {
    const shade = several ? ramp(index / (curves.length - 1)) : colour(0);
    const name = curve.block === null ? stage : `block ${curve.block}`;
    const line = (values, dash, what) => ({
      type: "scatter",
      mode: curve.step.length > 1 ? "lines+markers" : "markers",
      connectgaps: true,
      x: curve.step,
      y: values,
      name: several ? plain(name) : what,
      line: { color: what === "train" && !several ? colour(1) : shade, dash, width: 1.5 },
      marker: { size: 4 },
      showlegend: !several,
      hovertemplate: `${plain(name)}, ${what}, step %{x}: %{y:.4~g}<extra></extra>`,
    });
    return several
      ? [line(curve.validation, "solid", "validation")]
      : [line(curve.validation, "solid", "validation"), line(curve.train, "dot", "train")];
  });
  const values = traces.flatMap((trace) => trace.y).filter((value) => value !== null);
  const log = wantsLog(values);
  draw(
    node,
    traces,
    {
      xaxis: { title: { text: "step" } },
      yaxis: {
        title: { text: several ? "validation loss" : "loss" },
        type: log ? "log" : "linear",
        ...(log ? logTicks(values) : {}),
      },
    },
    `Losses over the steps of fine-tuning, ${stage}`,
  );
}

function drawGains(node, curves, stage) {
  const points = curves.map((curve) => {
    const known = curve.validation.filter((value) => value !== null);
    return { block: curve.block, ratio: known.length && known[0] ? Math.min(...known) / known[0] : null };
  });
  draw(
    node,
    [
      {
        type: "bar",
        x: points.map((point) => point.block),
        y: points.map((point) => point.ratio),
        marker: { color: colour(0) },
        hovertemplate: "block %{x}: %{y:.3f}<extra></extra>",
      },
    ],
    {
      xaxis: { title: { text: "block" }, dtick: Math.ceil(points.length / 15) },
      yaxis: { title: { text: "after / before" }, range: [0, 1.05] },
    },
    `What each block gained, ${stage}`,
  );
}

/* From the first block to the last: dark blue to yellow, as in Cividis, within what can be seen. */
function ramp(part) {
  const ends = isDark()
    ? [
        [86, 140, 200],
        [253, 231, 90],
      ]
    : [
        [0, 34, 110],
        [190, 160, 40],
      ];
  const mixed = ends[0].map((from, index) => Math.round(from + part * (ends[1][index] - from)));
  return `rgb(${mixed.join(",")})`;
}
