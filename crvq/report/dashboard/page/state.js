/* What the reader chose: kept in the address, so that it survives a reload and can be sent on. */

const chosen = new URLSearchParams(location.hash.slice(1));

function choice(name, fallback) {
  return chosen.has(name) ? chosen.get(name) : fallback;
}

function choose(name, value) {
  if (value === "" || value == null) chosen.delete(name);
  else chosen.set(name, value);
  history.replaceState(null, "", `#${chosen}`);
}

const FILTERS = { experiment: "experiment", status: "status", model: "model", method: "method" };

function words() {
  return choice("search", "").toLowerCase().split(/\s+/).filter(Boolean);
}

/* Everything about a run that a search looks at. */
function searched(run) {
  if (!run.searched) {
    const values = Object.entries(run.config).map(([key, value]) => `${key}=${value}`);
    const error = run.error ? [run.error.type, run.error.message] : [];
    const texts = [
      run.key,
      run.label,
      run.model,
      run.method,
      run.status,
      run.sweep,
      ...run.notes,
      ...error,
      ...values,
    ];
    run.searched = texts.join("\n").toLowerCase();
  }
  return run.searched;
}

function shownRuns() {
  const asked = words();
  return DATA.runs.filter(
    (run) =>
      Object.keys(FILTERS).every(
        (name) => choice(name, "") === "" || String(run[FILTERS[name]]) === choice(name, ""),
      ) && asked.every((word) => searched(run).includes(word)),
  );
}

/* A run's name where several experiments stand together. */
function fullName(run) {
  return choice("experiment", "") === "" ? `${run.experiment}: ${run.label}` : run.label;
}

/* Texts of records as plotly takes them: it reads some tags. */
function plain(text) {
  const cut = String(text).length > 120 ? `${String(text).slice(0, 117)}…` : String(text);
  return cut.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
