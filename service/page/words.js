// Numbers, times and names as people read them.

import {element} from "./dom.js";

const WHOLE = new Intl.NumberFormat("en");
const AGO = new Intl.RelativeTimeFormat("en", {numeric: "auto"});
const MOMENT = new Intl.DateTimeFormat("en", {dateStyle: "medium", timeStyle: "short"});
const DAY = new Intl.DateTimeFormat("en", {dateStyle: "medium", timeZone: "UTC"});
const SHORT_DAY = new Intl.DateTimeFormat("en", {month: "short", day: "numeric", timeZone: "UTC"});

const UNITS = [
  ["year", 31557600],
  ["month", 2629800],
  ["week", 604800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];

export const NOTHING = "–";

// Where an item of a list comes from: the badge, and what the badge means.
export const SOURCES = {
  als: ["ALS", "Alternating least squares: it fits what people with the same taste took"],
  similar: ["similar", "Similar to what this user took"],
  popular: ["popular", "Popular with everybody"],
  recent: ["recent", "Similar to what this user looked at just now"],
  default: ["default", "The list for everybody"],
  pinned: ["pinned", "Pinned by a rule of the shop"],
  catalogue: ["catalogue", "Any available item, as a last resort"],
};

export const MODELS = {ranker: "Ranker", als: "ALS", similar_to_last: "Similar to last", popular: "Popular"};

export const DATASETS = {
  personal_recs: "Personal recommendations",
  default_recs: "Recommendations for everybody",
  online_recs: "Similar items",
  items: "Items",
  user_history: "Histories",
  candidates_inference: "Candidates to rank",
  candidates_train: "Candidates to learn from",
};

export const PARTS = {
  postgresql: "PostgreSQL",
  redis: "Redis",
  elasticsearch: "Elasticsearch",
  personal_recs: "Personal recommendations",
  online_recs: "Similar items",
  default_recs: "Recommendations for everybody",
  items: "Items",
  rules: "Rules",
  ranker: "Ranker",
};

// What the ranker looks at. The names are those of the files and tables; see the README for their definitions.
export const FEATURES = {
  als_score: "ALS score",
  als_relative: "ALS score, relative to the user's best",
  als_rank: "Place in the ALS list",
  similar_score: "Similarity to the history",
  similar_relative: "Similarity, relative to the user's best",
  similar_rank: "Place in the similar list",
  last_score: "Similarity to the last item",
  last_rank: "Place among those similar to the last item",
  popular_score: "Popularity",
  popular_rank: "Place in the popular list",
  item_count_7d: "Taken in the last 7 days",
  item_count_30d: "Taken in the last 30 days",
  item_count_90d: "Taken in the last 90 days",
  item_count: "Taken, all in all",
  item_trend: "Trend of the item",
  item_age_days: "Age of the item, days",
  item_recency_days: "Days since the item was last taken",
  item_mean_weight: "Mean weight of the item",
  user_count_30d: "Events of the user in 30 days",
  user_count: "Events of the user",
  user_items: "Different items of the user",
  user_tenure_days: "Days since the user's first event",
  user_recency_days: "Days since the user's last event",
  user_mean_weight: "Mean weight of the user",
  user_popularity: "How popular the user's items are",
  category_share: "Share of the category in the history",
};

// The entry `key` of one of the tables above, or the key itself. (Object.hasOwn: "constructor" is no entry.)
export function named(names, key) {
  return Object.hasOwn(names, key) ? names[key] : key;
}

export function whole(number) {
  return number === null || number === undefined ? NOTHING : WHOLE.format(number);
}

export function count(number, one, many = `${one}s`) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

export function decimal(number, digits = 3) {
  if (number === null || number === undefined) {
    return NOTHING;
  }
  const small = number !== 0 && Math.abs(number) < 10 ** -digits;
  return (small ? number.toExponential(1) : number.toFixed(digits)).replace("-", "−");
}

// A feature's value: whole numbers stay whole, anything else gets three digits that count.
export function value(number) {
  if (number === null || number === undefined) {
    return "missing";
  }
  return Number.isInteger(number) ? whole(number) : String(Number(number.toPrecision(3)));
}

export function percent(share, digits = 1) {
  return share === null || share === undefined ? NOTHING : `${(100 * share).toFixed(digits)} %`;
}

export function day(time) {
  return DAY.format(new Date(time));
}

export function shortDay(time) {
  return SHORT_DAY.format(new Date(time));
}

export function ago(time, now = Date.now()) {
  const seconds = (new Date(time).getTime() - now) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) {
      return AGO.format(Math.round(seconds / length), unit);
    }
  }
  return "just now";
}

// "3 days ago", and the exact time for those who point at it.
export function moment(time) {
  return time
    ? element("time", {datetime: time, title: MOMENT.format(new Date(time))}, ago(time))
    : NOTHING;
}

export function badges(source) {
  // "als+similar": an item that came from several places names them all, best first.
  return source
    .split("+")
    .map((name) => {
      const [label, meaning] = Object.hasOwn(SOURCES, name) ? SOURCES[name] : [name, name];
      return element("span", {class: `badge source-${name}`, title: meaning}, label);
    });
}

export function titleOf(thing) {
  return thing.title || `Item ${thing.item_id}`;
}
