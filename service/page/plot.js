// Two small drawings: lines over time, and bars to both sides of zero. Each has a text that says the same; colours are
// classes of page.css, so that they fit light and dark.

import {drawing, element} from "./dom.js";
import {decimal} from "./words.js";

const WIDEST = 640; // on a phone, fewer units to the width: the words stay readable
const HEIGHT = 240;
const EDGE = {top: 12, right: 16, bottom: 28, left: 52};
const MARKS = ["circle", "square", "diamond", "triangle"]; // not by colour alone

// Draw `series` = [{name, kind, points: [{x, y, low, high, label}]}] over the places x = 0, 1, 2, …, whose names are
// `labels`; a line with `dots` has marks only. `limit` = {y, name} draws a threshold. `text` says in words what is to be seen.
export function linePlot({series, labels, text, format = decimal, limit}) {
  const drawn = series.map((line) => ({...line, points: line.points.filter((point) => point.y !== null && point.y !== undefined)}));
  const values = drawn.flatMap((line) => line.points.flatMap((point) => [point.low ?? point.y, point.high ?? point.y]));
  if (limit) {
    values.push(limit.y, 0);
  }
  const ticks = niceTicks(Math.min(...values), Math.max(...values));
  const [bottom, top] = [ticks[0], ticks[ticks.length - 1]];
  const width = Math.max(280, Math.min(WIDEST, window.innerWidth - 64));
  const wide = width - EDGE.left - EDGE.right;
  const down = HEIGHT - EDGE.top - EDGE.bottom;
  // One point alone stands in the middle.
  const x = (place) => EDGE.left + (labels.length === 1 ? wide / 2 : 12 + ((wide - 24) * place) / (labels.length - 1));
  const y = (amount) => EDGE.top + down * (1 - (amount - bottom) / (top - bottom));

  const svg = drawing("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": text, class: "plot"});
  for (const tick of ticks) {
    svg.append(
      drawing("line", {class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick)}),
      drawing("text", {class: "tick", x: EDGE.left - 8, y: y(tick) + 4, "text-anchor": "end"}, format(tick)),
    );
  }
  const step = Math.ceil(labels.length / (width / 100)); // more names would run into each other
  labels.forEach((label, place) => {
    if ((labels.length - 1 - place) % step === 0) {
      svg.append(drawing("text", {class: "tick", x: x(place), y: HEIGHT - 8, "text-anchor": "middle"}, label));
    }
  });
  if (limit) {
    svg.append(
      drawing("line", {class: "limit", x1: EDGE.left, x2: width - EDGE.right, y1: y(limit.y), y2: y(limit.y)}),
      drawing("text", {class: "tick", x: EDGE.left + 2, y: y(limit.y) - 6}, limit.name),
    );
  }
  drawn.forEach((line, index) => {
    // Intervals of several lines at one place stand side by side, so that none hides another.
    const aside = line.points.some(hasInterval) ? (index - (drawn.length - 1) / 2) * 4 : 0;
    const across = (point) => x(point.x) + aside;
    const group = drawing("g", {class: `line line-${line.kind}`});
    const path = line.points.map((point, place) => `${place ? "L" : "M"}${across(point).toFixed(1)} ${y(point.y).toFixed(1)}`);
    if (!line.dots) {
      group.append(drawing("path", {class: "stroke", d: path.join("")}));
    }
    for (const point of line.points) {
      if (hasInterval(point)) {
        group.append(drawing("line", {class: "interval", x1: across(point), x2: across(point), y1: y(point.low), y2: y(point.high)}));
      }
    }
    for (const point of line.points) {
      const mark = shape(MARKS[index % MARKS.length], across(point), y(point.y));
      mark.setAttribute("class", "mark");
      mark.append(drawing("title", {}, `${line.name}, ${labels[point.x]}: ${point.label ?? format(point.y)}`));
      group.append(mark);
    }
    svg.append(group);
  });
  return element("figure", {class: "figure"}, svg, drawn.length > 1 && legend(drawn));
}

function hasInterval(point) {
  return Number.isFinite(point.low) && Number.isFinite(point.high);
}

function legend(series) {
  return element(
    "figcaption",
    {class: "legend"},
    series.map((line, index) => {
      const mark = shape(MARKS[index % MARKS.length], 8, 8);
      mark.setAttribute("class", "mark");
      const key = drawing("svg", {viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true"});
      key.append(drawing("g", {class: `line line-${line.kind}`}, mark));
      return element("span", {}, key, line.name);
    }),
  );
}

function shape(kind, x, y) {
  const points = {
    diamond: [[0, -5], [5, 0], [0, 5], [-5, 0]],
    triangle: [[0, -4.5], [4.8, 4], [-4.8, 4]],
    square: [[-3.7, -3.7], [3.7, -3.7], [3.7, 3.7], [-3.7, 3.7]],
  }[kind];
  return points
    ? drawing("polygon", {points: points.map(([dx, dy]) => `${(x + dx).toFixed(1)},${(y + dy).toFixed(1)}`).join(" ")})
    : drawing("circle", {cx: x.toFixed(1), cy: y.toFixed(1), r: 4});
}

// Round numbers from below `low` to above `high`, about four steps apart.
export function niceTicks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= 5);
  // Rounded: 3 * 0.1 is 0.30000000000000004, and the axis would say so.
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({length: last - first + 1}, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

// Bars to both sides of zero: rows = [{name, detail, amount}]. A real list, so the numbers can be read out.
export function bars(rows) {
  const most = Math.max(...rows.map((row) => Math.abs(row.amount))) || 1;
  return element(
    "ul",
    {class: "bars"},
    rows.map((row) => {
      const share = (50 * Math.abs(row.amount)) / most;
      const svg = drawing(
        "svg",
        {class: "bar", "aria-hidden": "true"},
        drawing("line", {class: "zero", x1: "50%", x2: "50%", y1: 0, y2: "100%"}),
        drawing("rect", {
          class: row.amount < 0 ? "down" : "up",
          x: `${row.amount < 0 ? 50 - share : 50}%`,
          width: `${share}%`,
          y: "20%",
          height: "60%",
        }),
      );
      const amount = `${row.amount < 0 ? "" : "+"}${decimal(row.amount)}`;
      return element(
        "li",
        {},
        element("span", {class: "bar-name"}, row.name, element("span", {class: "bar-detail"}, ` ${row.detail}`)),
        svg,
        element("span", {class: "number"}, amount),
      );
    }),
  );
}

// A mean or a rate and its interval as one bar on a common scale from `low` to `high`, for a few rows.
export function intervals(rows, format) {
  const high = Math.max(...rows.map((row) => row.high)) * 1.1 || 1;
  const at = (amount) => `${((100 * amount) / high).toFixed(2)}%`;
  return element(
    "ul",
    {class: "bars"},
    rows.map((row) =>
      element(
        "li",
        {},
        element("span", {class: "bar-name"}, row.name, element("span", {class: "bar-detail"}, ` ${row.detail}`)),
        drawing(
          "svg",
          {class: "bar", "aria-hidden": "true"},
          drawing("rect", {class: "track", x: 0, width: "100%", y: "42%", height: "16%"}),
          drawing("line", {class: "span", x1: at(row.low), x2: at(row.high), y1: "50%", y2: "50%"}),
          drawing("circle", {class: "dot", cx: at(row.mean), cy: "50%", r: 5}),
        ),
        element("span", {class: "number"}, format(row.mean), element("span", {class: "bar-detail"}, ` ${format(row.low)} to ${format(row.high)}`)),
      ),
    ),
  );
}
