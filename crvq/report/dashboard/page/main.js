/* The page as a whole: filters, theme, printing, reloading. */

function renderAll() {
  const runs = shownRuns();
  for (const render of [
    renderNotices,
    renderProgress,
    renderFailures,
    renderTable,
    renderPareto,
    renderSweeps,
    renderScores,
    renderLayers,
    renderFinetune,
    renderDifferences,
  ])
    render(runs);
}

function renderFilters() {
  const form = document.getElementById("filters");
  const controls = Object.entries(FILTERS).map(([name, field]) => {
    const values = unique(DATA.runs.map((run) => String(run[field]))).sort();
    const all = ["", values.length > 1 ? `all ${values.length}` : "all"];
    return values.length > 1
      ? select(name, [all, ...values.map((value) => [value, value])], choice(name, ""), (value) => {
          choose(name, value);
          renderAll();
        })
      : null;
  });
  let pending = 0;
  const search = h("input", {
    type: "search",
    id: "search",
    placeholder: "any word, key=value",
    value: choice("search", ""),
    oninput: () => {
      clearTimeout(pending);
      pending = setTimeout(() => {
        choose("search", search.value);
        renderAll();
      }, 150);
    },
  });
  const clear = h(
    "button",
    {
      type: "reset",
      onclick: () => {
        ["search", ...Object.keys(FILTERS)].forEach((name) => choose(name, ""));
        renderFilters();
        renderAll();
      },
    },
    "clear",
  );
  form.replaceChildren(
    h("label", { class: "control" }, h("span", {}, "search"), search),
    ...controls.filter(Boolean),
    clear,
  );
  form.onsubmit = (event) => event.preventDefault();
}

const THEMES = { "": "light or dark: as the system", light: "light", dark: "dark" };

function stored(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name) || "";
  } catch {
    return value || "";
  }
}

function applyTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

function renderSwitches() {
  const theme = document.documentElement.dataset.theme || "";
  const switches = document.getElementById("switches");
  switches.replaceChildren(
    select("theme", Object.entries(THEMES), theme, (value) => {
      stored("crvq-theme", value);
      applyTheme(value);
      renderAll();
    }),
  );
  const seconds = Number(document.body.dataset.reload);
  if (!seconds) return;
  let live = choice("live", "yes") === "yes";
  switches.append(
    checkbox(`reload every ${seconds} s`, live, (value) => {
      live = value;
      choose("live", value ? "" : "no");
    }),
  );
  /* Not under the reader's hands: not while a dialog is open, a control is in use or the page is hidden. */
  setInterval(() => {
    const busy =
      document.hidden ||
      document.getElementById("details").open ||
      /^(INPUT|SELECT)$/.test((document.activeElement || {}).tagName || "");
    if (live && !busy) {
      try {
        sessionStorage.setItem("crvq-scroll", String(scrollY));
      } catch {
        /* the browser then keeps the place as well as it can */
      }
      location.reload();
    }
  }, seconds * 1000);
}

function start() {
  applyTheme(stored("crvq-theme"));
  const counts = unique(DATA.runs.map((run) => run.status)).map(
    (status) => `${DATA.runs.filter((run) => run.status === status).length} ${status}`,
  );
  document.getElementById("made").textContent =
    `${DATA.runs.length} runs (${counts.join(", ")}), made ${timeText(DATA.made)}`;
  renderSwitches();
  renderFilters();
  renderAll();
  try {
    const place = sessionStorage.getItem("crvq-scroll");
    sessionStorage.removeItem("crvq-scroll");
    if (place !== null) scrollTo(0, Number(place));
  } catch {
    /* as above */
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renderAll);
  const dialog = document.getElementById("details");
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  let before = "";
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme || "";
    applyTheme("light");
    renderAll();
  });
  addEventListener("afterprint", () => {
    applyTheme(before);
    renderAll();
  });
}

start();
