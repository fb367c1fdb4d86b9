"""The page in a real browser: from an empty page to a recommendation, errors, a slow server, hostile titles."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import polars as pl
import pytest
from tests.browser import CHROMIUM, needs_browser
from tests.serve.paced import PacedEngine, service

from palate.serve.engine import Effect, Longs, Model, Part, Person, TokenOf

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect  # noqa: E402

pytestmark = needs_browser

HOSTILE = [
    '<img src=x onerror="window.hit=1"> \'quoted\' "twice"',
    "</bdi><script>window.hit=1</script>",
    "\u202eevil (1999)",
    "שלום עולם (2001)",
    "W" * 300,
]
TITLES = [
    *("Toy Story (1995)", "Heat (1995)", "Matrix, The (1999)", "Fargo (1996)", "Se7en (1995)", "Alien (1979)"),
    *(f"{word} {n} ({1960 + n})" for n, word in enumerate(["Night", "Morning", "Summer", "Winter"] * 6, 1)),
    *HOSTILE,
]
PATIENCE = 20_000
"""Milliseconds until a check fails; a busy machine needs seconds for what takes a moment."""
READY = "#recommendations[aria-busy=false] .rec"
NAMELESS = re.compile(
    r"^ *- '?(?:button|checkbox|combobox|link|listbox|option|radio|radiogroup|spinbutton|tab|textbox)\b(?! \")", re.M
)
"""Controls of an accessibility tree that a screen reader cannot name."""
LISTEN = """() => {
  window.said = [];
  const live = document.querySelector('#live');
  const hear = () => { if (live.textContent) window.said.push(live.textContent); };
  new MutationObserver(hear).observe(live, { childList: true });
}"""
"""Keeps what a screen reader says of the page by itself."""


class FilmEngine(PacedEngine):
    """A catalogue with hostile titles, two classical and two language models, reasons and a prompt."""

    items = pl.DataFrame(
        {
            "item_id": range(1, len(TITLES) + 1),
            "title": TITLES,
            "genres": [("Comedy|Children", "Crime|Drama|Thriller")[n % 2] for n in range(len(TITLES))],
            "year": [1960 + n for n in range(len(TITLES))],
        }
    )
    default = "trees"
    models = {  # noqa: RUF012
        "mean": Model("mean", "item mean", "baseline", True, 0.7),
        "trees": Model("trees", "LightGBM (strongest) + text", "baseline", True, 0.84),
        "base": Model("base", "Small-135M", "language model", False, 0.55),
        "adapter": Model("adapter", "Small-135M, fine-tuned", "language model", True, 0.79),
    }

    def __init__(self, seconds: float = 0.0, scale: tuple[float, float] = (0.5, 5.0)) -> None:
        super().__init__("films", seconds)
        self.scale, self.ended = scale, 0
        self.about |= {
            **{"default": self.default, "scale": scale, "filters": {"genres": "list", "year": "number"}},
            **{"base": "Small-135M", "adapter": "runs/films/adapter", "data": {"ratings": 100, "source": "films"}},
            **{"verdict": ["Use LightGBM (strongest) + text.", "The fine-tuned model sorts worse."]},
            "models": [vars(each) for each in self.models.values()],
            "metrics": {key: {"auc": m.auc, "log_loss": 0.5, "n": 100} for key, m in self.models.items()},
        }

    def _part(self, model: str, person: Person, position: int, row: int) -> Part:
        past = self.past(person)
        parity = (row + past["item"].to_numpy()) % 2 == 0  # items of the same genres
        taste = ((past["rating"].to_numpy() - 3) * np.where(parity, 0.3, -0.1)).sum()
        logit = np.array([taste + 0.02 * row + 0.1 * list(self.models).index(model)])
        return Part(np.array([position]), 1 / (1 + np.exp(-logit)), logit, None)

    def candidates(
        self, person: Person, among: Longs | None, retriever: str, number: int, *, include_seen: bool
    ) -> tuple[Longs, int]:
        among = np.arange(len(TITLES)) if among is None else among
        return super().candidates(person, among, retriever, number, include_seen=include_seen)

    def score(
        self, model: str, person: Person, item: Longs, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Part]:
        yield from super().score(model, person, item, cancelled)
        self.ended += cancelled()

    def explain(self, model: str, person: Person, item: int) -> tuple[Part, list[Effect]]:
        past = self.past(person).select("item", "rating").rows()
        return self._part(model, person, 0, item), [Effect(row, rating, rating - 3, 0.5) for row, rating in past]

    def prompt(self, person: Person, item: int) -> tuple[list[TokenOf], str, str]:
        read = [*(TITLES[row] for row in self.past(person)["item"].to_list()), TITLES[item]]
        pieces = [TokenOf(n, text, "text") for n, text in enumerate(" ".join(read).replace(" ", "| ").split("|"))]
        return [TokenOf(900, "<|user|>\n", "template"), *pieces, TokenOf(901, "Yes", "answer")], "Yes", "No"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def engine() -> FilmEngine:
    return FilmEngine()


@pytest.fixture(scope="module")
def url(engine: FilmEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with service(tmp_path_factory.mktemp("store"), engine) as client:
        yield str(client.base_url)


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Opened]:
    """Opens the page; at the end it must have asked no other host, and the console must have no error.

    Chromium itself writes each answer of 400 or more on the console; `failing` tests have some.
    """
    contexts: list[BrowserContext] = []
    strange: list[str] = []

    def open_page(address: str = url, *, failing: bool = False, route: Any = None, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(address) else strange.append(asked.url))

        def listen(message: Any) -> None:
            if message.type in ("error", "warning") and not (failing and "Failed to load" in message.text):
                strange.append(message.text)

        page.on("console", listen)
        if route is not None:
            page.route(*route)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not strange


def rate(page: Page, title: str, stars: str) -> None:
    """Search a title and rate it, by keyboard."""
    page.locator("#query").click()
    page.keyboard.type(title)
    expect(page.locator("#found")).to_be_visible()
    for key in ("ArrowDown", "Enter", stars, "Enter"):
        page.keyboard.press(key)


def titles(page: Page, place: str) -> list[str]:
    return page.locator(f"{place} .title").all_text_contents()


def test_a_keyboard_leads_from_the_empty_page_to_a_recommendation_and_its_reasons(opened: Opened) -> None:
    page = opened()
    expect(page.locator("#empty")).to_be_visible()
    for _ in range(3):  # the tabs are one stop, then the search
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "query":
            break
    page.keyboard.type("toy stroy")
    expect(page.locator("#found [role=option]").first).to_have_text("Toy Story (1995)Comedy, Children")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.wait_for_timeout(300)
        page.keyboard.press(key)
    for _ in range(2):
        page.keyboard.press("ArrowRight")  # from no star over half a star to the next ones
    expect(page.locator("#rated .given")).to_have_text("1.5")
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    expect(page.locator("#query")).to_be_focused()
    page.wait_for_selector(READY)
    expect(page.locator("#live")).to_contain_text("10 recommendations. First: ")
    assert "Toy Story (1995)" not in titles(page, "#recommendations")

    while not page.evaluate("document.activeElement.id.startsWith('why-')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".effects li")).to_have_text(["Toy Story (1995)★ 5▲raises it: 50 % without"])
    expect(page.locator(".panel .models > div")).to_have_count(4)


def test_ratings_are_reordered_removed_and_kept_over_a_reload(opened: Opened) -> None:
    page = opened()
    for title, stars in (("fargo", "4"), ("heat", "2"), ("alien", "5")):
        rate(page, title, stars)
    newest_first = ["Alien (1979)", "Heat (1995)", "Fargo (1996)"]
    assert titles(page, "#rated") == newest_first
    page.get_by_label("Move down Alien (1979)").click()
    expect(page.get_by_label("Move down Alien (1979)")).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    assert titles(page, "#rated") == ["Heat (1995)", "Fargo (1996)", "Alien (1979)"]
    page.get_by_label("Remove Heat (1995)").click()
    with page.expect_request("**/v1/recommend") as asked:
        page.reload()
        page.wait_for_selector("#rated li")
        page.wait_for_selector(READY)
    assert titles(page, "#rated") == ["Fargo (1996)", "Alien (1979)"]
    assert page.locator("#rated .given").all_text_contents() == ["4", "5"]
    assert asked.value.post_data_json["retriever"] == "popularity"  # the titles to begin with come first

    page.get_by_role("button", name="Start again").click()
    expect(page.locator("#rated li")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#rated li")).to_have_count(2)
    page.get_by_role("button", name="Start again").click()
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


@pytest.mark.parametrize("entry", ["{", '{"version": 1, "history": [{"item_id": null}, 7], "filters": [], "top": "x"}'])
def test_a_broken_entry_of_the_browser_s_storage_leaves_a_page_that_works(opened: Opened, entry: str) -> None:
    page = opened()
    page.evaluate("entry => localStorage.setItem('palate:films', entry)", entry)
    page.reload()
    page.locator("#popular label:nth-child(10)").first.click()
    page.wait_for_selector(READY)


def test_a_rating_and_a_dismissal_of_a_known_user_are_stored(opened: Opened, url: str) -> None:
    page = opened()
    page.locator("#user-id").fill("42")
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#yours-title")).to_have_text("User 42")
    page.wait_for_selector(READY)
    first, second = titles(page, "#recommendations")[:2]
    with page.expect_response(lambda answer: '"dismissed"' in (answer.request.post_data or "")) as told:
        page.get_by_label(f"Dismiss {first}").click()
    (event,) = told.value.request.post_data_json["events"]
    assert (event["event"], event["user_id"], event["model"]) == ("dismissed", 42, "trees")
    assert told.value.json() == {"stored": 1, "repeated": False}
    with page.expect_response("**/v1/ratings") as stored:
        page.locator("#recommendations li", has_text=second).locator("label").nth(3).click()
    assert stored.value.json()["stored"] == 1
    rows = page.evaluate("fetch('v1/users/42').then(answer => answer.json())")["ratings"]
    assert [(row["title"], row["rating"]) for row in rows if row["stored"]] == [(second, 2.0)]
    expect(page.locator("#recommendations")).not_to_contain_text(second)
    page.reload()
    expect(page.locator("#yours-title")).to_have_text("User 42")


def test_an_unknown_user_and_a_refused_request_show_the_server_s_detail(opened: Opened) -> None:
    page = opened(failing=True)
    page.locator("#user-id").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#user-line")).to_contain_text("there is no such user")
    problem = {"title": "Unprocessable Content", "status": 422, "detail": "filters: <b>no</b> column"}
    refuse = lambda route: route.fulfill(status=422, json=problem)  # noqa: E731
    page.route("**/v1/recommend", refuse)
    rate(page, "fargo", "4")
    expect(page.locator("#theirs-line")).to_contain_text("filters: <b>no</b> column")
    page.unroute("**/v1/recommend", refuse)
    page.get_by_role("button", name="Change the ratings").click()  # the same request would be refused again
    expect(page.locator("#query")).to_be_focused()
    rate(page, "heat", "3")
    page.wait_for_selector(READY)


def test_a_server_that_is_down_or_busy_is_asked_again(opened: Opened) -> None:
    asked: list[float] = []

    def busy(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            route.abort()
        elif len(asked) == 2:
            headers = {"Retry-After": "2", "Content-Type": "application/problem+json"}
            route.fulfill(status=429, headers=headers, body=json.dumps({"title": "Too Many Requests", "status": 429}))
        else:
            route.continue_()

    page = opened(failing=True, route=("**/v1/model", busy))
    expect(page.locator("#boot")).to_contain_text("The server does not answer")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#boot")).to_contain_text("The server is busy. Asking again in 2 s")
    expect(page.locator("#run")).to_have_text("films")
    assert asked[2] - asked[1] >= 1.9


def test_a_screen_reader_says_the_way_from_loading_to_a_recommendation(opened: Opened, tmp_path: Path) -> None:
    engine, loaded = FilmEngine(), threading.Event()

    def load() -> FilmEngine:
        loaded.wait(60)
        return engine

    with service(tmp_path, load) as client:
        page = opened(str(client.base_url), failing=True)
        page.evaluate(LISTEN)
        live = page.locator("#live")
        expect(page.locator("#boot")).to_contain_text(re.compile(r"^The models of the run are .* Asking again in \d"))
        expect(live).to_contain_text("The models of the run are being loaded")
        loaded.set()
        expect(live).to_have_text("films is ready")
        page.locator("#query").click()
        page.keyboard.type("fargo")
        expect(live).to_have_text("1 title found")
        page.keyboard.press("Enter")
        stars = page.get_by_role("radiogroup", name="Rating of Fargo (1996)")
        expect(stars.get_by_label("0.5 stars", exact=True)).to_be_focused()
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        expect(live).to_contain_text("10 recommendations. First: ")
        first, second = titles(page, "#recommendations")[:2]
        page.get_by_label(f"Why? {first}", exact=True).press("Enter")
        expect(live).to_have_text(f"Reasons for {first}")
        page.locator("#options summary").first.click()
        assert not NAMELESS.findall(page.locator("body").aria_snapshot())

        engine.seconds = 0.02  # the rows come one by one; that with the focus stays meanwhile
        page.get_by_label(f"Dismiss {first}", exact=True).press("Enter")
        expect(page.locator("#theirs-note")).to_contain_text("1 dismissed item")
        expect(page.get_by_label(f"Why? {second}", exact=True)).to_be_focused()
        page.get_by_label("genres").fill("Comdy")
        page.route("**/v1/recommend", lambda route: route.abort())
        page.keyboard.press("Enter")
        expect(live).to_have_text("The server does not answer: check that it runs.")
        page.unroute("**/v1/recommend")
        page.get_by_role("button", name="Try again").press("Enter")
        expect(live).to_contain_text("no item has 'Comdy', did you mean 'Comedy'?")
        assert page.evaluate("document.querySelector('#theirs-line').contains(document.activeElement)")
        said = [text for text in page.evaluate("window.said") if not text.startswith(("Waiting", "Scor"))]
    starts = ["The models", "films", "1 title", "10 rec", "Reasons", "Dismissed", "10 rec", "The server", "Unproc"]
    assert [text[: len(start)] for text, start in zip(said, starts, strict=True)] == starts


def test_a_slow_server_shows_progress_and_a_new_rating_ends_the_earlier_request(
    opened: Opened, engine: FilmEngine
) -> None:
    page = opened()
    expect(page.locator("#popular li")).to_have_count(6)
    engine.seconds = 0.3  # a busy machine needs seconds for a rating, and the request must still run then
    try:
        rate(page, "fargo", "4")
        expect(page.locator("#theirs-line")).to_contain_text("Scored ")
        expect(page.locator("#recommendations > li")).to_have_count(10)  # scored ones, and room for the others
        room = "document.querySelector('#recommendations').offsetHeight"
        early = page.evaluate(room)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#theirs-line")).to_contain_text("Cancelled.")
        rate(page, "heat", "4")
        expect(page.locator("#theirs-line")).to_contain_text("Scored ")
        rate(page, "alien", "4")
        deadline = time.monotonic() + PATIENCE / 1000
        while engine.ended < 2 and time.monotonic() < deadline:  # a fast engine could end before the hang-up is seen
            page.wait_for_timeout(20)
        assert engine.ended >= 2
        engine.seconds = 0.0
        expect(page.locator("#theirs-note")).to_contain_text("from 3 ratings")
    finally:
        engine.seconds = 0.0
    assert page.evaluate(room) == early


def test_a_server_that_does_not_begin_to_answer_is_waited_for_visibly(opened: Opened) -> None:
    held: list[Route] = []
    page = opened()
    page.route("**/v1/items*", lambda route: held.append(route))
    page.locator("#query").fill("fargo")
    expect(page.locator("#search-line")).to_contain_text("Waiting for the server")
    held[0].continue_()
    expect(page.locator("#found li")).to_have_count(1)
    expect(page.locator("#search-line")).to_be_empty()


def test_hostile_titles_stay_text(opened: Opened) -> None:
    page = opened(viewport={"width": 390, "height": 800})
    for title in HOSTILE:
        rate(page, title.strip("\u202e")[:40], "5")
    expect(page.locator("#theirs-note")).to_contain_text(f"from {len(HOSTILE)} ratings")
    page.locator("[id^=why-]").first.click()
    expect(page.locator(".effects li")).to_have_count(len(HOSTILE))
    assert sorted(titles(page, "#rated")) == sorted(HOSTILE)
    page.get_by_role("tab", name="Prompt").click()
    expect(page.locator("#tokens .answer")).to_have_text("Yes")
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    for tab in ("Prompt", "Recommend"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_models_stand_side_by_side_and_filters_narrow_the_items(opened: Opened) -> None:
    page = opened()
    rate(page, "fargo", "4")
    page.wait_for_selector(READY)
    page.locator("#options summary").click()
    page.get_by_role("button", name="Base and fine-tuned side by side").click()
    shown = page.locator("#recommendations .rec").first.locator("dt")
    expect(shown).to_have_text(["Small-135M, fine-tuned", "Small-135M"])
    page.get_by_label("genres").fill("comedy")
    page.get_by_label("year, to").fill("1965")
    expect(page.locator("#theirs-note")).to_contain_text("The best of 3 candidates")
    assert titles(page, "#recommendations") == ["Se7en (1995)", "Matrix, The (1999)", "Toy Story (1995)"]
    page.reload()
    expect(page.locator("#theirs-note")).to_contain_text("The best of 3 candidates")


def test_a_filter_offers_the_values_there_are_and_shows_why_another_is_refused(opened: Opened) -> None:
    page = opened(failing=True)
    rate(page, "fargo", "4")
    page.wait_for_selector(READY)
    page.locator("#options summary").click()
    genres = page.get_by_label("genres")
    offered = page.locator("datalist[id=filter-genres-values] option")
    values = [each.get_attribute("value") for each in offered.all()]
    assert values == ["Children", "Comedy", "Crime", "Drama", "Thriller"]
    genres.fill("Crime, Com")
    expect(offered.nth(1)).to_have_attribute("value", "Crime, Comedy")
    genres.fill("Comdy")
    genres.press("Enter")
    expect(page.locator("#theirs-line")).to_contain_text(
        "filters.genres: no item has 'Comdy', did you mean 'Comedy'?Change the filters"
    )
    genres.fill("Comedy")
    expect(page.locator("#theirs-note")).to_contain_text("The best of 18 candidates")


def test_the_evidence_and_the_prompt_show_what_the_run_knows(opened: Opened) -> None:
    page = opened(failing=True)
    rate(page, "fargo", "4")
    page.wait_for_selector(READY)
    page.get_by_role("tab", name="Recommend").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#verdict")).to_contain_text("Use LightGBM (strongest) + text.")
    expect(page.locator("#metrics .used")).to_contain_text("0.840")
    expect(page.locator("#report")).to_contain_text("This run has no report")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tokens")).to_contain_text("Fargo·(1996)")
    expect(page.locator("#legend")).to_contain_text("the part that training learns, 1 token")
    assert page.locator("#tokens .template").count() == page.locator("#tokens .answer").count() == 1
    page.reload()  # the address names the tab
    expect(page.locator("#tokens")).to_contain_text("Fargo·(1996)")


def test_a_key_is_asked_for_and_kept_until_the_tab_closes(opened: Opened, tmp_path: Path) -> None:
    with service(tmp_path, FilmEngine(), key="secret") as client:
        page = opened(str(client.base_url), failing=True)
        for key in ("wrong", "secret"):
            expect(page.locator("#key-field")).to_be_focused()
            page.keyboard.type(key)
            with page.expect_response("**/v1/model"):
                page.keyboard.press("Enter")
            if key == "wrong":
                expect(page.locator("#boot")).to_contain_text("The server refuses this API key")
        expect(page.locator("#run")).to_have_text("films")
        page.reload()
        expect(page.locator("#popular li")).to_have_count(6)


def test_a_scale_without_stars_has_a_number(opened: Opened, tmp_path: Path) -> None:
    with service(tmp_path, FilmEngine(scale=(0.0, 100.0))) as client:
        page = opened(str(client.base_url))
        page.locator("#popular input[type=number]").first.fill("80")
        page.keyboard.press("Tab")
        page.wait_for_selector(READY)
        assert page.locator("#rated input[type=range]").input_value() == "80"


def test_axe_finds_nothing_serious_at_any_width_in_both_themes(opened: Opened) -> None:
    axe = Path(pytest.importorskip("axe_core_python", reason="no axe-core here").__file__).parent / "axe.min.js"
    page = opened(reduced_motion="reduce", failing=True)
    page.evaluate(axe.read_text())

    def check() -> None:
        found = []
        for width, scheme in product((390, 800, 1400), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            violations = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            found += [(width, scheme, each["id"], each["nodes"][0]["html"]) for each in violations]
        assert found == []

    expect(page.locator("#popular li")).to_have_count(6)
    check()
    rate(page, "fargo", "4")
    page.wait_for_selector(READY)
    page.locator("[id^=why-]").first.click()
    page.locator("#options summary").click()
    expect(page.locator(".effects li")).to_have_count(1)
    page.locator("#query").fill("night")
    expect(page.locator("#found li")).not_to_have_count(0)
    check()
    for tab, shown in (("Evidence", "#report p"), ("Prompt", "#tokens .answer")):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(shown)
        check()


def test_the_page_shows_the_scores_that_http_gives(opened: Opened, served: str) -> None:
    page = opened(served)
    rate(page, "film 7", "5")
    rate(page, "film 8", "2")
    expect(page.locator("#theirs-note")).to_contain_text("from 2 ratings")
    shown = list(zip(titles(page, "#recommendations"), page.locator(".main .number").all_text_contents(), strict=True))
    history = [{"item_id": 7, "rating": 5}, {"item_id": 8, "rating": 2}]
    given = httpx.post(f"{served}/v1/recommend", json={"history": history}).json()["recommendations"]
    assert [title for title, _ in shown] == [each["title"] for each in given]
    for (_, number), each in zip(shown, given, strict=True):
        assert float(number.strip("<> %")) / 100 == pytest.approx(each["p"], abs=0.011)
    page.get_by_role("tab", name="Prompt").click()
    expect(page.locator("#tokens")).to_contain_text("Film·7")
