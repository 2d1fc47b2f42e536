"""The page as people use it: by mouse and keyboard, on a desk and on a phone, when all is well and when it is not."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SCRIPT
from tests.browser.page_shop import RANKER

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page, Route

    from tests.shop import Shop

PAGES = ("#/", "#/user/anna", "#/item/bowl", "#/generations", "#/drift", "#/reports", "#/health")


def search(page: Page, text: str) -> None:
    page.get_by_role("combobox").press_sequentially(text)


def panel(page: Page, heading: str) -> Locator:
    return page.get_by_role("heading", name=heading, exact=True).locator("xpath=ancestor::section[1]")


def titles(list_of: Locator) -> list[str]:
    expect(list_of.locator(".title").first).to_be_visible()
    return list_of.locator(".title").all_inner_texts()


def test_the_search_finds_items_by_the_words_of_their_titles(open_page: Callable[..., Page]) -> None:
    page = open_page()

    search(page, "white")
    options = page.get_by_role("option")
    expect(options).to_have_count(2)
    assert sorted(options.all_inner_texts()) == ["White clock\nclock, not available", "White mug\nmug"]

    page.get_by_role("option", name="White mug").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("White mug")
    expect(page).to_have_title("White mug · Shortlist")
    assert page.url.endswith("#/item/mug")


def test_the_search_finds_a_user_by_the_beginning_of_an_id_of_any_characters(open_page: Callable[..., Page]) -> None:
    page = open_page()

    search(page, "ben")
    expect(page.get_by_role("option")).to_have_text(re.compile(r"User ben/2\?"))
    page.get_by_role("option").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("ben/2?")
    assert page.url.endswith("#/user/ben%2F2%3F")
    assert titles(panel(page, "History"))[-1] == "Desk lamp"


def test_a_search_without_a_result_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page()

    search(page, "no such thing")

    expect(page.locator("#search-note")).to_contain_text("No user or item matches “no such thing”.")
    expect(page.get_by_role("option")).to_have_count(0)


def test_a_title_with_a_script_is_shown_as_it_is_written(open_page: Callable[..., Page]) -> None:
    page = open_page("#/item/script")
    expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)

    search(page, "script")
    expect(page.get_by_role("option").first).to_contain_text(SCRIPT)
    page.goto(page.url.split("#")[0] + "#/user/anna")
    assert titles(panel(page, "Recommendations"))[0] == SCRIPT

    assert page.locator("main script").count() == 0


def test_history_and_recommendations_stand_side_by_side(open_page: Callable[..., Page], shop: Shop) -> None:
    page = open_page("#/user/anna")
    recommendations, history = panel(page, "Recommendations"), panel(page, "History")

    assert titles(recommendations)[:2] == [SCRIPT, "Salt bowl"]
    assert titles(history)[-2:] == ["Tea pot", "White mug"]
    left, right = recommendations.bounding_box(), history.bounding_box()
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]

    first, second = recommendations.locator("li.item").all()[:2]
    assert first.locator(".badge").all_inner_texts() == ["ALS"]
    assert second.locator(".badge").all_inner_texts() == ["similar"]
    expect(second.locator(".category")).to_have_text("Kitchen, Gifts")
    ranked = shop.read("SELECT score FROM personal_recs WHERE user_id = 'anna' ORDER BY rank")
    assert recommendations.locator(".score").all_inner_texts()[:2] == [
        f"Score\n{score:.3f}".replace("-", "−") for (score,) in ranked
    ]
    expect(recommendations.locator(".facts")).to_contain_text("Generation")


def test_what_was_taken_just_now_is_shown_and_changes_the_list(open_page: Callable[..., Page]) -> None:
    page = open_page("#/user/ben%2F2%3F")

    assert titles(panel(page, "History"))[0].startswith("Woo")
    expect(panel(page, "Recommendations").locator(".source-recent").first).to_be_visible()


def test_why_opens_an_explanation_and_escape_closes_it(open_page: Callable[..., Page]) -> None:
    page = open_page("#/user/anna")
    why = page.get_by_role("button", name="Why? Salt bowl")

    why.click()

    explanation = page.get_by_label("Why Salt bowl")
    expect(explanation.locator(".sources li").first).to_contain_text("ALS place 2, score 0.900")
    assert "ALS score" in explanation.locator(".bars").inner_text()
    for number in explanation.locator(".bars .number").all_inner_texts():
        assert re.fullmatch(r"[+−]\d.*", number)
    explanation.get_by_text(re.compile(r"All \d+ values the ranker saw")).click()
    expect(explanation.get_by_role("row", name=re.compile("Place in the ALS list 2 als_rank"))).to_be_visible()
    expect(explanation).to_contain_text(f"Ranker {RANKER}")

    why.press("Escape")
    expect(explanation).to_have_count(0)
    expect(why).to_be_focused()


def test_an_unknown_user_gets_everybody_s_list_and_the_page_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page("#/user/nobody")

    expect(panel(page, "Recommendations")).to_contain_text("Nothing is known of this user")
    assert set(titles(panel(page, "Recommendations"))[:2]) == {"White mug", "Tea pot"}
    expect(panel(page, "History")).to_contain_text("No interaction of this user is on record.")


def test_an_unknown_item_is_said_in_words(open_page: Callable[..., Page]) -> None:
    page = open_page("#/item/none", failing=True)

    expect(page.get_by_role("alert")).to_contain_text("There is no item with this id")
    expect(page.get_by_role("button")).to_have_count(0)


def test_the_start_shows_what_everybody_gets_and_the_parts(open_page: Callable[..., Page]) -> None:
    page = open_page()

    assert titles(panel(page, "For everybody"))[:2] == ["White mug", "Tea pot"]
    parts = panel(page, "Parts of the service").locator("li")
    expect(parts.filter(has_text="PostgreSQLanswers")).to_contain_text("works")
    expect(page.locator(".tile", has_text="Clicks per impression")).to_contain_text("30.0 %")


def test_the_generations_are_drawn_and_told(open_page: Callable[..., Page]) -> None:
    page = open_page("#/generations")
    personal = panel(page, "Personal recommendations")

    quality = personal.get_by_role(
        "img", name=re.compile(r"^NDCG@10 of 2 generations\. Generation \d+: Ranker 0\.\d+ \(")
    )
    expect(quality).to_be_visible()
    assert quality.locator("g.line").count() == 4
    assert quality.locator(".mark").count() == 8
    expect(personal.get_by_role("img", name=re.compile("^Clicks per impression of 1 generations"))).to_be_visible()
    rows = personal.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("served")
    expect(rows.nth(0)).to_contain_text("30.0 %")
    expect(rows.nth(1)).to_contain_text("kept")
    expect(panel(page, "Experiment")).to_contain_text("No experiment is running.")


def test_what_is_empty_says_what_would_fill_it(open_page: Callable[..., Page]) -> None:
    page = open_page("#/drift")
    expect(page.locator("main")).to_contain_text("No batch of feedback was compared yet.")


def test_the_report_of_the_training_is_linked(open_page: Callable[..., Page]) -> None:
    page = open_page("#/reports")
    links = page.locator("main a.title")

    expect(links).to_have_text([re.compile("NDCG@10")])
    links.first.click()
    page.wait_for_url(f"**/reports/ranker_{RANKER}/index.html")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_an_item_that_no_ranker_has_seen_is_explained_by_its_source(open_page: Callable[..., Page]) -> None:
    page = open_page("#/user/nobody", failing=True)

    page.get_by_role("button", name="Why? White mug").click()

    expect(page.get_by_label("Why White mug")).to_contain_text(
        "The list for everybody. The ranker was not asked about it."
    )


def test_an_error_is_said_in_words_and_trying_again_helps(open_page: Callable[..., Page]) -> None:
    page = open_page("#/drift", failing=True)
    answers = [
        lambda route: route.fulfill(status=503, json={"detail": "The lists are being loaded. Try again soon."}),
        lambda route: route.fulfill(status=502, body="<html>Bad gateway</html>"),
        lambda route: route.abort(),
        lambda route: route.fulfill(status=200, body="not JSON"),
    ]
    page.route("**/v1/recommendations/*?*", lambda route: answers.pop(0)(route) if answers else route.continue_())
    page.goto(page.url.split("#")[0] + "#/user/anna")
    recommendations = panel(page, "Recommendations")
    message = recommendations.get_by_role("alert").locator("p")

    for words in (
        "The lists are being loaded. Try again soon.",
        "The service answered with an error (502).",
        "The service cannot be reached. Is it running, and is this computer online?",
        "The service sent an answer that is not JSON.",
    ):
        expect(message).to_have_text(words)
        assert titles(panel(page, "History"))[-1] == "White mug"  # the other half of the page does not mind
        recommendations.get_by_role("button", name="Try again").click()

    assert titles(recommendations)[0] == SCRIPT


def test_a_search_that_fails_can_be_tried_again(open_page: Callable[..., Page]) -> None:
    page = open_page(failing=True)
    page.route("**/v1/items?*", lambda route: route.abort())

    search(page, "white")
    expect(page.locator("#search-note")).to_contain_text("The service cannot be reached.")
    page.unroute("**/v1/items?*")
    page.get_by_role("button", name="Try again").click()

    expect(page.get_by_role("option")).to_have_count(2)


def test_a_slow_answer_shows_that_the_page_waits(open_page: Callable[..., Page]) -> None:
    page = open_page("#/drift")
    held: list[Route] = []
    page.route("**/v1/items/bowl/similar*", lambda route: held.append(route))
    page.goto(page.url.split("#")[0] + "#/item/bowl")

    expect(page.get_by_role("status").filter(has_text="Loading")).to_be_visible()
    held[0].continue_()
    assert titles(panel(page, "Similar items"))
    expect(page.get_by_text("Loading")).to_have_count(0)


def test_the_answer_to_an_older_search_never_replaces_a_newer_one(open_page: Callable[..., Page]) -> None:
    page = open_page()
    held: list[Route] = []
    page.route(re.compile(r"/v1/(users|items)\?q=white"), lambda route: held.append(route))
    search(page, "white")
    expect(page.locator("#search-note")).to_have_text("Searching…")
    assert len(held) == 2

    page.get_by_role("combobox").fill("tea")
    expect(page.get_by_role("option")).to_have_text(re.compile("Tea pot"))
    for route in held:
        route.fulfill(
            json={"users": [], "items": [{"item_id": "old", "title": "Old", "category": None, "available": True}]}
        )
    page.wait_for_timeout(200)

    expect(page.get_by_role("option")).to_have_text(re.compile("Tea pot"))


def test_the_answer_for_a_page_that_was_left_is_thrown_away(open_page: Callable[..., Page]) -> None:
    page = open_page("#/drift")
    held: list[Route] = []
    page.route("**/v1/items/bowl/similar*", lambda route: held.append(route))
    start = page.url.split("#")[0]
    page.goto(f"{start}#/item/bowl")
    expect(page.get_by_text("Loading")).to_be_visible()

    page.goto(f"{start}#/item/mug")
    expect(page.get_by_role("heading", level=1)).to_have_text("White mug")
    held[0].fulfill(json={"items": [], "title": "Old", "generation": None, "stale": True})
    page.wait_for_timeout(200)

    expect(page).to_have_title("White mug · Shortlist")
    expect(page.get_by_text("Stale")).to_have_count(0)


def test_a_stale_answer_is_announced(open_page: Callable[..., Page]) -> None:
    """The answer of the service, with `stale` set on its way: tests of the service make it stale."""
    page = open_page("#/drift")

    def stale(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "stale": True})

    page.route("**/v1/recommendations/*?*", stale)
    page.goto(page.url.split("#")[0] + "#/user/anna")

    expect(page.get_by_role("status").filter(has_text="Stale.")).to_be_visible()


def test_everything_can_be_done_by_keyboard(open_page: Callable[..., Page]) -> None:
    page = open_page()
    keyboard = page.keyboard

    keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/")

    keyboard.press("/")
    box = page.get_by_role("combobox")
    expect(box).to_be_focused()
    keyboard.type("white")
    expect(page.get_by_role("option")).to_have_count(2)
    expect(box).to_have_attribute("aria-expanded", "true")
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    second = page.get_by_role("option").nth(1)
    expect(second).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == second.get_attribute("id")
    keyboard.press("ArrowDown")
    expect(box).not_to_have_attribute("aria-activedescendant", re.compile("."))
    keyboard.press("ArrowUp")
    expect(second).to_have_attribute("aria-selected", "true")
    keyboard.press("Escape")
    expect(box).to_have_attribute("aria-expanded", "false")
    expect(box).to_have_value("white")
    keyboard.press("Escape")
    expect(box).to_have_value("")

    keyboard.type("anna")
    keyboard.press("Enter")  # before the answer is here
    expect(page.get_by_role("heading", level=1)).to_have_text("anna")
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_role("button", name="Why?").first).to_be_visible()
    for _ in range(2):
        keyboard.press("Tab")
    expect(page.get_by_role("button", name="Why?").first).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard.press("Enter")
    expect(page.get_by_label(f"Why {SCRIPT}").locator(".bars")).to_be_visible()


@pytest.mark.parametrize("path", PAGES)
def test_on_a_phone_nothing_has_to_be_scrolled_sideways(open_page: Callable[..., Page], path: str) -> None:
    page = open_page(path, width=360)
    page.wait_for_load_state("networkidle")
    if "user" in path:
        page.get_by_role("button", name="Why?").first.click()
        expect(page.locator(".why .bars")).to_be_visible()
    search(page, "a")
    expect(page.get_by_role("option").first).to_be_visible()

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    outside = "[...document.querySelectorAll('main *')].filter(one => !one.closest('.table, svg, .hidden')"
    assert page.evaluate(f"{outside} && one.getBoundingClientRect().right > 360).map(one => one.outerHTML)") == []


# Of every text that is seen: the contrast of its colour with the nearest ground that is painted (WCAG 2.2, 1.4.3).
POOR_CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
    const style = getComputedStyle(node);
    const [one, other] = [node.closest("svg") ? style.fill : style.color, ground(node)].map(light);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${node.outerHTML}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_easy_to_read_in_light_and_dark(open_page: Callable[..., Page], scheme: str) -> None:
    page = open_page(scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (scheme == "dark")

    for path in PAGES:
        page.goto(page.url.split("#")[0] + path)
        page.wait_for_load_state("networkidle")
        if "user" in path:
            page.get_by_role("button", name="Why?").first.click()
            expect(page.locator(".why .bars")).to_be_visible()
        assert page.evaluate(POOR_CONTRASTS) == []


def test_the_page_needs_nothing_but_its_own_files(open_page: Callable[..., Page]) -> None:
    """Every page is visited; `open_page` refuses requests to other hosts and everything the policy stops."""
    page = open_page()

    for path in PAGES:
        page.goto(page.url.split("#")[0] + path)
        page.wait_for_load_state("networkidle")

    policy = page.request.get(page.url.split("#")[0]).headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert json.loads(page.evaluate("JSON.stringify(performance.getEntriesByType('resource').map(r => r.name))"))
