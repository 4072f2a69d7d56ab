"""``ml-energy doctor``: what can be measured on this machine."""

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Literal

from rich.live import Live

from ml_energy_callbacks.cli.output import console_for, print_json, print_line, print_result
from ml_energy_callbacks.doctor import SECONDS, examine, live_watts, render, render_watts
from ml_energy_callbacks.record.utf8 import encode_json
from ml_energy_callbacks.report import quantity


def report_machine(devices: Literal["auto"] | list[str], *, json: bool, everything: bool) -> None:
    """Measure for some seconds, and print the diagnosis, with hardware that is not present if everything is asked for."""
    with console_for(stderr=True).status(f"Measuring for {SECONDS:g} s ..."):
        diagnosis = examine(devices)
    print_result(diagnosis, partial(render, everything=everything), json=json)


def watch_machine(devices: Literal["auto"] | list[str], *, json: bool) -> None:
    """Print the power of each device every second until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        console = console_for()
        readings = live_watts(devices)
        if json or not console.is_terminal:
            for watts in readings:
                if json:
                    print_json(encode_json(watts).decode())
                else:
                    print_line(_line(watts))
        else:
            with Live(console=console, auto_refresh=False) as live:
                for watts in readings:
                    live.update(render_watts(watts), refresh=True)


def _line(watts: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {quantity(value, 'W')}" for name, value in watts.items())
