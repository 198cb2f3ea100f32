/* What needs an eye: notes on models, runs under way, failures, files that could not be read. */

function renderNotices(runs) {
  const notes = unique(runs.filter((run) => run.model_note).map((run) => `${run.model}: ${run.model_note}.`));
  document
    .getElementById("notices")
    .replaceChildren(
      ...notes.map((note) => h("p", { class: "notice" }, note)),
      ...DATA.faults.map((fault) => h("p", { class: "notice bad" }, fault)),
    );
}

function renderProgress(runs) {
  const running = runs.filter((run) => run.status === "running");
  show("progress", running.length > 0);
  bodyOf("progress").replaceChildren(
    ...running.map((run) =>
      h(
        "article",
        { class: "item" },
        h("div", {}, runButton(run), " ", h("span", { class: "quiet" }, run.experiment)),
        howFar(run),
      ),
    ),
  );
}

/* How far a run has come that is not over, or that stopped. */
function howFar(run) {
  const { blocks_done: done, blocks, stage, elapsed, silent, alive } = run.progress;
  const facts = [
    blocks ? `${done} of ${blocks} blocks` : `${plural(done, "block")} so far`,
    stage ? `${alive ? "now" : "last seen in"}: ${stage}` : null,
    !alive || elapsed === null ? null : `${durationText(elapsed)} since it began`,
    run.resumes ? `resumed ${plural(run.resumes, "time")}` : null,
  ];
  return [
    blocks ? h("progress", { max: blocks, value: done, "aria-label": "blocks done" }) : null,
    h("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
    alive
      ? null
      : h(
          "p",
          { class: "error" },
          `Not running any more; last change ${durationText(silent)} ago. The same command resumes after the last completed block.`,
        ),
  ];
}

function renderFailures(runs) {
  const failed = runs.filter(
    (run) => ["failed", "stopped", "damaged"].includes(run.status) || run.faults.length,
  );
  show("failures", failed.length > 0);
  bodyOf("failures").replaceChildren(
    ...failed.map((run) =>
      h(
        "article",
        { class: "item" },
        h(
          "div",
          {},
          statusBadge(run),
          " ",
          runButton(run),
          " ",
          h("span", { class: "quiet" }, run.experiment),
        ),
        run.error ? errorBox(run) : null,
        run.status === "stopped" ? howFar(run) : null,
        run.faults.map((fault) => h("p", { class: "error" }, fault)),
        run.status === "failed" && run.layers
          ? h(
              "p",
              { class: "quiet" },
              `${plural(run.layers.blocks.length, "block")} done before; the same command resumes from there.`,
            )
          : null,
      ),
    ),
  );
}
