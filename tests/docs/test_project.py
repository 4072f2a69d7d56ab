"""What the project says of itself outside its documentation agrees with the project."""

import dataclasses
import os
import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

from ml_energy_callbacks.frameworks.options import CallbackOptions

ROOT = Path(__file__).parents[2]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]


def test_links_between_pages_lead_to_files() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in links_of(page.read_text(encoding="utf-8")) if "://" not in target]
    assert len(links) > 50
    broken = [(page.name, target) for page, target in links if not leads_somewhere(page, target)]
    assert broken == []


def test_the_description_on_pypi_has_no_relative_link() -> None:
    if "ML_ENERGY_TESTED_PREFIX" not in os.environ:
        pytest.skip("only tox installs the package as it is now")
    targets = links_of(metadata("ml-energy-callbacks").json["description"])
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_page_of_options_has_every_option() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").partition("# Options")[2]
    named = {name for row in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert {option.name for option in dataclasses.fields(CallbackOptions)} <= named


def links_of(text: str) -> list[str]:
    """Return the targets of a page's links and pictures; what code looks like one is none."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [link[1] or link[2] for link in LINK.finditer(prose)]


def leads_somewhere(page: Path, target: str) -> bool:
    """Return whether a relative link leads to a file, and to a heading of it where it names one."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
