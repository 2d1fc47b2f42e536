// "Why?": what the lists and the ranker say about one item for one user.

import {address, ask} from "./api.js";
import {element, table} from "./dom.js";
import {panel, nothing} from "./panel.js";
import {bars} from "./plot.js";
import {FEATURES, SOURCES, badges, decimal, named, titleOf, value, whole} from "./words.js";

export function explanation(user, item, signal) {
  const section = panel({
    kind: "why",
    signal,
    ask: (until) => askFor(user, item, until),
    draw: (answer) => (answer ? draw(answer) : withoutRanker(item)),
  });
  section.setAttribute("aria-label", `Why ${titleOf(item)}`);
  return section;
}

// null for an item that the ranker has never seen: a rule, a recent event or the list for everybody brought it here.
async function askFor(user, item, signal) {
  try {
    return await ask(address`/v1/explain/${user}/${item.item_id}`, signal);
  } catch (error) {
    if (error.status === 404) {
      return null;
    }
    throw error;
  }
}

function withoutRanker(item) {
  const meanings = item.source.split("+").map((source) => (Object.hasOwn(SOURCES, source) ? SOURCES[source][1] : source));
  return [
    element("p", {class: "lead"}, item.reason),
    element("p", {class: "note"}, `${meanings.join(". ")}. The ranker was not asked about it.`),
  ];
}

function draw(answer) {
  return [
    element("p", {class: "lead"}, answer.reason),
    answer.sources.length > 0 && [element("h3", {}, "Where it comes from"), sources(answer)],
    element("h3", {}, "What moved it up or down"),
    contributions(answer),
    features(answer.features),
    element(
      "p",
      {class: "facts"},
      answer.generation !== null && element("span", {}, `Generation ${answer.generation}`),
      fact("Model", answer.model_version),
      fact("Ranker", answer.ranker),
      fact("Training run", answer.training_run),
      fact("Data", answer.data_fingerprint),
    ),
  ];
}

function fact(name, text) {
  return text && element("span", {}, `${name} `, element("span", {class: "id"}, text));
}

function sources(answer) {
  return element(
    "ul",
    {class: "sources"},
    answer.sources.map(({source, rank, score}) =>
      element(
        "li",
        {},
        badges(source),
        rank === null ? "" : ` place ${whole(rank)}`,
        score === null ? "" : `, score ${decimal(score)}`,
      ),
    ),
  );
}

function contributions(answer) {
  if (answer.contributions.length === 0) {
    return nothing("The ranker has no say in this one.");
  }
  const rows = answer.contributions.map((entry) => ({
    name: named(FEATURES, entry.feature),
    detail: value(entry.value),
    amount: entry.contribution,
  }));
  return [
    bars(rows),
    element(
      "p",
      {class: "note"},
      "Each bar is the part of the ranker's score that comes from one value (SHAP)",
      answer.base_value === null ? "." : `, on top of ${decimal(answer.base_value)} that every candidate gets.`,
    ),
  ];
}

function features(values) {
  const entries = Object.entries(values);
  return (
    entries.length > 0 &&
    element(
      "details",
      {},
      element("summary", {}, `All ${entries.length} values the ranker saw`),
      table(
        "Values the ranker saw",
        [["What", ""], ["Value", "number"], ["Name", "id"]],
        entries.map(([name, number]) => [named(FEATURES, name), value(number), name]),
      ),
    )
  );
}
