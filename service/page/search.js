// The search box: a combobox (the pattern of the WAI-ARIA Authoring Practices) over users and items.
// The keyboard stays in the box all the time; aria-activedescendant says which option the arrows have reached.

import {ask} from "./api.js";
import {element} from "./dom.js";
import {wordsOf} from "./panel.js";
import {count, titleOf} from "./words.js";

const PAUSE = 150; // milliseconds without a key before the service is asked
const PATIENCE = 300; // milliseconds before "Searching…" is said
const MOST = 6; // of each kind: more would not fit on a phone above its keyboard

const search = document.getElementById("search");
const box = document.getElementById("search-box");
const popup = document.getElementById("search-popup");
const list = document.getElementById("search-options");
const note = document.getElementById("search-note");

let options = []; // the links that are shown, users first
let active = -1; // which of them the arrows have reached
let question = new AbortController(); // of the text that is in the box now; an older one is given up
let timer;
let openFirst = false; // Enter was pressed before the answer was here

export function startSearch() {
  box.addEventListener("input", () => look(PAUSE));
  box.addEventListener("focus", () => options.length > 0 && show());
  box.addEventListener("keydown", onKey);
  // The box loses focus when an option is clicked, too: that click must come through first.
  popup.addEventListener("pointerdown", (event) => event.preventDefault());
  search.addEventListener("focusout", (event) => !search.contains(event.relatedTarget) && hide());
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      box.focus();
      box.select();
    }
  });
}

// Look for what is in the box, after `pause` milliseconds without another key.
function look(pause) {
  clearTimeout(timer);
  question.abort();
  question = new AbortController();
  const {signal} = question;
  openFirst = false;
  const text = box.value.trim();
  if (!text) {
    forget();
    return;
  }
  timer = setTimeout(() => find(text, signal), pause);
}

async function find(text, signal) {
  const waiting = setTimeout(() => say("Searching…"), PATIENCE);
  const query = `q=${encodeURIComponent(text)}&limit=${MOST}`;
  try {
    const [{users}, {items}] = await Promise.all([ask(`/v1/users?${query}`, signal), ask(`/v1/items?${query}`, signal)]);
    offer(text, users, items);
  } catch (error) {
    // Given up: the box holds another text by now, whose answer must never be replaced by this one.
    if (!signal.aborted) {
      clearOptions();
      say(`${wordsOf(error)} `, element("button", {type: "button", onclick: again}, "Try again"));
    }
  } finally {
    clearTimeout(waiting);
  }
}

function again() {
  box.focus();
  look(0);
}

function offer(text, users, items) {
  clearOptions();
  const groups = [
    ["Users", users.map((user) => [`#/user/${encodeURIComponent(user.user_id)}`, `User ${user.user_id}`, count(user.interactions, "interaction")])],
    ["Items", items.map((item) => [`#/item/${encodeURIComponent(item.item_id)}`, titleOf(item), itemNote(item)])],
  ];
  for (const [heading, entries] of groups.filter(([, found]) => found.length > 0)) {
    const group = element("div", {role: "group", "aria-label": heading}, element("div", {class: "search-heading", "aria-hidden": "true"}, heading));
    for (const [href, name, detail] of entries) {
      const option = element(
        "a",
        {role: "option", id: `search-option-${options.length}`, "aria-selected": "false", tabindex: "-1", href, onclick: leave},
        element("span", {class: "search-name"}, name),
        element("span", {class: "search-detail"}, detail),
      );
      options.push(option);
      group.append(option);
    }
    list.append(group);
  }
  if (options.length === 0) {
    say(`No user or item matches “${text}”. Ids must match from their start; titles by their words.`);
    return;
  }
  say(element("span", {class: "hidden"}, `${count(options.length, "result")}, arrows to choose`));
  if (openFirst) {
    options[0].click();
  }
}

function itemNote(item) {
  return item.available ? item.item_id : `${item.item_id}, not available`;
}

function onKey(event) {
  if (event.isComposing) {
    return; // the Enter that ends the input of, say, a Japanese word is not ours
  }
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.length === 0) {
      look(0); // after Escape, the list comes back
      return;
    }
    show();
    const step = event.key === "ArrowDown" ? 1 : -1;
    // Past either end, no option is chosen: the text in the box is, as before the first arrow.
    choose(((active + 1 + step + options.length + 1) % (options.length + 1)) - 1);
  } else if (event.key === "Enter" && box.value.trim()) {
    event.preventDefault();
    if (options.length > 0 && !popup.hidden) {
      options[Math.max(active, 0)].click();
    } else {
      look(0);
      openFirst = true;
    }
  } else if (event.key === "Escape") {
    // First the list goes, then the text.
    if (popup.hidden) {
      box.value = "";
    }
    giveUp();
  }
}

// Whatever is being looked for, nobody waits for it any more.
function giveUp() {
  clearTimeout(timer);
  question.abort();
  forget();
}

function choose(index) {
  options[active]?.setAttribute("aria-selected", "false");
  active = index;
  const option = options[active];
  if (option) {
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({block: "nearest"});
    box.setAttribute("aria-activedescendant", option.id);
  } else {
    box.removeAttribute("aria-activedescendant");
  }
}

function leave() {
  giveUp();
  box.value = "";
}

function say(...words) {
  note.replaceChildren(...words);
  show();
}

function clearOptions() {
  choose(-1);
  options = [];
  list.replaceChildren();
}

function forget() {
  clearOptions();
  note.replaceChildren();
  hide();
}

function show() {
  popup.hidden = false;
  box.setAttribute("aria-expanded", "true");
}

function hide() {
  popup.hidden = true;
  box.setAttribute("aria-expanded", "false");
}
