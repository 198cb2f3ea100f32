/* The table of runs: sorted by any column, filtered by the filters on top, saved as CSV. */

function runColumns(runs) {
  const experiment = choice("experiment", "");
  const axes = experiment && DATA.experiments[experiment] ? DATA.experiments[experiment].axes : [];
  const text = (head, get, more) => ({ head, get, sort: get, ...more });
  const count = (head, get, form, title) => ({
    head,
    title,
    get: (run) => form(get(run)),
    sort: (run) => number(get(run)),
    class: "number",
  });
  // What differs and has no column as an axis of the sweep.
  const several = (key, get) => !axes.includes(key) && unique(runs.map(get)).length > 1;
  const columns = [text("run", (run) => run.label, { node: runButton })];
  if (!experiment) columns.push(text("experiment", (run) => run.experiment));
  for (const key of axes)
    columns.push({
      head: axisName(experiment, key),
      title: key,
      get: (run) => axisText(run, key),
      sort: (run) => axisValue(run, key),
    });
  columns.push(text("status", (run) => run.status, { node: statusBadge }));
  if (several("model.name", (run) => run.model)) columns.push(text("model", (run) => run.model || NOTHING));
  if (several("method", (run) => run.method)) columns.push(text("method", (run) => run.method || NOTHING));
  columns.push(
    count(
      "bits",
      (run) => run.bits && run.bits.average_quantized_weights,
      bitsText,
      "bits per quantized weight: codes, codebooks, scales, permutations",
    ),
    count(
      "bits, all",
      (run) => run.bits && run.bits.average_all_weights,
      bitsText,
      "bits per weight over all weights of the model",
    ),
  );
  for (const name of unique(runs.flatMap((run) => run.perplexity.map((entry) => entry.name)))) {
    const entry = (run) => run.perplexity.find((one) => one.name === name) || {};
    const best = (run) =>
      entry(run).quantized == null && run.method === "full_precision"
        ? entry(run).full_precision
        : entry(run).quantized;
    columns.push(count(`ppl ${name}`, best, perplexityText, `perplexity of the quantized model on ${name}`));
    if (unique(runs.map((run) => entry(run).full_precision).filter((value) => value != null)).length > 1)
      columns.push(
        count(
          `ppl ${name}, full`,
          (run) => entry(run).full_precision,
          perplexityText,
          `perplexity in full precision on ${name}`,
        ),
      );
  }
  for (const [head, outcome, form] of scoreColumns(runs))
    columns.push(count(head, (run) => run.outcomes[outcome], form, outcome));
  columns.push(
    count("time", (run) => run.total_seconds, durationText, "seconds of all stages"),
    count("memory", (run) => run.peak_memory_bytes, memoryText, "peak memory"),
  );
  if (runs.some((run) => run.resumes)) columns.push(count("resumes", (run) => run.resumes, plainText));
  columns.push({ head: "started", get: (run) => timeText(run.started), sort: (run) => run.started || "" });
  return columns;
}

function axisValue(run, key) {
  return (DATA.experiments[run.experiment].values[run.key] || {})[key];
}

function axisText(run, key) {
  const value = axisValue(run, key);
  if (value === undefined) return NOTHING;
  const used = run.effective[key.replace(/^method_params\./, "")];
  return used && valueText(used[0]) === valueText(value) && plainText(used[1]) !== plainText(used[0])
    ? `${valueText(value)} → ${plainText(used[1])}`
    : valueText(value);
}

function runButton(run) {
  return h(
    "button",
    { type: "button", class: "link", onclick: () => openDetails(run), title: "details" },
    run.label,
  );
}

function statusBadge(run) {
  const signs = { complete: "✓", running: "…", stopped: "■", failed: "✗", damaged: "!" };
  return h("span", { class: `badge ${run.status}` }, `${signs[run.status] || ""} ${run.status}`);
}

function renderTable(runs) {
  const body = bodyOf("runs");
  const focused = document.activeElement && document.activeElement.dataset.sort;
  const columns = runColumns(runs);
  const [sortHead, direction] = choice("sort", "").split("|");
  const sorting = columns.find((column) => column.head === sortHead);
  const rows = sorting ? sorted(runs, sorting.sort, direction === "down") : runs;
  const heads = columns.map((column) => {
    const active = column === sorting;
    const button = h(
      "button",
      {
        type: "button",
        class: "sort",
        "data-sort": column.head,
        title: column.title || `sort by ${column.head}`,
        onclick: () => sortBy(column, active && direction !== "down"),
      },
      breakable(column.head),
      h("span", { "aria-hidden": "true" }, active ? (direction === "down" ? " ▼" : " ▲") : ""),
    );
    return h(
      "th",
      {
        scope: "col",
        class: column.class,
        "aria-sort": active ? (direction === "down" ? "descending" : "ascending") : null,
      },
      button,
    );
  });
  const lines = rows.map((run) =>
    h(
      "tr",
      { "data-key": run.key },
      columns.map((column, index) =>
        h(
          index ? "td" : "th",
          { class: column.class, scope: index ? null : "row" },
          column.node ? column.node(run) : column.get(run),
        ),
      ),
    ),
  );
  body.replaceChildren(
    h(
      "div",
      { class: "controls" },
      h("p", { class: "quiet", id: "count", role: "status" }, `${runs.length} of ${DATA.runs.length} runs`),
      h("button", { type: "button", onclick: () => saveCsv(rows, columns) }, "save as CSV"),
    ),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of runs" },
      h("table", { id: "run-table" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, lines)),
    ),
  );
  if (!runs.length) body.append(h("p", {}, "No run fits these filters."));
  if (focused)
    for (const button of body.querySelectorAll("button.sort"))
      if (button.dataset.sort === focused) button.focus();
}

function sortBy(column, down) {
  choose("sort", `${column.head}|${down ? "down" : "up"}`);
  renderTable(shownRuns());
}

/* Values that are not there come last, whichever way round. */
function sorted(runs, get, down) {
  const absent = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  return [...runs].sort((first, second) => {
    const [a, b] = [get(first), get(second)];
    if (absent(a) || absent(b)) return absent(a) - absent(b);
    const order =
      typeof a === "number" && typeof b === "number"
        ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  });
}

/* Numbers in full; a text that a spreadsheet would take for a formula gets a quote before it. */
function saveCsv(rows, columns) {
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = typeof value !== "number" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const lines = [
    ["run_id", ...columns.map((column) => column.head)],
    ...rows.map((run) => [run.run_id, ...columns.map((column) => column.sort(run))]),
  ];
  const file = new Blob([lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n"], {
    type: "text/csv",
  });
  const link = h("a", { href: URL.createObjectURL(file), download: "runs.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
