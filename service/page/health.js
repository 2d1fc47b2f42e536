// Whether each part of the service works.

import {ask} from "./api.js";
import {element} from "./dom.js";
import {load} from "./panel.js";
import {PARTS, named} from "./words.js";

export function healthPage(_, signal) {
  const body = element("div", {class: "panel-body"});
  const look = () =>
    load(body, {
      signal,
      ask: (until) => ask("/v1/parts", until),
      draw: ({parts}) => [summary(parts), partList(parts)],
    });
  look();
  return {
    title: "Health",
    heading: element("div", {class: "page-head"}, element("h1", {}, "Health")),
    content: [
      element(
        "section",
        {class: "panel"},
        element(
          "div",
          {class: "panel-head"},
          element("h2", {}, "Parts of the service"),
          element("button", {type: "button", onclick: look}, "Check again"),
        ),
        body,
      ),
    ],
  };
}

function summary(parts) {
  const broken = parts.filter((part) => !part.ok).length;
  return element("p", {class: "lead"}, broken === 0 ? "Everything works." : `${broken} of ${parts.length} parts ${broken === 1 ? "needs" : "need"} a look.`);
}

export function partList(parts) {
  return element(
    "ul",
    {class: "parts"},
    parts.map((part) =>
      element(
        "li",
        {},
        element("span", {class: part.ok ? "badge good" : "badge bad"}, part.ok ? "works" : "problem"),
        element("div", {}, element("strong", {}, named(PARTS, part.name)), element("p", {class: "note"}, part.detail)),
      ),
    ),
  );
}
