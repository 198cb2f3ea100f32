/* Numbers as the tables show them. Records say NaN and infinity by name. */

const NOTHING = "–";

function number(value) {
  if (value == null || value === "" || typeof value === "boolean") return null;
  const parsed = Number(value);
  return Number.isNaN(parsed) && value !== "NaN" ? null : parsed;
}

function isFiniteNumber(value) {
  const parsed = number(value);
  return parsed !== null && Number.isFinite(parsed);
}

function written(value, form) {
  const parsed = number(value);
  if (parsed === null) return NOTHING;
  if (Number.isNaN(parsed)) return "NaN";
  return Number.isFinite(parsed) ? form(parsed) : parsed > 0 ? "∞" : "-∞";
}

const bitsText = (value) => written(value, (x) => x.toFixed(3));
const perplexityText = (value) => written(value, (x) => (x < 1000 ? x.toFixed(2) : grouped(Math.round(x))));
const plainText = (value) => written(value, significant);
const memoryText = (value) => written(value, (x) => `${(x / 2 ** 30).toFixed(2)} GiB`);
const percentText = (value) => written(value, (x) => `${(100 * x).toFixed(1)} %`);

function significant(x) {
  if (x === 0 || Number.isInteger(x)) return Math.abs(x) < 1e15 ? grouped(x) : x.toExponential(3);
  if (Math.abs(x) >= 1000 && Math.abs(x) < 1e7) return grouped(Math.round(x));
  const short = Number(x.toPrecision(4));
  return Math.abs(short) < 1e-4 || Math.abs(short) >= 1e7 ? short.toExponential() : String(short);
}

function grouped(x) {
  return x.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

function durationText(seconds) {
  return written(seconds, (x) => {
    if (x < 100) return `${x.toFixed(x < 10 ? 1 : 0)} s`;
    if (x < 6000) return `${(x / 60).toFixed(x < 600 ? 1 : 0)} min`;
    if (x < 172800) return `${(x / 3600).toFixed(x < 36000 ? 1 : 0)} h`;
    return `${(x / 86400).toFixed(1)} days`;
  });
}

/* Mean and standard deviation (n - 1); that of one value is 0. */
function meanAndSpread(values) {
  const middle = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  return { mean: middle, spread: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0 };
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function timeText(iso) {
  if (!iso) return NOTHING;
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return String(iso);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}`;
}
