// The first page: how things stand, and the list that anybody gets.

import {ask} from "./api.js";
import {element} from "./dom.js";
import {partList} from "./health.js";
import {headOf, itemList} from "./items.js";
import {panel, nothing} from "./panel.js";
import {day, decimal, moment, percent, whole} from "./words.js";

export function startPage(_, signal) {
  return {
    title: "",
    heading: element(
      "div",
      {class: "page-head"},
      element("h1", {}, "What is recommended, and why"),
      element("p", {class: "lead"}, "Look up any user or item in the box above, by its id or its title."),
    ),
    content: [
      panel({kind: "tiles", signal, ask: (until) => ask("/v1/generations", until), draw: drawTiles}),
      element(
        "div",
        {class: "columns"},
        panel({
          heading: "For everybody",
          note: "What a user gets of whom nothing is known.",
          signal,
          ask: (until) => ask("/v1/popular?k=20", until),
          draw: (answer) => [
            headOf(answer),
            answer.items.length > 0
              ? itemList(answer.items)
              : nothing("Nothing is served yet. Run the DAG load_default_recs, or make demo."),
          ],
        }),
        panel({
          heading: "Parts of the service",
          kind: "narrow",
          signal,
          ask: (until) => ask("/v1/parts", until),
          draw: (answer) => partList(answer.parts),
        }),
      ),
    ],
  };
}

// The personal lists that are served, in four numbers.
function drawTiles({datasets}) {
  const personal = datasets.find((dataset) => dataset.dataset === "personal_recs");
  const served = personal?.generations.find((generation) => generation.generation_id === personal.served);
  if (!served) {
    return nothing("No personal recommendations are served yet. Run the DAG load_candidates_ranked, or make demo.");
  }
  const {ranker, popular} = served.metrics ?? {};
  return element(
    "dl",
    {class: "tile-row"},
    tile("Personal recommendations", `Generation ${served.generation_id}`, ["published ", moment(served.published_at)]),
    tile("Users with a list", whole(served.rows), `of the week ${day(served.week)}`),
    ranker &&
      tile(
        "NDCG@10",
        decimal(ranker.mean),
        popular ? `popular items: ${decimal(popular.mean)}` : `${decimal(ranker.low)} to ${decimal(ranker.high)}`,
      ),
    tile(
      "Clicks per impression",
      served.online?.impressions ? percent(served.online.rate) : "none yet",
      served.online?.impressions ? `of ${whole(served.online.impressions)} impressions` : "send them to /v1/events",
    ),
  );
}

function tile(name, number, note) {
  return element("div", {class: "tile"}, element("dt", {}, name), element("dd", {}, element("strong", {}, number), element("span", {}, note)));
}
