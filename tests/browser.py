"""A real headless Chromium, driven by Playwright: what people look at is looked at."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_LONGEST_MS = 300_000
"""For each step, on a busy machine."""


@dataclass
class Seen:
    """A page, what its console said, and what it asked for from elsewhere."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the text that a reader sees."""
        found: str = self.page.inner_text("body")
        return found

    def violations(self) -> list[str]:
        """Return what axe-core finds against roles, names and contrast."""
        from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - of the group `browser`

        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']][:3]}" for each in found]


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser with an empty profile; skip where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS), timeout=_LONGEST_MS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, place: Path | str, *, width: int = 1200, dark: bool = False, **options: Any) -> Iterator[Seen]:
    """Yield a page in a window of its own.

    Args:
        browser: What :func:`chromium` yields.
        place: A file, or a URL.
        width: Width of the window in pixels.
        dark: Whether the reader prefers dark pages.
        options: Further options of the window, such as ``java_script_enabled``.
    """
    url = place.as_uri() if isinstance(place, Path) else place
    home = url if url.startswith("file:") else url.split("/", 3)[0] + "//" + url.split("/", 3)[2]
    scheme = "dark" if dark else "light"
    window = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    window.set_default_timeout(_LONGEST_MS)
    seen = Seen(window.new_page())
    seen.page.on("console", lambda message: seen.console.append(message.text))
    seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
    seen.page.on("request", lambda request: None if _within(request.url, home) else seen.requests.append(request.url))
    try:
        seen.page.goto(url)
        yield seen
    finally:
        window.close()


def _within(url: str, home: str) -> bool:
    return url.startswith((home, "data:", "blob:"))
