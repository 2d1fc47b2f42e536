// What the drift decision said of every batch of new feedback.

import {ask} from "./api.js";
import {element, table} from "./dom.js";
import {panel, nothing} from "./panel.js";
import {linePlot} from "./plot.js";
import {NOTHING, decimal, whole} from "./words.js";

const DRAWN = 90; // batches in the plot: they come daily

export function driftPage(_, signal) {
  return {
    title: "Drift",
    heading: element(
      "div",
      {class: "page-head"},
      element("h1", {}, "Drift"),
      element("p", {class: "lead"}, "Each batch of new feedback is compared with what the model learned from. Above 1, it is trained again."),
    ),
    content: [panel({heading: "Decisions", signal, ask: (until) => ask("/v1/drift", until), draw})],
  };
}

function draw({runs}) {
  if (runs.length === 0) {
    return nothing("No batch of feedback was compared yet. The DAG drift_detection_retrain_pipeline does it every day.");
  }
  const oldestFirst = runs.slice(0, DRAWN).reverse();
  const scored = oldestFirst.filter((run) => run.score !== null);
  return [scored.length > 0 && plot(scored), decisions(runs)];
}

function plot(runs) {
  const points = runs.map((run, x) => ({x, y: run.score, label: decimal(run.score, 2), retrain: run.retrain}));
  const retrained = points.filter((point) => point.retrain);
  const last = runs[runs.length - 1];
  return linePlot({
    series: [
      {name: "Drift score", kind: "drift", points},
      {name: "Trained again", kind: "retrain", points: retrained, dots: true},
    ],
    labels: runs.map((run) => short(run.batch)),
    limit: {y: 1, name: "threshold"},
    text: `Drift score of ${runs.length} batches, ${retrained.length} of which led to a training. The last one: ${decimal(last.score, 2)}. The table below has the numbers.`,
    format: (number) => decimal(number, 1),
  });
}

// Names of batches are long; their days fit below a plot.
function short(batch) {
  const found = /\d{4}-?(\d{2})-?(\d{2})/.exec(batch);
  return found ? `${found[1]}-${found[2]}` : batch.slice(-8);
}

function decisions(runs) {
  return table(
    "Drift decisions, newest first",
    [
      ["Batch", ""],
      ["Decision", ""],
      ["Score", "number"],
      ["Data", "number"],
      ["Model", "number"],
      ["Waiting", "number"],
      ["Why", "wide"],
      ["Report", ""],
    ],
    runs.map((run) => [
      element("span", {class: "id"}, run.batch),
      element("span", {class: run.retrain ? "badge warn" : "badge"}, run.retrain ? "retrain" : "keep"),
      decimal(run.score, 2),
      decimal(run.data_drift, 2),
      decimal(run.model_drift, 2),
      typeof run.waiting === "number" ? whole(run.waiting) : (run.waiting ?? NOTHING),
      run.reason,
      run.report ? element("a", {href: run.report}, "open") : NOTHING,
    ]),
  );
}
