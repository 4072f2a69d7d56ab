"""One or several runs as one HTML file, which needs no network."""

from ml_energy_callbacks.report.page.run import run_page
from ml_energy_callbacks.report.page.runs import runs_page

__all__ = ["run_page", "runs_page"]
