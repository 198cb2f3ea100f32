/* Heat maps, block by kind of linear, of one run or of one against another. */

function renderLayers(runs) {
  const mapped = runs.filter((run) => run.layers && Object.keys(run.layers.maps).length);
  const body = bodyOf("layers");
  show("layers", mapped.length > 0);
  body.replaceChildren();
  if (!mapped.length) return;
  const again = (name) => (value) => {
    choose(name, value);
    renderLayers(shownRuns());
  };
  const keys = mapped.map((run) => [run.key, fullName(run)]);
  const run = mapped.find((one) => one.key === choice("layers")) || newest(mapped);
  const other = mapped.find((one) => one.key === choice("against") && one !== run);
  const measures = Object.keys(DATA.measures).filter(
    (name) => name in run.layers.maps && (!other || name in other.layers.maps),
  );
  const measure = measures.includes(choice("measure")) ? choice("measure") : measures[0];
  body.append(
    h(
      "div",
      { class: "controls" },
      select("run", keys, run.key, again("layers")),
      select(
        "measure",
        measures.map((name) => [name, DATA.measures[name]]),
        measure,
        again("measure"),
      ),
      select(
        "divided by that of",
        [["", "(nothing)"], ...keys.filter(([key]) => key !== run.key)],
        other ? other.key : "",
        again("against"),
      ),
    ),
  );
  const node = h("div", { class: "chart" });
  body.append(node);
  if (measure === undefined) return;
  drawLayers(node, run, other, measure);
  body.append(layerNote(run, other, measure), layerNotes(run));
}

function newest(runs) {
  const complete = runs.filter((run) => run.status === "complete");
  return (complete.length ? complete : runs).reduce((last, run) =>
    (run.started || "") >= (last.started || "") ? run : last,
  );
}

function drawLayers(node, run, other, measure) {
  const { blocks, kinds, shapes } = run.layers;
  const values = other ? ratios(run, other, measure) : run.layers.maps[measure];
  const flat = values.flat().filter((value) => value !== null);
  const log = other || (measure !== "bits" && wantsLog(flat.filter((value) => value > 0)));
  const colours = values.map((row) =>
    row.map((value) => (value === null || (log && value <= 0) ? null : log ? Math.log10(value) : value)),
  );
  const text = values.map((row, line) =>
    row.map(
      (value, column) =>
        `block ${blocks[column]}, ${plain(kinds[line])} (${plain(shapes[kinds[line]] || "")})<br>${plain(DATA.measures[measure])}${other ? ", ratio" : ""}: <b>${plainText(value)}</b>`,
    ),
  );
  const reach = Math.max(
    ...colours
      .flat()
      .filter((value) => value !== null)
      .map(Math.abs),
    0.01,
  );
  const trace = {
    type: "heatmap",
    x: blocks,
    y: shortKinds(kinds).map(plain),
    z: colours,
    text,
    hovertemplate: "%{text}<extra></extra>",
    xgap: node.clientWidth > 600 ? 1 : 0,
    ygap: 1,
    colorscale: other ? divergingScale() : "Cividis",
    ...(other ? { zmin: -reach, zmax: reach } : {}),
    colorbar: {
      thickness: 12,
      outlinewidth: 0,
      ...(log ? logBar(other ? [-reach, reach] : colours.flat()) : {}),
    },
  };
  draw(
    node,
    [trace],
    {
      height: 90 + 34 * kinds.length,
      margin: { l: 10, r: 10, t: 10, b: 40 },
      xaxis: {
        title: { text: "block" },
        showgrid: false,
        tick0: blocks[0],
        dtick: Math.ceil((blocks.length * 24) / Math.max(node.clientWidth, 200)),
      },
      yaxis: { autorange: "reversed", showgrid: false, ticks: "" },
    },
    `${DATA.measures[measure]} by block and kind of linear, ${fullName(run)}`,
  );
}

/* The last part of a name, where that distinguishes all kinds. */
function shortKinds(kinds) {
  const last = kinds.map((kind) => kind.split(".").pop());
  return unique(last).length === kinds.length ? last : kinds;
}

/* Blue: lower than the other run's, orange: higher; the middle fades into the page. */
function divergingScale() {
  return [
    [0, isDark() ? "#56b4e9" : "#0072b2"],
    [0.5, themed("--card")],
    [1, isDark() ? "#ff9147" : "#d55e00"],
  ];
}

/* Ticks of a colour bar whose values are logarithms. */
function logBar(logs) {
  const known = logs.filter((value) => value !== null);
  const low = Math.min(...known);
  const high = Math.max(...known);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * (high - low));
  return { tickvals: ticks, ticktext: ticks.map((tick) => String(Number((10 ** tick).toPrecision(2)))) };
}

function ratios(run, other, measure) {
  const { blocks, kinds } = other.layers;
  return run.layers.maps[measure].map((row, line) =>
    row.map((value, column) => {
      const theirs = (other.layers.maps[measure][kinds.indexOf(run.layers.kinds[line])] || [])[
        blocks.indexOf(run.layers.blocks[column])
      ];
      return value === null || !theirs ? null : value / theirs;
    }),
  );
}

function layerNote(run, other, measure) {
  const values = (other ? ratios(run, other, measure) : run.layers.maps[measure])
    .flat()
    .filter((value) => value !== null);
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
  const said =
    {
      relative_loss: "Relative loss is tr(ΔW H ΔWᵀ) / tr(W H Wᵀ). ",
      loss: "Loss is tr(ΔW H ΔWᵀ) / out features. ",
    }[measure] || "";
  const ratio = other ? `Below 1 (blue), ${run.label} is lower than ${other.label}. ` : "";
  return h(
    "p",
    { class: "quiet" },
    `${said}${ratio}Lowest ${plainText(sorted[0])}, median ${plainText(middle)}, highest ${plainText(sorted[sorted.length - 1])}.`,
  );
}

function layerNotes(run) {
  const notes = run.layers.notes;
  if (!notes.length) return "";
  const counts = new Map();
  for (const [block, kind, note] of notes) {
    const key = `${kind}\n${note}`;
    if (!counts.has(key)) counts.set(key, { kind, note, blocks: [] });
    counts.get(key).blocks.push(block);
  }
  const rows = [...counts.values()].map(({ kind, note, blocks }) => [kind, spans(blocks), note]);
  return h(
    "details",
    {},
    h("summary", {}, `notes on ${plural(notes.length, "linear")}`),
    table(["linear", "blocks", "note"], rows, "Notes on linears"),
  );
}

/* 0, 1, 2, 5 as 0-2, 5. */
function spans(blocks) {
  const parts = [];
  for (const block of [...blocks].sort((a, b) => a - b)) {
    const last = parts[parts.length - 1];
    if (last && block === last[1] + 1) last[1] = block;
    else parts.push([block, block]);
  }
  return parts.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(", ");
}
