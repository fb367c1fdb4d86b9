"""A real browser for tests of pages: what it shows, what it says on its console, what it asks for, and a picture."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")

PROBE = """<script>addEventListener('load', () => {
const all = selector => [...document.querySelectorAll(selector)];
const box = e => e.getBoundingClientRect();
const root = document.documentElement;
console.log('PROBE ' + JSON.stringify({
  hidden: all('h1, section, figure > svg, .comparison, svg.interval, .forest svg')
    .filter(e => box(e).width < 60 || box(e).height < 15).map(e => e.outerHTML.slice(0, 80)),
  figures: all('figure').length,
  requests: performance.getEntriesByType('resource').map(r => r.name).filter(name => !name.startsWith('data:')),
  wide: root.scrollWidth > innerWidth
    ? all('main *').filter(e => box(e).right > innerWidth + 1 && !e.closest('.scroll'))
      .map(e => e.outerHTML.slice(0, 80))
    : [],
  width: innerWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  inks: all('polyline.m1, rect.m1, .line.ahead').map(e => getComputedStyle(e).stroke + getComputedStyle(e).fill),
}))})</script>"""


class Seen(NamedTuple):
    """What a browser saw."""

    probe: dict[str, Any]
    console: str
    picture: Path


def browse(page: str, folder: Path, *, width: int = 1280, dark: bool = False) -> Seen:
    """Show a page `width` pixels wide, in a frame: a browser's window cannot be as narrow as a phone.

    The picture is kept in the folder, as `page-THEME-WIDTH.png`.
    """
    assert CHROMIUM is not None
    probed = html.escape(page.replace("</body>", f"{PROBE}</body>"))
    framed = folder / "framed.html"
    framed.write_text(
        "<!DOCTYPE html><meta charset=utf-8><link rel=icon href='data:,'><body style='margin:0'>"
        f'<iframe style="border:0;width:{width}px;height:9000px" srcdoc="{probed}"></iframe>'
    )
    picture = folder / f"page-{'dark' if dark else 'light'}-{width}.png"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *(f"--window-size={max(width, 500)},9000", f"--screenshot={picture}", framed.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    lines = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    told = [found[1] for line in lines if (found := re.search(r'"PROBE (\{.*\})", source:', line))]
    assert told, done.stderr[-500:]
    console = "\n".join(line for line in lines if '"PROBE ' not in line)
    return Seen(json.loads(told[0]), console, picture)
