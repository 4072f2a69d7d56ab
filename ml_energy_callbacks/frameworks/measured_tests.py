"""The functions that the tests of a session measure, and the baseline that they are compared with."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.baseline import Baseline, load_baseline, save_baseline
from ml_energy_callbacks.inference.functions import Function, Marks, measure_functions
from ml_energy_callbacks.inference.growth import Growth, Measurement, read_limit
from ml_energy_callbacks.inference.growth_table import render_growth
from ml_energy_callbacks.inference.options import bench_of, quiet_meter
from ml_energy_callbacks.inference.table import as_text, precise_percent
from ml_energy_callbacks.inference.verdicts import REFERENCE, compare_two, compare_with_baseline, entry_of
from ml_energy_callbacks.metrics import is_positive
from ml_energy_callbacks.record.storage import in_one_line
from ml_energy_callbacks.report.quantities import scaled
from ml_energy_callbacks.report.terminal import columns, for_terminal
from ml_energy_callbacks.safe_text import describe

_WIDTH = 0.0075
"""Requested half-width of joules per call without a limit: it shows a difference of 5 %."""
_SHARE_OF_LIMIT = 0.15
"""That with a limit, as a share of it."""
_STEPS = 20_000
"""Of the reference: about a millisecond."""


class MeasuredTests:
    """What the tests of a session have measured.

    Args:
        baseline: The file to compare with; None for none.
        save: The file to write; None for none.
        fail_if: Growth from which on a test fails, such as ``+5%``; None if none does.
        max_seconds: Longest time of a measurement in s.

    Raises:
        ConfigurationError: An option is invalid, or the baseline cannot be read.
    """

    def __init__(self, *, baseline: Path | None, save: Path | None, fail_if: str | None, max_seconds: float) -> None:
        self._limit = None if fail_if is None else read_limit(fail_if)
        self.relative_width = _WIDTH if self._limit is None else _SHARE_OF_LIMIT * self._limit
        if not is_positive(max_seconds):
            msg = f"--energy-seconds is {describe(max_seconds)}; give seconds above 0, such as 60."
            raise ConfigurationError(msg)
        if save is not None and save.is_dir():
            msg = f"{describe(str(save))} is a directory; give --energy-save a file."
            raise ConfigurationError(msg)
        if save is not None and not save.parent.is_dir():
            msg = f"There is no directory {describe(str(save.parent))} for --energy-save; create it, or give another file."
            raise ConfigurationError(msg)
        self.max_seconds = max_seconds
        self.baseline = Baseline(tests={}) if baseline is None else load_baseline(baseline)
        self._compares = baseline is not None
        self._save = save
        self._saved = Baseline(tests={})
        self._found: list[Growth] = []
        self._error: str | None = None

    def energy_of(self, test: str) -> "FunctionEnergy":
        """Return what measures the functions of a test."""
        return FunctionEnergy(self, test)

    def add_function(self, test: str, name: str, measured: Measurement) -> Growth:
        """Compare a function with the baseline, and keep it for the next one."""
        test = self._distinct(test)
        entry = self.baseline.tests.get(test)
        found = compare_with_baseline(test, name, measured, entry, self.relative_width)
        if self._compares and entry is None:
            found.notes.append("The baseline does not have it; add it with --energy-save.")
        kept = entry_of(name, measured)
        if kept is not None:
            self._saved.tests[test] = kept
        return self._judged(found)

    def add_pair(self, test: str, before: str, after: str, measured: Measurement) -> Growth:
        """Compare two functions."""
        return self._judged(compare_two(self._distinct(test), before, after, measured, self.relative_width))

    def _distinct(self, test: str) -> str:
        """Return another name for each further measurement of a test."""
        before = sum(found.name == test or found.name.startswith(f"{test} #") for found in self._found)
        return f"{test} #{before + 1}" if before else test

    def _judged(self, found: Growth) -> Growth:
        self._found.append(found)
        if self._limit is not None and found.exceeds(self._limit):
            pytest.fail(_failure(found, self._limit), pytrace=False)
        return found

    def save(self) -> None:
        """Write what was measured as a baseline, with what the one that was compared with has beside it.

        If nothing was measured, a file that is there stays as it is.
        """
        if self._save is None or (not self._found and self._save.exists()):
            return
        try:
            save_baseline(self._save, Baseline(tests=self.baseline.tests | self._saved.tests))
        except OSError as error:
            self._error = f"{self._save} cannot be written ({in_one_line(error)}); give --energy-save another file."

    def to_text(self) -> str:
        """Return what was measured, for a terminal; nothing if nothing was."""
        shown = [render_growth(self._found)] if self._found else []
        return for_terminal(as_text(Group(*shown, Text(self._error or "")), columns() or 80).rstrip())


class FunctionEnergy:
    """Measures the energy of functions in a test: the fixture ``energy``."""

    def __init__(self, tests: MeasuredTests, test: str) -> None:
        self._tests = tests
        self._test = test
        self._marks = Marks()

    def __call__(self, function: Callable[..., object], *args: object, reference: Function | None = None) -> Growth:
        """Measure a function in turns with a reference, and compare it with the baseline.

        Args:
            function: Does the work once; torch's and JAX's work on an accelerator is waited for.
            args: Its arguments.
            reference: Work that stays the same from session to session, on the same device; None for arithmetic on one core.

        Returns:
            How the energy of a call has changed; without a baseline it is ``undecided``.

        Raises:
            ConfigurationError: It is no function, or returns before it has done its work.
            EnergyError: It raised an error.
        """
        name = _name_of(function)
        if name == REFERENCE:
            name = "function"
        measured = self._measure({name: partial(function, *args) if args else function, REFERENCE: reference or _arithmetic})
        return self._tests.add_function(self._test, name, measured)

    def compare(self, before: Function, after: Function) -> Growth:
        """Measure two functions in turns, and tell how the second one compares with the first.

        Raises:
            ConfigurationError: One is no function, or returns before it has done its work.
            EnergyError: One raised an error.
        """
        names = [_name_of(before), _name_of(after)]
        if names[0] == names[1]:
            names = ["before", "after"]
        measured = self._measure(dict(zip(names, (before, after), strict=True)))
        return self._tests.add_pair(self._test, names[0], names[1], measured)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Mark a part of the function that runs, such as ``forward``; it has an energy of its own.

        Args:
            name: At most 64 letters, digits, ``_``, ``-`` or ``.``.

        Raises:
            ConfigurationError: It has no such name.
        """
        return self._marks.part(name)

    def _measure(self, functions: dict[str, Function]) -> Measurement:
        if self._marks.active:
            msg = "A function that is measured measures another one; measure them one after the other."
            raise ConfigurationError(msg)
        with quiet_meter("auto", None) as meter:
            return measure_functions(
                functions,
                self._marks,
                meter,
                bench_of(meter),
                relative_width=self._tests.relative_width,
                max_seconds=self._tests.max_seconds,
            )


def _name_of(function: object) -> str:
    if not callable(function):
        msg = f"The function is {describe(function)}; pass a function."
        raise ConfigurationError(msg)
    return str(getattr(function, "__name__", type(function).__name__))


def _arithmetic() -> int:
    """Do the same work in each session."""
    total = 0
    for i in range(_STEPS):
        total = (total + i * i) % 1_000_003
    return total


def _failure(found: Growth, limit: float) -> str:
    """Return why a test fails whose energy has grown."""
    change = f"{precise_percent(found.relative or 0.0)} ±{precise_percent(found.half_width or 0.0)}"
    text = f"Energy per call grew by {change} against {found.against}; the limit is {precise_percent(limit)}."
    if (grown := found.grown) is None:
        return text
    if grown.joules is None:
        return f"{text} {grown.name} has grown most, by {scaled(grown.seconds, 's')} per call; its energy is not known apart."
    doubt = "" if grown.shown else ", though its interval leaves that open"
    return f"{text} {grown.name} has grown most, by {scaled(grown.joules, 'J')} per call{doubt}."
