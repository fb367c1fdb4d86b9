"""The pictures of docs/page.md: the page of a running service, in the browser.

    palate serve runs/demo
    python docs/screenshots.py http://127.0.0.1:8000 [FOLDER]

Needs Playwright, Debian's chromium, and the items of MovieLens 100K.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
RATED = {"fargo": "5", "pulp fiction": "4", "toy story": "4", "dumb & dumber": "1", "blade runner": "5"}
READY = "#recommendations[aria-busy=false] .rec"


def main(url: str, folder: Path = IMAGES) -> None:
    """Write `page-*.png`."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with opened(browser, url, 1400, 900, "light") as page:
            page.wait_for_selector("#popular li")
            picture(page, folder / "page-empty.png")
            rate(page)
            page.locator("[id^=why-]").first.click()
            page.wait_for_selector(".panel .models")
            picture(page, folder / "page-why.png")
            page.locator("#tab-prompt").click()
            page.wait_for_selector("#tokens .answer")
            picture(page, folder / "page-prompt.png")
        with opened(browser, url, 1400, 900, "dark") as page:
            rate(page)
            page.locator("#options > summary").click()
            page.get_by_text("Base and fine-tuned side by side").click()
            page.locator("#options > summary").click()
            page.locator("#theirs-line", has_text="Scored").wait_for()
            page.wait_for_selector(READY)
            picture(page, folder / "page-compare.png")
        with opened(browser, url, 390, 844, "light") as page:
            rate(page)
            page.locator("#theirs-title").scroll_into_view_if_needed()
            page.evaluate("document.querySelector('#theirs-title').scrollIntoView()")
            picture(page, folder / "page-phone.png")
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int, height: int, scheme: str) -> Iterator[Page]:
    """The page in a window of its own; a narrow one is a phone."""
    phone = width < 500
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=phone, is_mobile=phone)
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def rate(page: Page) -> None:
    """Rate some films by keyboard, and wait for the recommendations."""
    for title, stars in RATED.items():
        page.locator("#query").fill(title)
        page.wait_for_selector("#found li")
        for key in ("Enter", stars, "Enter"):
            page.keyboard.press(key)
    page.locator("#theirs-note", has_text=f"from {len(RATED)} ratings").wait_for()
    page.wait_for_selector(READY)
    page.mouse.move(0, 0)


def picture(page: Page, path: Path) -> None:
    """A picture of the window, in 256 colours: a third of the bytes."""
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
