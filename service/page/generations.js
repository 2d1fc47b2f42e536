// What is served and what was: each generation with its quality on held-out users, its clicks, and the experiment.

import {ask} from "./api.js";
import {element, table} from "./dom.js";
import {panel, nothing} from "./panel.js";
import {intervals, linePlot} from "./plot.js";
import {DATASETS, MODELS, NOTHING, day, decimal, moment, named, percent, shortDay, whole} from "./words.js";

const DRAWN = 52; // generations in a plot: a year
const SHOWN = 8; // generations in a table, before "Show all"

export function generationsPage(_, signal) {
  return {
    title: "Generations",
    heading: element(
      "div",
      {class: "page-head"},
      element("h1", {}, "Generations"),
      element("p", {class: "lead"}, "Every table is published as a whole. Readers see one generation of it, never a mixture."),
    ),
    content: [
      panel({
        heading: "Experiment",
        note: "Two generations side by side, users split by a hash of their ids.",
        signal,
        ask: (until) => ask("/v1/experiment", until),
        draw: drawExperiment,
      }),
      panel({kind: "bare", signal, ask: (until) => ask("/v1/generations", until), draw: drawDatasets}),
    ],
  };
}

function drawDatasets({datasets}) {
  if (datasets.length === 0) {
    return nothing("Nothing is published yet. Run the loading DAGs, or make demo.");
  }
  // What people see comes first, what only the ranker reads comes last.
  return inOrder(datasets, DATASETS, ({dataset}) => dataset).map(drawDataset);
}

function drawDataset({dataset, served, generations}) {
  const oldestFirst = generations.slice(0, DRAWN).reverse();
  const withMetrics = oldestFirst.filter((generation) => Object.keys(generation.metrics ?? {}).length > 0);
  const withClicks = oldestFirst.filter((generation) => generation.online?.impressions);
  return element(
    "section",
    {class: "panel"},
    element(
      "div",
      {class: "panel-head"},
      element("h2", {}, named(DATASETS, dataset)),
      element("p", {class: "note"}, element("span", {class: "id"}, dataset), served === null ? " nothing served" : ` generation ${served} is served`),
    ),
    element(
      "div",
      {class: "panel-body"},
      element("div", {class: "plots"}, withMetrics.length > 0 && qualityPlot(withMetrics), withClicks.length > 0 && clicksPlot(withClicks)),
      generations.length > 0 ? newest(dataset, served, generations) : nothing("No generation was loaded yet."),
    ),
  );
}

function qualityPlot(generations) {
  const models = modelsOf(generations);
  const series = models.map((model) => ({
    name: named(MODELS, model),
    kind: model,
    points: generations.flatMap((generation, x) => {
      const metric = generation.metrics[model];
      return metric ? [{x, y: metric.mean, low: metric.low, high: metric.high, label: withInterval(metric)}] : [];
    }),
  }));
  const last = generations[generations.length - 1];
  const words = models.filter((model) => last.metrics[model]).map((model) => `${named(MODELS, model)} ${withInterval(last.metrics[model])}`);
  return element(
    "div",
    {},
    element("h3", {}, "NDCG@10 on held-out users, with 95 % intervals"),
    linePlot({
      series,
      labels: generations.map((generation) => shortDay(generation.week)),
      text: `NDCG@10 of ${generations.length} generations. Generation ${last.generation_id}: ${words.join("; ")}. The table below has the numbers.`,
      format: (number) => decimal(number, 2),
    }),
  );
}

function clicksPlot(generations) {
  const points = generations.map(({online}, x) => ({x, y: online.rate, low: online.low, high: online.high, label: rate(online)}));
  const last = generations[generations.length - 1];
  return element(
    "div",
    {},
    element("h3", {}, "Clicks per impression, with 95 % intervals"),
    linePlot({
      series: [{name: "Clicks per impression", kind: "online", points}],
      labels: generations.map((generation) => shortDay(generation.week)),
      text: `Clicks per impression of ${generations.length} generations. Generation ${last.generation_id}: ${rate(last.online)}. The table below has the numbers.`,
      format: (number) => percent(number),
    }),
  );
}

// As in the reports: the best model first, the simplest last.
function modelsOf(generations) {
  const models = new Set(generations.flatMap((generation) => Object.keys(generation.metrics ?? {})));
  return inOrder([...models], MODELS, (model) => model);
}

// Sorted as the entries of `names` are; what has no entry comes last.
function inOrder(things, names, keyOf) {
  const keys = Object.keys(names);
  const place = (thing) => (keys.includes(keyOf(thing)) ? keys.indexOf(keyOf(thing)) : keys.length);
  return [...things].sort((one, other) => place(one) - place(other));
}

function withInterval({mean, low, high}) {
  return `${decimal(mean)} (${decimal(low)} to ${decimal(high)})`;
}

function rate(online) {
  return online?.impressions ? `${percent(online.rate)} (${percent(online.low)} to ${percent(online.high)})` : NOTHING;
}

// The first few are what people look for.
function newest(dataset, served, generations) {
  const complete = () => generationTable(dataset, served, generations);
  if (generations.length <= SHOWN) {
    return complete();
  }
  const short = element("div", {}, generationTable(dataset, served, generations.slice(0, SHOWN)));
  const all = () => {
    short.replaceChildren(complete());
    short.firstChild.focus();
  };
  short.append(element("button", {type: "button", class: "quiet", onclick: all}, `Show all ${generations.length}`));
  return short;
}

function generationTable(dataset, served, generations) {
  const models = modelsOf(generations);
  const online = generations.some((generation) => generation.online);
  return table(
    `Generations of ${named(DATASETS, dataset)}`,
    [
      ["Generation", ""],
      ["Week", ""],
      ["Status", ""],
      ["Rows", "number"],
      ...models.map((model) => [named(MODELS, model), "number"]),
      ...(online ? [["Clicks", "number"]] : []),
      ["Published", ""],
      ["Model or run", ""],
    ],
    generations.map((generation) => [
      whole(generation.generation_id),
      day(generation.week),
      status(generation, served),
      whole(generation.rows),
      ...models.map((model) => {
        const metric = generation.metrics?.[model];
        return metric ? withSmall(decimal(metric.mean), `${decimal(metric.low)} to ${decimal(metric.high)}`) : NOTHING;
      }),
      ...(online ? [onlineCell(generation.online)] : []),
      moment(generation.published_at),
      element("span", {class: "id", title: `Run ${generation.run_key}`}, versions(generation)),
    ]),
  );
}

function onlineCell(online) {
  return online?.impressions ? withSmall(percent(online.rate), `${percent(online.low)} to ${percent(online.high)}`) : NOTHING;
}

// A number, and its interval small below it.
function withSmall(number, interval) {
  return [number, element("span", {class: "small"}, interval)];
}

// "of the candidates + of the ranker", one below the other.
function versions({model_version: model, run_key: run}) {
  return model ? model.split("+").map((version, index) => [index > 0 && element("br"), version]) : run;
}

function status(generation, served) {
  if (generation.generation_id === served) {
    return element("span", {class: "badge good"}, "served");
  }
  // What was published and is still there can be gone back to: `make rollback`.
  const word = generation.kept && generation.status === "published" ? "kept" : generation.status;
  return element("span", {class: "badge"}, word.replaceAll("_", " "));
}

function drawExperiment(answer) {
  if (!answer.active && answer.name) {
    return nothing(`“${answer.name}” is off: the generation it names is not kept any more. See Health.`);
  }
  if (!answer.active) {
    return nothing("No experiment is running. ", element("code", {}, "[experiment]"), " in ", element("code", {}, "config/rules.toml"), " starts one.");
  }
  const counted = answer.variants.filter((variant) => variant.impressions > 0);
  return [
    element("p", {class: "lead"}, `“${answer.name}”: ${percent(answer.share, 0)} of the users see variant B.`),
    counted.length > 0 &&
      intervals(
        counted.map((variant) => ({
          name: `${variant.variant}, generation ${variant.generation}`,
          detail: `${whole(variant.clicks)} of ${whole(variant.impressions)}`,
          mean: variant.rate,
          low: variant.low,
          high: variant.high,
        })),
        (share) => percent(share),
      ),
    element("p", {}, verdict(answer)),
  ];
}

function verdict({difference}) {
  if (!difference) {
    return "There are too few impressions to compare the two yet.";
  }
  const {mean, low, high} = difference;
  const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
  const interval = `B − A: ${points(mean)} percentage points (95 % interval ${points(low)} to ${points(high)}).`;
  if (low > 0) {
    return [element("strong", {}, "B is clicked more often. "), interval];
  }
  if (high < 0) {
    return [element("strong", {}, "B is clicked less often. "), interval];
  }
  return [element("strong", {}, "No difference is shown yet. "), interval];
}
