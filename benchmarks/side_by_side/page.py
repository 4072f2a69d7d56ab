"""From results to a page of the documentation, and to a table on the terminal."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from .jobs import FEW
from .results import Cell, Plot, Section, Table
from .tools import TOOLS, version_of

LIBRARIES = ("torch", "pytorch-lightning", "keras", "tensorflow", "numpy", "nvidia-ml-py")
VERDICTS = {True: "held", False: "missed", None: "not told"}
BAR_HEAD = ("what", "asked", "found", "")
DIGITS = 3
PLAIN_TO = 1e9

INTRODUCTION = """\
# Side by side

Zeus, CodeCarbon and carbontracker beside `ml_energy_callbacks`, on the same work and the same simulated hardware, whose true
energy is known. Each peer is used as its own documentation says, in the configuration that is best for the question. Where
one cannot do it, the table says why.

Figures are medians, but where a column says otherwise, with their 95 % interval by bootstrap in parentheses, or the range of
fewer than six values; a figure without parentheses was measured once. Cost is measured with each tool at its cheapest for the
question, error with each at its most exact: CodeCarbon then reads each second, carbontracker every 10 ms, Zeus approximates
short windows by the power, and ours has a window for each batch.

The simulated driver answers at once. A real one takes from tens of microseconds to milliseconds: whoever asks more often then
pays more. Ours asks some 20 times a second in a thread of its own, Zeus at both ends of each window in the loop's.

This page is written by the benchmark. To repeat it, from a clone:

```sh
tox -e bench               # all of it
tox -e bench -- --quick    # within 5 minutes on two cores
tox -e bench -- --write    # all of it, and this page anew
```

A table's own command is run in `benchmarks/`, in the environment of tox (`.tox/bench/bin/python`).
"""


def number(value: float) -> str:
    """Return a figure with three digits that count."""
    if value == int(value) and abs(value) < PLAIN_TO:
        return f"{value:,.0f}"
    if abs(value) >= PLAIN_TO or abs(value) < 1e-4:
        return f"{value:.{DIGITS - 1}e}"
    return f"{value:,.{max(0, DIGITS - 1 - int(f'{value:e}'.partition('e')[2]))}f}"


def words(cell: Cell) -> str:
    """Return a figure, its interval and what is remarked on it."""
    figure = f"{number(cell.value)} {cell.unit}".rstrip()
    if cell.low is not None and cell.high is not None and cell.low < cell.high:
        figure += f" ({number(cell.low)} to {number(cell.high)}"
        figure += f", range of {cell.count})" if cell.count is not None and cell.count < FEW else ")"
    return f"{figure}: {cell.note}" if cell.note else figure


def in_words(table: Table) -> tuple[list[list[str]], list[str]]:
    """Return the rows of a table, and the reasons of missing figures, to which its cells refer by number."""
    reasons: list[str] = []

    def text(cell: Cell) -> str:
        if cell.value is not None:
            return words(cell)
        reason = cell.note or "No figure, and no reason."
        if reason not in reasons:
            reasons.append(reason)
        return f"none [{reasons.index(reason) + 1}]"

    rows = [[name, *(text(cell) for cell in cells)] for name, cells in table.rows.items()]
    return rows, [f"[{number}] {reason}" for number, reason in enumerate(reasons, 1)]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def bars_of(sections: Mapping[str, Section]) -> list[list[str]]:
    """Return the bars of all sections in words."""
    bars = [bar for section in sections.values() for bar in section.bars]
    return [[bar.name[:1].upper() + bar.name[1:], bar.asked, bar.got, VERDICTS[bar.held]] for bar in bars]


def machine() -> str:
    """Return the machine in words."""
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        model = None
    processor = model.group(1).strip() if model else platform.machine()
    return f"{os.cpu_count()} CPUs ({processor}), {platform.system()}, Python {platform.python_version()}"


def versions() -> str:
    """Return the versions of the tools and of the libraries."""
    tools = [f"{name} {found}" for name in TOOLS if (found := version_of(name))]
    return ", ".join([*tools, *(f"{name} {version(name)}" for name in LIBRARIES)])


def draw(plot: Plot, folder: Path) -> None:
    """Draw a plot into a file of its name."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in plot.lines.items():
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, [float("nan") if y is None else y for y in ys], marker="o", label=name)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / f"{plot.name}.png", dpi=120, metadata={"Software": None})


def write(sections: Mapping[str, Section], scale: str, page: Path) -> None:
    """Write the page, and its plots into a folder of the same name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    option = "" if scale == "full" else f" --{scale}"
    parts = [
        INTRODUCTION,
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at the scale `{scale}`, on {machine()}; {versions()}.\n",
        f"## Bars\n\n{markdown_table(BAR_HEAD, bars_of(sections))}\n\n`python -m side_by_side{option}`\n",
    ]
    for section in sections.values():
        for table in section.tables:
            rows, reasons = in_words(table)
            blocks = [
                f"## {table.title}",
                table.about,
                markdown_table(["", *table.columns], rows),
                *reasons,
                f"`{table.command}{option}`",
            ]
            parts.append("\n\n".join(filter(None, blocks)) + "\n")
        for plot in section.plots:
            draw(plot, folder)
            parts.append(f"![{plot.title}]({folder.name}/{plot.name}.png)\n")
    page.write_text("\n".join(parts), encoding="utf-8")


def show(sections: Mapping[str, Section], console: Console) -> None:
    """Print the tables, and the bars last."""
    for section in sections.values():
        for table in section.tables:
            rows, reasons = in_words(table)
            show_rows(table.title, ["", *table.columns], rows, console)
            for reason in reasons:
                console.print(reason, markup=False)
    show_rows("Bars", BAR_HEAD, bars_of(sections), console)


def show_rows(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table."""
    table = RichTable(*head, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
