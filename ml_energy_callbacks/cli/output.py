"""What the commands print, and where."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live

from ml_energy_callbacks.record.load import dump_json

_Facts = TypeVar("_Facts", bound=msgspec.Struct)


def console_for(*, stderr: bool = False) -> Console:
    """Return a terminal that shows texts as they are: the ``[amd]`` of an extra or of a name is no markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def show(facts: _Facts, render: Callable[[_Facts], RenderableType], *, json: bool) -> None:
    """Print what was found as a table, or as JSON."""
    if json:
        typer.echo(dump_json(facts))
    else:
        console_for().print(render(facts))


@contextlib.contextmanager
def live(render: Callable[[_Facts], RenderableType]) -> Iterator[Callable[[_Facts], None]]:
    """Show on stderr what is known so far, each time that the function is called with it."""
    with Live(console=console_for(stderr=True), transient=True, auto_refresh=False) as shown:
        yield lambda known: shown.update(render(known), refresh=True)
