"""Elements of HTML and SVG, whose texts and attributes are escaped when they are written: no text of a user is ever markup."""

from collections.abc import Iterable
from html import escape
from typing import Final
from xml.etree.ElementTree import Element

Child = Element | str | None
Content = Child | Iterable[Child]

_VOID: Final = {"br", "col", "input", "link", "meta"}
_RAW: Final = {"script", "style"}
"""Elements whose text HTML reads as it is, up to their end."""


def node(tag: str, *contents: Content, **attributes: str | float | bool | None) -> Element:
    """Return an element.

    Args:
        tag: Its name.
        contents: Its elements and texts in order; None adds nothing.
        attributes: An underscore stands for a hyphen, and one at the end for none, as in ``class_``; None and False are left
            out, and True has no value.
    """
    element = Element(tag)
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        text = "" if value is True else value if isinstance(value, str) else number(value)
        element.set(name.removesuffix("_").replace("_", "-"), text)
    for content in contents:
        for child in [content] if isinstance(content, Element | str) or content is None else content:
            _append(element, child)
    return element


def number(value: float) -> str:
    """Return a coordinate with one decimal at most."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def to_html(*elements: Element) -> str:
    """Return elements as HTML."""
    return "".join(part for element in elements for part in _written(element))


def _written(element: Element) -> Iterable[str]:
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in element.items())
    yield f"<{element.tag}{attributes}>"
    if element.tag in _VOID:
        return
    text = element.text or ""
    yield text.replace("</", r"<\/") if element.tag in _RAW else escape(text, quote=False)
    for child in element:
        yield from _written(child)
        yield escape(child.tail or "", quote=False)
    yield f"</{element.tag}>"


def _append(element: Element, child: Child) -> None:
    if isinstance(child, Element):
        element.append(child)
    elif child and len(element):
        element[-1].tail = (element[-1].tail or "") + child
    elif child:
        element.text = (element.text or "") + child
