/* Which keys set runs apart: in an experiment as a whole, and between any two runs. */

function renderDifferences(runs) {
  const body = bodyOf("differences");
  const known = runs.filter((run) => Object.keys(run.config).length);
  show("differences", known.length > 0);
  body.replaceChildren();
  if (!known.length) return;
  for (const name of unique(known.map((run) => run.experiment)))
    body.append(
      experimentDifferences(
        name,
        known.filter((run) => run.experiment === name),
      ),
    );
  if (known.length > 1) body.append(h("h3", {}, "Two runs"), pairDifferences(known));
}

function experimentDifferences(name, runs) {
  const { axes, names, values } = DATA.experiments[name];
  const open = choice("experiment", "") === name;
  const summary = axes.length
    ? `${name}: ${plural(runs.length, "run")} that differ in ${axes.map((key) => names[key]).join(", ")}`
    : `${name}: ${plural(runs.length, "run")}, one configuration`;
  if (!axes.length) return h("p", {}, summary);
  const rows = runs.map((run) => [
    runButton(run),
    ...axes.map((key) => (key in values[run.key] ? valueText(values[run.key][key]) : NOTHING)),
  ]);
  return h(
    "details",
    { open },
    h("summary", {}, summary),
    table(["run", ...axes], rows, `Configurations of ${name}`),
  );
}

function pairDifferences(runs) {
  const options = runs.map((run) => [run.key, `${run.experiment}: ${run.label}`]);
  const first = runs.find((run) => run.key === choice("first")) || runs[0];
  const second =
    runs.find((run) => run.key === choice("second") && run !== first) || runs.find((run) => run !== first);
  const again = (name) => (value) => {
    choose(name, value);
    renderDifferences(shownRuns());
  };
  const sections = [
    ["configuration", first.config, second.config],
    ["machine, versions", first.place, second.place],
  ];
  const rows = sections.flatMap(([section, one, two]) =>
    unique([...Object.keys(one), ...Object.keys(two)])
      .filter((key) => one[key] !== two[key])
      .map((key) => [key, one[key] ?? NOTHING, two[key] ?? NOTHING, section]),
  );
  const shared = Object.keys(first.outcomes).filter(
    (name) =>
      isFiniteNumber(first.outcomes[name]) &&
      isFiniteNumber(second.outcomes[name]) &&
      first.outcomes[name] !== second.outcomes[name],
  );
  const results = shared.map((name) => [
    name,
    ...[first, second].map((run) => ({ text: plainText(run.outcomes[name]), class: "number" })),
    {
      text: number(first.outcomes[name])
        ? percentText(second.outcomes[name] / first.outcomes[name] - 1)
        : NOTHING,
      class: "number",
    },
  ]);
  const right = (text) => ({ text, class: "number" });
  return h(
    "div",
    {},
    h(
      "div",
      { class: "controls" },
      select("first", options, first.key, again("first")),
      select("second", options, second.key, again("second")),
    ),
    rows.length
      ? table(["key", "first", "second", "part"], rows, "Keys that differ", "values")
      : h("p", { class: "quiet" }, "One configuration, one machine."),
    results.length
      ? h(
          "details",
          {},
          h("summary", {}, `${results.length} results that differ`),
          table(["result", right("first"), right("second"), right("change")], results, "Results that differ"),
        )
      : null,
  );
}
