"""``ml-energy run``: the energy of any command, measured from outside."""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import NoReturn, Self

import typer

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.cli.output import print_json, print_line
from ml_energy_callbacks.job.launcher import ENCLOSING_RUN
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.record.schema import Status
from ml_energy_callbacks.record.utf8 import encode_json

_NOT_FOUND, _NOT_EXECUTABLE, _SIGNAL = 127, 126, 128
"""Exit status as in a shell; the number of the signal is added to the last one."""

_STOPPING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_FROM_KEYBOARD = frozenset({signal.SIGINT, signal.SIGQUIT})
_PASSED_ON = _STOPPING | _FROM_KEYBOARD | {signal.SIGUSR1, signal.SIGUSR2}


def measure_command(command: Sequence[str], *, output_dir: Path, location: str | None, json: bool) -> None:
    """Run a command with the inputs and outputs of this process, and print its energy on stderr.

    Raises:
        typer.Exit: Always, with the command's exit status.
    """
    meter = EnergyMeter(output_dir=output_dir, location=location, tags={"command": _name_of(command)})
    if shutil.which(command[0]) is None:
        exists = os.path.exists(command[0])  # noqa: PTH110 - a method of Path raises where the name is too long
        _refuse(command[0], "it is not executable" if exists else "no such command", _NOT_EXECUTABLE if exists else _NOT_FOUND)
    with _Relay() as relay:
        meter.start(LoopDescription(framework="command"))
        try:
            code = relay.run(command, {**os.environ, ENCLOSING_RUN: meter.record.run.id})
        except OSError as error:  # such as a script without an interpreter
            reason = error.strerror or str(error)
            meter.stop("failed", f"It did not start: {reason}.")
            _refuse(command[0], reason, _NOT_EXECUTABLE)
        meter.stop(*_ending(code, relay.received))
    if json:
        print_json(encode_json(meter.record).decode(), stderr=True)
    else:
        meter.write_headline(lambda text: sys.stderr.write(f"{text}\n"))
    raise typer.Exit(code if code >= 0 else _SIGNAL - code)


def _name_of(command: Sequence[str]) -> str:
    """Return the name of the script, or of the program; not the arguments, which may contain passwords."""
    script = next((word for word in command[1:] if os.path.isfile(word)), command[0])  # noqa: PTH113 - as above
    return os.path.basename(script)  # noqa: PTH119 - of any text


def _refuse(name: str, reason: str, code: int) -> NoReturn:
    print_line(f"ml-energy: {name} cannot be run: {reason}.", stderr=True)
    raise typer.Exit(code)


def _ending(code: int, received: Sequence[int]) -> tuple[Status, str | None]:
    """Return the status of a run whose command ended with this exit status, or with a signal if it is negative."""
    if code == 0:
        return "completed", None
    number = -code if code < 0 else next((number for number in received if number in _STOPPING), None)
    reason = f"exit status {code}" if number is None else signal.Signals(number).name
    return ("stopped" if number in _STOPPING else "failed"), reason


class _Relay:
    """Passes the signals that this process receives on to the command.

    A terminal sends those of its keyboard, such as Ctrl-C, to the command itself, which is not to receive them twice. A signal
    that this process ignores, as under ``nohup``, is ignored by the command, too.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._starting = False
        self._held: list[int] = []
        self._process: Popen[bytes] | None = None

    def __enter__(self) -> Self:
        heard = [number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if self._process is not None:
            self._pass_on(self._process, number)
        elif self._starting:
            self._held.append(number)
        else:
            raise SystemExit(_SIGNAL + number)

    def _pass_on(self, process: Popen[bytes], number: int) -> None:
        if not (number in _FROM_KEYBOARD and _in_foreground()):
            process.send_signal(number)

    def run(self, command: Sequence[str], environment: dict[str, str]) -> int:
        """Run the command to its end, and return its exit status, or the negative number of the signal that ended it.

        Processes that it leaves running are not waited for.
        """
        self._starting = True
        process = self._process = Popen(command, env=environment)  # noqa: S603 - the command that the user gives
        for number in self._held:  # later ones are passed on as they come
            self._pass_on(process, number)
        return process.wait()


def _in_foreground() -> bool:
    """Return whether this process, and the command with it, receives what is typed at a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
