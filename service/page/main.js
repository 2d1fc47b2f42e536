// The frame: which page the part of the address after `#` asks for, and what is left behind when it changes.

import {element} from "./dom.js";
import {startSearch} from "./search.js";
import {driftPage} from "./drift.js";
import {generationsPage} from "./generations.js";
import {healthPage} from "./health.js";
import {itemPage} from "./item.js";
import {reportsPage} from "./reports.js";
import {startPage} from "./start.js";
import {userPage} from "./user.js";

// A page is a function of (what follows its name in the address, a signal that ends when people leave it) and returns
// {title, heading, content}. It returns at once; what it shows comes panel by panel.
const PAGES = {
  "": startPage,
  user: userPage,
  item: itemPage,
  generations: generationsPage,
  drift: driftPage,
  reports: reportsPage,
  health: healthPage,
};

const main = document.getElementById("main");
let shown = new AbortController(); // ends the questions of the page that is shown

function show(byPerson) {
  shown.abort();
  shown = new AbortController();
  const [, name, rest] = location.hash.match(/^#\/([^/]*)\/?(.*)$/s) ?? [null, "", ""];
  const page = Object.hasOwn(PAGES, name) ? PAGES[name] : noPage;
  const {title, heading, content} = page(decode(rest), shown.signal);
  document.title = title ? `${title} · Shortlist` : "Shortlist";
  main.replaceChildren(heading, ...content);
  for (const link of document.querySelectorAll(".pages a")) {
    link.removeAttribute("aria-current");
    if (link.getAttribute("href") === `#/${name}`) {
      link.setAttribute("aria-current", "page");
    }
  }
  if (byPerson) {
    // As after a page load: up to the top, and readers for the blind begin with the heading.
    window.scrollTo(0, 0);
    main.focus({preventScroll: true});
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand, with a lone %
  }
}

function noPage() {
  return {
    title: "Not found",
    heading: element("h1", {}, "There is no such page"),
    content: [element("p", {}, element("a", {href: "#/"}, "Back to the start"))],
  };
}

window.addEventListener("hashchange", () => show(true));
// #main would take the place of the page in the address.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
startSearch();
show(false);
