/* Elements and texts. Strings of records enter the page here, as text and never as markup. */

const DATA = JSON.parse(document.getElementById("data").textContent);

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(
    ...children
      .flat(3)
      .filter((child) => child != null)
      .map(asNode),
  );
  return element;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/* A name that may be broken after its underscores and dots: one long word would overlap its
   neighbour in a narrow column. */
function breakable(text) {
  return String(text)
    .split(/(?<=[_.])/)
    .flatMap((part, index) => (index ? [h("wbr"), part] : [part]));
}

function bodyOf(section) {
  return document.querySelector(`#${section} > .body`);
}

function show(section, visible) {
  document.getElementById(section).hidden = !visible;
}

/* A labelled select; options are [value, text] pairs. */
function select(label, options, value, change) {
  const control = h("select", { "aria-label": label, onchange: () => change(control.value) });
  for (const [key, text] of options) {
    control.append(h("option", { value: key, selected: key === value }, text));
  }
  return h("label", { class: "control" }, h("span", {}, label), control);
}

function checkbox(label, value, change) {
  const control = h("input", { type: "checkbox", onchange: () => change(control.checked) });
  control.checked = value;
  return h("label", { class: "control check" }, control, h("span", {}, label));
}

function breakableHead(head) {
  return typeof head === "string" ? { text: breakable(head) } : head;
}

/* A table that scrolls inside itself. Cells are texts, nodes, or {text, class, sort, title}. */
function table(heads, rows, caption, kind) {
  const cell = (tag, value, more) => {
    const spec = value && typeof value === "object" && !(value instanceof Node) ? value : { text: value };
    const attributes = { class: spec.class, title: spec.title, ...more };
    return h(tag, attributes, spec.text == null ? "" : spec.text);
  };
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((value, index) => (index === 0 ? cell("th", value, { scope: "row" }) : cell("td", value))),
    ),
  );
  return h(
    "div",
    { class: kind ? `scroll ${kind}` : "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head) => cell("th", breakableHead(head), { scope: "col" })),
        ),
      ),
      h("tbody", {}, body),
    ),
  );
}

function unique(values) {
  return [...new Set(values)];
}
