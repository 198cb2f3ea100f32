/* Numbers of other papers, faint behind our own. */

const RATIO = /^perplexity of .*, ratio to full precision$/;

function publishedKey(point) {
  return `${point.model}|${point.dataset}`;
}

/* What papers print of an outcome: perplexities as they are, or in parts of full precision's. */
function publishedFor(outcome) {
  const field = /^perplexity of .*, quantized$/.test(outcome)
    ? "perplexity"
    : RATIO.test(outcome)
      ? "relative"
      : null;
  return field === null
    ? []
    : DATA.published
        .filter((point) => isFiniteNumber(point[field]))
        .map((point) => ({ ...point, y: number(point[field]) }));
}

/* Model and dataset of published points, those with most points first. None is chosen at first for
   absolute perplexities: those of other models lie elsewhere whatever was done to them. */
function publishedSets(outcome) {
  const counts = new Map();
  for (const point of publishedFor(outcome))
    counts.set(publishedKey(point), (counts.get(publishedKey(point)) || 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  return [["none", "none"], ...sorted.map(([key, count]) => [key, `${key.replace("|", ", ")} (${count})`])];
}

function publishedSet(outcome, sets) {
  if (sets.some(([key]) => key === choice("published"))) return choice("published");
  return RATIO.test(outcome) && sets.length > 1 ? sets[1][0] : "none";
}

function publishedTrace(published) {
  if (!published.length) return null;
  const about = (point) =>
    [
      `<b>${plain(point.method)}</b> (published)`,
      `${plain(point.model)}, ${plain(point.dataset)}${point.context ? `, context ${plain(point.context)}` : ""}`,
      `read in: ${plain(point.source)}`,
      point.where ? `at: ${plain(point.where)}` : null,
      `confidence in the number: ${plain(point.confidence)}`,
      point.note ? plain(point.note) : null,
    ]
      .filter(Boolean)
      .join("<br>");
  return {
    type: "scatter",
    mode: "markers",
    name: plain(`published: ${published[0].model}, ${published[0].dataset}`),
    x: published.map((point) => point.bits),
    y: published.map((point) => point.y),
    opacity: 0.45,
    marker: { color: themed("--quiet"), symbol: "circle-open", size: 8 },
    text: published.map(about),
    hovertemplate: "%{text}<br>%{x:.3f} bits: %{y:.5~g}<extra></extra>",
  };
}
