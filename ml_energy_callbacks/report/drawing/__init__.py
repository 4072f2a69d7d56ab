"""Pictures as inline SVG, from plain numbers: what page, notebook and TensorBoard show, in one language.

Each function returns an element of HTML, the figure with its legend, which :func:`to_html` writes; no text in it is markup. The
colours need :func:`style` once, and an element of the class ``mle`` around them.
"""

from ml_energy_callbacks.report.drawing.bars import Bar, Part, bars
from ml_energy_callbacks.report.drawing.icicle import Slab, icicle
from ml_energy_callbacks.report.drawing.markup import node, to_html
from ml_energy_callbacks.report.drawing.palette import phase_colour, series_colour, stage_colour, style
from ml_energy_callbacks.report.drawing.scatter import Spot, pareto, scatter
from ml_energy_callbacks.report.drawing.series import EPOCHS, Across, Point, Series, areas, lines

__all__ = [
    "EPOCHS",
    "Across",
    "Bar",
    "Part",
    "Point",
    "Series",
    "Slab",
    "Spot",
    "areas",
    "bars",
    "icicle",
    "lines",
    "node",
    "pareto",
    "phase_colour",
    "scatter",
    "series_colour",
    "stage_colour",
    "style",
    "to_html",
]
