// One item, and those that are similar to it.

import {address, ask} from "./api.js";
import {element} from "./dom.js";
import {headOf, itemList} from "./items.js";
import {panel, nothing} from "./panel.js";

const SHOWN = 20;

export function itemPage(item, signal) {
  // The title is known once the answer is here; until then the id stands in for it.
  const name = element("h1", {}, item);
  return {
    title: `Item ${item}`,
    heading: element(
      "div",
      {class: "page-head"},
      element("p", {class: "above"}, "Item ", element("span", {class: "id"}, item)),
      name,
    ),
    content: [
      panel({
        heading: "Similar items",
        note: "Taken by the same people.",
        signal,
        ask: (until) => ask(`${address`/v1/items/${item}/similar`}?k=${SHOWN}`, until),
        draw: (answer) => {
          if (answer.title) {
            name.textContent = answer.title;
            document.title = `${answer.title} · Shortlist`;
          }
          return [
            headOf(answer),
            answer.items.length > 0 ? itemList(answer.items) : nothing("Nothing is known to be similar to this item."),
          ];
        },
      }),
    ],
  };
}
