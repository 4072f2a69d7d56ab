"""Output of the commands on the terminal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live

from ml_energy_callbacks.record.load import dump_json

_Result = TypeVar("_Result", bound=msgspec.Struct)


def console_for(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: ``[amd]`` in the name of an extra is not markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def print_result(result: _Result, render: Callable[[_Result], RenderableType], *, json: bool) -> None:
    """Print a result as tables, or as JSON."""
    if json:
        typer.echo(dump_json(result))
    else:
        console_for().print(render(result))


@contextlib.contextmanager
def live_display(render: Callable[[_Result], RenderableType]) -> Iterator[Callable[[_Result], None]]:
    """Yield a function that shows the given intermediate result on stderr."""
    with Live(console=console_for(stderr=True), transient=True, auto_refresh=False) as shown:
        yield lambda result: shown.update(render(result), refresh=True)
