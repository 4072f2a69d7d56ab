"""The colours of all pictures, as CSS variables with one value for light and one for dark surfaces; and their style sheet."""

from collections.abc import Mapping
from typing import Final

_VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "surface": ("#ffffff", "#15171c"),
    "raised": ("#f5f6f8", "#1e2128"),
    "ink": ("#1b1e24", "#e6e8ec"),
    "muted": ("#575e6b", "#a3aab6"),
    "line": ("#d5d9e0", "#3a3f4a"),
    "blue": ("#2b70c9", "#69a6f5"),
    "orange": ("#b65806", "#f2a553"),
    "green": ("#1b8358", "#4fc58d"),
    "purple": ("#7a55c0", "#ab91ee"),
    "red": ("#c23b48", "#f27f88"),
    "teal": ("#0c7f8d", "#48bfcd"),
    "yellow": ("#8c6900", "#dcb543"),
    "pink": ("#b04585", "#e890c6"),
    "grey": ("#6d7480", "#99a0ac"),
}
"""Texts have a contrast of at least 4.5 with both backgrounds, and marks one of 3 (WCAG 2.2, 1.4.3 and 1.4.11)."""

_SERIES: Final = ("pink", "teal", "red", "yellow", "green", "purple", "orange", "blue")
"""Those that no common phase or stage has are first, so that a run or a device does not look like one."""

_PHASES: Final = {"compute": "blue", "step": "blue", "data_wait": "orange", "compile": "purple"}
_STAGES: Final = {"train": "blue", "validate": "green", "test": "purple", "predict": "teal", "sanity_check": "yellow"}


def phase_colour(name: str) -> str:
    """Return the name of the colour of a phase."""
    return _PHASES.get(name, "grey")


def stage_colour(name: str) -> str:
    """Return the name of the colour of a stage."""
    return _STAGES.get(name, "grey")


def series_colour(index: int) -> str:
    """Return the name of the colour of one of several devices or runs; after eight they repeat."""
    return _SERIES[index % len(_SERIES)]


def paint(colour: str) -> str:
    """Return a colour as a value of CSS."""
    return f"var(--mle-{colour})"


def style() -> str:
    """Return the style sheet of all pictures, for elements below one of the class ``mle``.

    The scheme is the reader's, or that of the notebook around it (JupyterLab, VS Code, Colab), or what ``data-theme`` says.
    """
    variables = "".join(f"--mle-{name}:light-dark({light},{dark});" for name, (light, dark) in _VARIABLES.items())
    return f".mle{{color-scheme:light dark;{variables}}}{_RULES}"


_RULES: Final = """
[data-jp-theme-light="false"] .mle,.vscode-dark .mle,html[theme="dark"] .mle,[data-theme="dark"] .mle{color-scheme:dark}
[data-jp-theme-light="true"] .mle,.vscode-light .mle,html[theme="light"] .mle,[data-theme="light"] .mle{color-scheme:light}
@media print{.mle{color-scheme:light!important;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.mle figure,.mle tr{break-inside:avoid}}
.mle{color:var(--mle-ink);background:var(--mle-surface);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.mle figure{margin:0 0 1.5rem;container-type:inline-size}
.mle figcaption{font-weight:600;margin-bottom:.25rem}
.mle figcaption small{font-weight:400;color:var(--mle-muted);font-size:.85em}
.mle svg{display:block;width:100%;height:auto;overflow:visible}
.mle svg text{font-size:12.5px;fill:var(--mle-muted);font-family:inherit}
.mle svg text.strong{fill:var(--mle-ink);font-weight:600}
.mle svg text.ink{fill:var(--mle-ink)}
.mle svg .grid{stroke:var(--mle-line);stroke-width:1;fill:none}
.mle svg .hover{fill:transparent}
.mle svg .hover:hover{fill:var(--mle-ink);fill-opacity:.08}
.mle svg .whisker{stroke:var(--mle-ink);stroke-width:1.5;fill:none}
.mle svg path.curve{fill:none;stroke-width:2;stroke-linejoin:round}
.mle svg .band{fill-opacity:.2;stroke:none}
.mle .legend{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;list-style:none;margin:.35rem 0 0;padding:0;font-size:.85em}
.mle .legend li{display:flex;align-items:center;gap:.4rem;margin:0}
.mle .legend svg{width:14px;height:14px;flex:none}
.mle .empty{color:var(--mle-muted);border:1px dashed var(--mle-line);border-radius:6px;padding:1.25rem;margin:0}
@container (min-width:900px){.mle figure>svg text{font-size:11px}}
@container (max-width:600px){.mle figure>svg text{font-size:16px}}
@container (max-width:420px){.mle figure>svg text{font-size:22px}}
"""
