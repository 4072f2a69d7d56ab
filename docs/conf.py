"""The documentation site: `python -m sphinx docs site`, where the package and its frameworks are installed."""

import re
from importlib.metadata import metadata

from sphinx.application import Sphinx

_PROJECT = metadata("ml-energy-callbacks")
_REPOSITORY = dict(url.split(", ") for url in _PROJECT.get_all("Project-URL") or [])["Homepage"]

project = _PROJECT["Name"]
version = release = _PROJECT["Version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
napoleon_use_ivar = True
autodoc_preserve_defaults = True  # as they are written: not the values of os.environ
autodoc_mock_imports = ["ray"]  # large, for one base class
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
copybutton_exclude = ".linenos, .gp"

html_theme = "furo"
html_title = project
html_show_sphinx = html_show_copyright = html_copy_source = False
html_theme_options = {"source_repository": _REPOSITORY, "source_branch": "main", "source_directory": "docs/"}


def _link_to_repository(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Let a link to a file outside of docs/, as the repository shows it, lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./", f"]({_REPOSITORY}/blob/main/", source[0])


def setup(app: Sphinx) -> None:
    """Connect what is ours."""
    app.connect("source-read", _link_to_repository)
