"""The documentation site is built from docs/, complete, and needs nothing from elsewhere."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from browser import chromium, opened
from forked import Warm
from public_names import public

from ml_energy_callbacks.record import schema

pytestmark = pytest.mark.xdist_group("pages")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}
_NOT_LOADED = {"canonical", "next", "prev", "search", "index"}


class Page(HTMLParser):
    """What a page links to, what it loads, and where its links may lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if found.get("rel", "") not in _NOT_LOADED:
            self.loaded += [found[name] for kind, name in _LOADED if kind == tag and name in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, program: Warm) -> Path:
    """Return the folder of the site; any warning fails the build, a link to no page or heading among them."""
    sphinx = find_spec("sphinx.__main__")
    assert sphinx is not None
    folder = tmp_path_factory.mktemp("site")
    done = program.run(
        sphinx.origin, "-q", "-W", "--keep-going", "-d", folder / "doctrees", DOCS, folder / "html", folder=folder
    )
    assert done.errors == ""  # a package that is imported may say on stdout what it does
    return folder / "html"


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in sorted(site.rglob("*.html")):
        yield path, Page(path)


def test_every_page_of_the_documentation_is_in_the_site(site: Path) -> None:
    expected = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    navigation = Page(site / "index.html").links
    assert expected - {Path(link) for link in navigation} - {Path("index.html")} == set()


def test_each_link_leads_to_a_page_and_a_place_in_it(site: Path) -> None:
    read = dict(pages(site))
    assert len(read) > 30
    broken = []
    for path, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or (target in read and parts.fragment in {"", *read[target].ids}):
                continue
            if target not in read and target.is_file():
                continue
            broken.append((path.name, link))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path, page in pages(site):
        assert [place for place in page.loaded if urlsplit(place).netloc] == [], path.name
    for path in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", path.read_text(encoding="utf-8")) == [], (
            path.name
        )


def test_no_page_has_a_path_of_this_machine(site: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in site.rglob("*") if path.suffix in {".html", ".js"}]
    for place in (str(ROOT), str(Path.home()) + "/", str(site.parent)):
        assert not any(place in text for text in texts), place


def test_the_reference_has_each_public_name(site: Path) -> None:
    ids = {name for _, page in pages(site) for name in page.ids}
    backends = [name for name in public()["ml_energy_callbacks.backends.nvml"] if name.islower()]
    for path, names in public().items():
        for name in names:
            if name != "__version__" and name not in backends:
                assert f"{path}.{name}" in ids, name


def test_the_reference_has_each_part_of_the_record(site: Path) -> None:
    text = (site / "api" / "meter.html").read_text(encoding="utf-8")
    parts = [name for name, kind in vars(schema).items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    assert len(parts) > 10
    for name in parts:
        assert f'id="ml_energy_callbacks.{"" if name == "RunRecord" else "record.schema."}{name}"' in text


def test_the_reference_explains_the_options(site: Path) -> None:
    text = (site / "api" / "callbacks.html").read_text(encoding="utf-8")
    for option in ("sample_interval", "carbon_intensity", "batch_size_fn"):
        assert text.count(f"<strong>{option}</strong>") == 3


def test_the_search_index_has_the_words_of_the_pages(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("energybudget", "pareto", "torchrun"):
        assert word in index.lower()


@pytest.mark.full
def test_a_reader_finds_a_page_by_its_words(site: Path) -> None:
    with chromium() as browser:
        for page, width, dark in (("index.html", 1300, False), ("start.html", 420, True)):
            with opened(browser, site / page, width=width, dark=dark) as seen:
                assert "estimated ±" in seen.text()
                assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
                assert seen.console == []
                assert [request for request in seen.requests if not request.startswith("file:")] == []
        with served(site) as address, opened(browser, f"{address}/search.html?q=EnergyBudget") as seen:
            seen.page.locator("ul.search a", has_text="Budgets, early stopping").first.wait_for()
            assert seen.requests == []


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve the site as any web server does: a search also shows where a page has the words, which a file may not fetch."""
    serve = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
