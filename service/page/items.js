// A ranked list of items, as the service answers it, and the head that says which generation it is of.

import {element} from "./dom.js";
import {explanation} from "./explain.js";
import {badges, decimal, titleOf} from "./words.js";

export function itemLink(item) {
  return element("a", {class: "title", href: `#/item/${encodeURIComponent(item.item_id)}`}, titleOf(item));
}

// Id and category, small, below a title.
export function itemDetails(item) {
  return [
    element("span", {class: "id"}, item.item_id),
    item.category && element("span", {class: "category"}, item.category.split("|").join(", ")),
  ];
}

// `user`: each item gets a "Why?" that opens an explanation below it.
export function itemList(items, {user, signal} = {}) {
  return element(
    "ol",
    {class: "items"},
    items.map((item) => {
      const row = element(
        "li",
        {class: "item"},
        element("span", {class: "rank", "aria-hidden": "true"}, item.rank),
        element(
          "div",
          {class: "what"},
          itemLink(item),
          element("p", {class: "details"}, badges(item.source), element("span", {}, item.reason), itemDetails(item)),
        ),
        element(
          "div",
          {class: "side"},
          item.score !== null &&
            element("span", {class: "score", title: "Score"}, element("span", {class: "hidden"}, "Score "), decimal(item.score)),
        ),
      );
      if (user !== undefined) {
        addWhy(row, user, item, signal);
      }
      return row;
    }),
  );
}

function addWhy(row, user, item, signal) {
  const button = element(
    "button",
    {type: "button", class: "quiet", "aria-expanded": "false"},
    "Why?",
    element("span", {class: "hidden"}, ` ${titleOf(item)}`),
  );
  let opened = null;
  const close = () => {
    opened.remove();
    opened = null;
    button.setAttribute("aria-expanded", "false");
    button.focus();
  };
  button.addEventListener("click", () => {
    if (opened) {
      close();
      return;
    }
    opened = explanation(user, item, signal);
    opened.addEventListener("keydown", (event) => event.key === "Escape" && close());
    row.append(opened);
    button.setAttribute("aria-expanded", "true");
  });
  button.addEventListener("keydown", (event) => event.key === "Escape" && opened && close());
  row.querySelector(".side").append(button);
}

// Which generation an answer is of, and a word of warning where it is not the one that should be served.
export function headOf(answer) {
  return [
    answer.stale &&
      element(
        "p",
        {class: "message stale", role: "status"},
        element("strong", {}, "Stale. "),
        "A part of the service is away, so this is the last list it knows. ",
        element("a", {href: "#/health"}, "Which part?"),
      ),
    element(
      "p",
      {class: "facts"},
      answer.generation !== null && element("span", {}, `Generation ${answer.generation}`),
      answer.model_version?.split("+").map((version) => element("span", {class: "id"}, version)),
      answer.variant && element("span", {class: "badge variant", title: "The half of the A/B experiment"}, `Variant ${answer.variant}`),
    ),
  ];
}
