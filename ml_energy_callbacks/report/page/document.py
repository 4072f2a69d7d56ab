"""The HTML document: its head, its sections with their contents list, and the records that it carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from xml.etree.ElementTree import Element

from ml_energy_callbacks.report.drawing import node, style, to_html

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page loads nothing and sends nothing, whatever it contains."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its id, its heading and its contents; one without contents is left out."""

    identity: str
    heading: str
    contents: Sequence[Element]


def document(title: str, header: Sequence[Element], sections: Sequence[Section], data: Sequence[Element]) -> str:
    """Return an HTML document.

    Args:
        title: Title of the page.
        header: What stands above the contents list.
        sections: The sections in order.
        data: Elements that are not shown.
    """
    shown = [section for section in sections if section.contents]
    links = [node("li", node("a", section.heading, href=f"#{section.identity}")) for section in shown]
    body = [
        node("header", header),
        node("nav", node("ul", links), aria_label="Contents"),
        node("main", [_section(section) for section in shown]),
        node(
            "footer",
            f"Written by ml-energy-callbacks {version('ml-energy-callbacks')}; this page loads nothing from elsewhere.",
        ),
        node("p", class_="said", role="status", aria_live="polite"),
    ]
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("title", title),
        node("style", part_style(), _asset("page.css")),
    )
    script = node("script", _asset("page.js"))
    return f"<!DOCTYPE html>\n{to_html(node('html', head, node('body', body, data, script, class_='mle'), lang='en'))}\n"


def carried(identity: str, json: str) -> Element:
    """Return JSON as data of the page, which no text in it can end."""
    return node("script", json.replace("<", r"\u003c"), type="application/json", id=identity)


def part_style() -> str:
    """Return the style sheet of pictures, tables and headlines below an element of the class ``mle``."""
    return f"{style()}{_asset('parts.css')}"


def _section(section: Section) -> Element:
    heading = node("h2", section.heading, id=f"{section.identity}-heading")
    return node("section", heading, section.contents, id=section.identity, aria_labelledby=f"{section.identity}-heading")


@cache
def _asset(name: str) -> str:
    return files("ml_energy_callbacks.report.page").joinpath(name).read_text(encoding="utf-8")
