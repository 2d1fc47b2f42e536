// One part of the page that asks the service: it shows that it waits, what came, or what went wrong.

import {element} from "./dom.js";

const PATIENCE = 300; // milliseconds: an answer that comes sooner needs no "Loading", which would only flicker

// Make a section with `heading`; ask(signal) fetches, draw(answer) returns what to show. `signal` belongs to the page
// that is shown: once people have gone elsewhere, late answers are thrown away, and so is the question itself.
export function panel({heading, note, kind, ask, draw, signal, level = "h2"}) {
  const body = element("div", {class: "panel-body"});
  const section = element(
    "section",
    {class: `panel ${kind ?? ""}`},
    heading && element("div", {class: "panel-head"}, element(level, {}, heading), note && element("p", {class: "note"}, note)),
    body,
  );
  load(body, {ask, draw, signal});
  return section;
}

// Fill `body` with the answer to a question, now and whenever "Try again" is pressed.
export async function load(body, {ask, draw, signal}) {
  const waiting = setTimeout(() => {
    body.setAttribute("aria-busy", "true");
    body.replaceChildren(loading());
  }, PATIENCE);
  let shown;
  try {
    shown = [draw(await ask(signal))].flat(Infinity).filter(Boolean);
  } catch (error) {
    if (signal.aborted) {
      return;
    }
    console.warn(error); // for who develops the page; people get the words below
    const again = () => {
      body.replaceChildren(loading());
      load(body, {ask, draw, signal});
    };
    // What is not there will not be there the next time, either.
    shown = [failure(error.message, error.status === 404 ? null : again)];
  } finally {
    clearTimeout(waiting);
  }
  if (signal.aborted) {
    return;
  }
  body.removeAttribute("aria-busy");
  body.replaceChildren(...shown);
}

export function loading() {
  const lines = [0, 1, 2].map(() => element("span", {class: "bone"}));
  return element("div", {class: "loading", role: "status"}, element("span", {class: "loading-word"}, "Loading…"), lines);
}

export function failure(words, again) {
  return element(
    "div",
    {class: "message bad", role: "alert"},
    element("p", {}, words),
    again && element("button", {type: "button", onclick: again}, "Try again"),
  );
}

export function nothing(...words) {
  return element("p", {class: "nothing"}, words);
}
