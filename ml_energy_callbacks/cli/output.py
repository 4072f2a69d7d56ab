"""Output of the commands on the terminal."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live

from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.safe_text import json_source, printable

_Result = TypeVar("_Result", bound=msgspec.Struct)

_NOT_ASCII = re.compile("[^\x00-\x7f]+")


def console_for(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: ``[amd]`` in the name of an extra is not markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def print_line(text: str, *, stderr: bool = False) -> None:
    """Print one line, however long it is."""
    console_for(stderr=stderr).print(printable(text), soft_wrap=True)


def print_json(source: str) -> None:
    """Print JSON; to an output that has no Unicode, with escapes, which every reader of JSON knows."""
    try:
        source.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        source = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], source)
    typer.echo(json_source(source))


def print_result(result: _Result, render: Callable[[_Result], RenderableType], *, json: bool) -> None:
    """Print a result as tables, or as JSON."""
    if json:
        print_json(dump_json(result))
    else:
        console_for().print(render(result))


def print_record(record: RunRecord, path: Path | str | None = None, *, json: bool = False, verbose: bool = False) -> None:
    """Print a run: its headline, table, hints and notes, or the record as JSON.

    Args:
        record: The run.
        path: Path or URL of its record; None for where it was written to, if anywhere.
        json: Whether to print JSON.
        verbose: Whether to add the details.
    """
    print_result(record, partial(render, path=path, verbose=verbose), json=json)


@contextlib.contextmanager
def live_display(render: Callable[[_Result], RenderableType]) -> Iterator[Callable[[_Result], None]]:
    """Yield a function that shows the given intermediate result on stderr."""
    with Live(console=console_for(stderr=True), transient=True, auto_refresh=False) as shown:
        yield lambda result: shown.update(render(result), refresh=True)
