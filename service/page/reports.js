// Links to the reports that trainings and weekly runs leave behind.

import {ask} from "./api.js";
import {element} from "./dom.js";
import {panel, nothing} from "./panel.js";
import {moment, named} from "./words.js";

const KINDS = {training: "Training", ranker: "Ranker", drift: "Drift"};

export function reportsPage(_, signal) {
  return {
    title: "Reports",
    heading: element(
      "div",
      {class: "page-head"},
      element("h1", {}, "Reports"),
      element("p", {class: "lead"}, "Every training and every weekly run leaves one: metrics, segments, plots, rejected rows."),
    ),
    content: [panel({signal, ask: (until) => ask("/v1/reports", until), draw})],
  };
}

function draw({reports}) {
  if (reports.length === 0) {
    return nothing("There is no report yet. The first training leaves one.");
  }
  return element(
    "ul",
    {class: "items"},
    reports.map((report) =>
      element(
        "li",
        {class: "item plain"},
        element(
          "div",
          {class: "what"},
          element("a", {class: "title", href: report.url}, report.headline || report.name),
          element("p", {class: "details"}, element("span", {class: "badge"}, named(KINDS, report.kind)), element("span", {class: "id"}, report.name)),
        ),
        element("div", {class: "side"}, element("span", {class: "when"}, moment(report.time))),
      ),
    ),
  );
}
