// One part of the page that asks the service: it shows that it waits, what came, or what went wrong.

import {ServiceError} from "./api.js";
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
    const again = () => {
      body.replaceChildren(loading());
      load(body, {ask, draw, signal});
    };
    // What is not there will not be there the next time, either.
    shown = [failure(wordsOf(error), error.status === 404 ? null : again)];
  } finally {
    clearTimeout(waiting);
  }
  body.removeAttribute("aria-busy");
  body.replaceChildren(...shown);
}

export function loading() {
  const lines = [0, 1, 2].map(() => element("span", {class: "bone"}));
  return element("div", {class: "loading", role: "status"}, element("span", {class: "loading-word"}, "Loading…"), lines);
}

// Anything but a ServiceError is a mistake in this page: the console has it, for who repairs it.
export function wordsOf(error) {
  if (error instanceof ServiceError) {
    return error.message;
  }
  console.error(error);
  return "This page made a mistake and cannot show the answer. The console of the browser has the details.";
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
