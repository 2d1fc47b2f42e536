// Elements of the page. Everything that came from a file or a database becomes a text node here, never HTML: a title
// such as `<script>…</script>` is shown as it is written, and there is no other way to put text on the page.

const SVG = "http://www.w3.org/2000/svg";

// Fill `node` with attributes and children. An attribute that is null, undefined or false is left out.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (value === true) {
      node.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child instanceof Node) {
      node.append(child);
    } else if (child !== null && child !== undefined && child !== false) {
      node.append(document.createTextNode(String(child)));
    }
  }
  return node;
}

// element("a", {href: "#/"}, "Start") is <a href="#/">Start</a>. `onclick` and the like take a function.
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

// The same for what is drawn.
export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

// A table: `columns` are [heading, class], `rows` are lists of cells. The first cell names its row.
// It may be wider than a phone, so it scrolls by itself, by keyboard too, and the page does not.
export function table(caption, columns, rows) {
  const head = columns.map(([heading, kind]) => element("th", {scope: "col", class: kind}, heading));
  const body = rows.map((cells) =>
    element(
      "tr",
      {},
      cells.map((cell, index) =>
        index === 0
          ? element("th", {scope: "row", class: columns[index][1]}, cell)
          : element("td", {class: columns[index][1]}, cell),
      ),
    ),
  );
  return element(
    "div",
    {class: "table", role: "region", "aria-label": caption, tabindex: "0"},
    element(
      "table",
      {},
      element("caption", {class: "hidden"}, caption),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, body),
    ),
  );
}
