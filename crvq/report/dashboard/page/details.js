/* Everything about one run, in a dialog. */

function openDetails(run) {
  const dialog = document.getElementById("details");
  const close = h(
    "button",
    { type: "button", class: "close", "aria-label": "close", onclick: () => dialog.close() },
    "✕",
  );
  dialog.replaceChildren(
    h("div", { class: "dialog-head" }, h("h2", { id: "details-head" }, fullName(run)), close),
    ...[
      detailFacts(run),
      detailError(run),
      detailPerplexity(run),
      detailEffective(run),
      detailBits(run),
      detailSeconds(run),
      detailGenerations(run),
      folded("configuration", run.config),
      folded("machine, versions, seeds", run.place),
    ]
      .flat(2)
      .filter(Boolean),
  );
  dialog.showModal();
}

function detailFacts(run) {
  const facts = [
    ["status", statusBadge(run)],
    ["experiment", run.experiment],
    ["run id", run.run_id],
    ["folder", run.folder],
    ["model", [run.model, run.model_note].filter(Boolean).join(": ")],
    ["method", run.method],
    ["sweep", run.sweep],
    ["started", timeText(run.started)],
    ["finished", timeText(run.finished)],
    ["resumes", run.resumes],
    ["peak memory", memoryText(run.peak_memory_bytes)],
  ];
  const list = facts.filter(([, value]) => value != null && value !== "" && value !== NOTHING);
  const notes = [...run.notes, ...run.faults];
  return [
    h(
      "dl",
      {},
      list.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
    notes.length
      ? h(
          "ul",
          { class: "notes" },
          notes.map((note) => h("li", {}, note)),
        )
      : null,
  ];
}

function detailError(run) {
  return run.error ? [h("h3", {}, "Error"), errorBox(run)] : null;
}

function errorBox(run) {
  const { type, message, traceback } = run.error;
  return h(
    "div",
    {},
    h("p", { class: "error" }, `${type}: ${message}`),
    traceback.length
      ? h(
          "details",
          {},
          h("summary", {}, "end of the traceback"),
          h("pre", { tabindex: 0 }, traceback.join("\n")),
        )
      : null,
  );
}

function detailPerplexity(run) {
  if (!run.perplexity.length) return null;
  const rows = run.perplexity.map((entry) => [
    entry.name,
    ...[entry.full_precision, entry.quantized].map((value) => ({
      text: perplexityText(value),
      class: "number",
    })),
    { text: plainText(entry.context), class: "number" },
    { text: plainText(entry.tokens), class: "number" },
    entry.about || "",
  ]);
  const right = (text) => ({ text, class: "number" });
  return [
    h("h3", {}, "Perplexity"),
    table(
      ["dataset", right("full precision"), right("quantized"), right("context"), right("tokens"), "protocol"],
      rows,
      "Perplexity",
    ),
  ];
}

function detailEffective(run) {
  const rows = Object.entries(run.effective).map(([key, [asked, used]]) => [
    key,
    plainOrText(asked),
    plainOrText(used),
  ]);
  return rows.length
    ? [h("h3", {}, "Asked and used"), table(["parameter", "asked", "used"], rows, "Asked and used")]
    : null;
}

function plainOrText(value) {
  return isFiniteNumber(value)
    ? plainText(value)
    : value !== null && typeof value === "object"
      ? JSON.stringify(value)
      : String(value);
}

function detailBits(run) {
  if (!run.bits || !run.bits.quantized_weights) return null;
  const parts = ["codes", "codebooks", "scales", "permutation", "other"].filter((part) => run.bits[part]);
  const rows = parts.map((part) => [
    part,
    { text: bitsText(run.bits[part] / run.bits.quantized_weights), class: "number" },
  ]);
  rows.push(["all", { text: bitsText(run.bits.average_quantized_weights), class: "number" }]);
  return [
    h("h3", {}, "Bits per quantized weight"),
    table(["part", { text: "bits", class: "number" }], rows, "Bits by part"),
  ];
}

function detailSeconds(run) {
  const stages = Object.entries(run.seconds);
  if (!stages.length) return null;
  const rows = stages.map(([stage, seconds]) => [
    stage,
    { text: durationText(seconds), class: "number" },
    { text: percentText(number(seconds) / run.total_seconds), class: "number" },
  ]);
  return [
    h("h3", {}, "Time"),
    table(
      ["stage", { text: "time", class: "number" }, { text: "part", class: "number" }],
      rows,
      "Time by stage",
    ),
  ];
}

function detailGenerations(run) {
  const said = run.generations;
  if (!said.length) return null;
  const heads = unique(said.flatMap((one) => Object.keys(one)));
  const rows = said.map((one) =>
    heads.map((head) => ({ text: plainOrText(one[head] ?? NOTHING), class: "said" })),
  );
  return [
    h("h3", {}, "What the models say"),
    table(
      heads.map((head) => head.replace(/_/g, " ")),
      rows,
      "Generated text",
    ),
  ];
}

function folded(title, values) {
  const rows = Object.entries(values);
  return rows.length
    ? h("details", {}, h("summary", {}, title), table(["key", "value"], rows, title, "values"))
    : null;
}
