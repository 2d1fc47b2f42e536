// One user: what they took, beside what they are recommended.

import {address, ask} from "./api.js";
import {element} from "./dom.js";
import {headOf, itemDetails, itemLink, itemList} from "./items.js";
import {panel, nothing} from "./panel.js";
import {count, day, decimal, moment, whole} from "./words.js";

const SHOWN = 20; // recommendations
const HISTORY = 50;

export function userPage(user, signal) {
  return {
    title: `User ${user}`,
    heading: element("div", {class: "page-head"}, element("p", {class: "above"}, "User"), element("h1", {}, user)),
    content: [
      element(
        "div",
        {class: "columns user"},
        panel({
          heading: "Recommendations",
          note: "Scores are the ranker's; recent events and rules may move an item.",
          signal,
          ask: (until) => ask(`${address`/v1/recommendations/${user}`}?k=${SHOWN}`, until),
          draw: (answer) => drawRecommendations(user, answer, signal),
        }),
        panel({
          heading: "History",
          kind: "narrow",
          signal,
          ask: (until) => ask(`${address`/v1/users/${user}`}?limit=${HISTORY}`, until),
          draw: drawHistory,
        }),
      ),
    ],
  };
}

function drawRecommendations(user, answer, signal) {
  return [
    headOf(answer),
    !answer.known && element("p", {class: "message"}, "Nothing is known of this user, so this is the list for everybody."),
    answer.items.length > 0 ? itemList(answer.items, {user, signal}) : nothing("Nothing can be recommended: no list is served yet."),
    !answer.complete &&
      answer.items.length > 0 &&
      element("p", {class: "note"}, `Only ${count(answer.items.length, "item")}: nothing else is available to this user.`),
  ];
}

function drawHistory(answer) {
  const shown = answer.history.length;
  return [
    answer.recent.length > 0 && [
      element("h3", {}, "Just now"),
      element("ul", {class: "items"}, answer.recent.map((event) => historyRow(event, moment(event.time), event.kind))),
      element("h3", {}, "Before"),
    ],
    shown > 0
      ? element("ul", {class: "items"}, answer.history.map((event) => historyRow(event, day(event.time), weight(event))))
      : nothing(answer.known ? "This user's history is empty." : "No interaction of this user is on record."),
    shown < answer.interactions && element("p", {class: "note"}, `The newest ${shown} of ${whole(answer.interactions)}.`),
  ];
}

// A weight of one says nothing.
function weight(event) {
  return event.weight === 1 ? null : `weight ${Number.isInteger(event.weight) ? whole(event.weight) : decimal(event.weight, 2)}`;
}

function historyRow(event, when, what) {
  return element(
    "li",
    {class: "item plain"},
    element(
      "div",
      {class: "what"},
      itemLink(event),
      element("p", {class: "details"}, itemDetails(event)),
    ),
    element("div", {class: "side"}, element("span", {class: "when"}, when), what && element("span", {class: "when"}, what)),
  );
}
