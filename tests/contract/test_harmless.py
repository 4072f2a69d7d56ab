"""Whatever goes wrong with us, a training goes on to its end. Run for each framework."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import frameworks
import pytest

from ml_energy_callbacks import load_record
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

framework = frameworks.load()

NESTED = b"[" * 3000 + b"]" * 3000
"""JSON that no decoder follows to its bottom."""

BATCHES = 20


def energy_callback(folder: Path, **options: Any) -> Any:
    return framework.EnergyCallback(**{"carbon_intensity": 1, **framework.record_folder(folder), **options})


class Preempted(Exception):  # noqa: N818 - a user's own
    """What the user's handler of a signal raises."""


class Moody:
    """The device of somebody's backend, which from some instant on does what nobody foresaw."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.act: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        if name == "relative_uncertainty" and threading.current_thread() is threading.main_thread():
            self.act()
        return getattr(self._device, name)


@pytest.fixture
def moody() -> Moody:
    return Moody(ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock).device)


def backend_of(device: Moody) -> ScriptedBackend:
    counter: Any = ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock)
    counter.device = device
    return ScriptedBackend([counter])


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What the package logs, in a handler that raises each time."""
    seen: list[str] = []

    class Breaking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> NoReturn:
            seen.append(record.getMessage())
            raise RuntimeError(seen[-1])

    handler, logger = Breaking(), logging.getLogger("ml_energy_callbacks")
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def test_nested_json_in_the_records_place_ends_nothing(tmp_path: Path) -> None:
    place = tmp_path / "energy.json"

    def lay_down(batch: int) -> None:
        if batch == 5:
            (tmp_path / "other").write_bytes(NESTED)
            (tmp_path / "other").replace(place)

    energy = energy_callback(tmp_path, verbose=False)
    framework.Loops(tmp_path).fit([energy], after_batch=lay_down)
    assert place.read_bytes() == NESTED
    record = load_record(energy.record_path)
    assert (record.run.status, record.stages["train"].batches) == ("completed", BATCHES)


def test_a_pipe_in_the_records_place_is_refused_at_once(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    os.mkfifo(tmp_path / "energy.json")
    seen: list[int] = []
    with pytest.raises(ConfigurationError, match=r"energy\.json cannot be written \(it is not a regular file\)"):
        framework.Loops(tmp_path).fit([energy_callback(tmp_path, output_dir=tmp_path)], after_batch=seen.append)
    assert seen == []
    assert no_thread_lives()


def test_a_pipe_laid_down_in_mid_run_ends_nothing(tmp_path: Path) -> None:
    place = tmp_path / "energy.json"

    def lay_down(batch: int) -> None:
        if batch == 5:
            place.unlink()
            os.mkfifo(place)

    energy = energy_callback(tmp_path, verbose=False)
    framework.Loops(tmp_path).fit([energy], after_batch=lay_down)
    assert energy.record.stages["train"].batches == BATCHES
    told = any("it is not a regular file" in warning for warning in energy.record.warnings)
    assert told or load_record(tmp_path) == energy.record  # a writing at that very instant replaces the pipe


def test_a_log_handler_that_raises_ends_nothing(tmp_path: Path, messages: list[str]) -> None:
    energy = energy_callback(tmp_path, batch_size_fn=lambda _: 1 // 0, location=None, carbon_intensity=None)
    framework.Loops(tmp_path).fit([energy])
    assert any("No location set" in message for message in messages)
    assert set(messages) <= set(energy.record.warnings)
    assert load_record(energy.record_path).stages["train"].batches == BATCHES


@pytest.mark.parametrize("error", [RecursionError("too deep"), MemoryError(), TypeError("mine")], ids=repr)
def test_an_unforeseen_error_becomes_one_warning(
    tmp_path: Path, moody: Moody, caplog: pytest.LogCaptureFixture, error: Exception, no_thread_lives: Callable[[], bool]
) -> None:
    def fail() -> NoReturn:
        raise error

    def become_moody(batch: int) -> None:
        if batch == 5:
            moody.act = fail

    energy = energy_callback(tmp_path, backends=[backend_of(moody)])
    framework.Loops(tmp_path).fit([energy], after_batch=become_moody, validation=10)
    assert not energy.meter.running
    assert no_thread_lives()
    moody.act = lambda: None
    record = energy.record
    assert (record.run.status, record.stages["train"].batches) == ("completed", BATCHES)
    unforeseen = [warning for warning in record.warnings if "unexpected error" in warning]
    assert len(unforeseen) == 1
    assert type(error).__name__ in unforeseen[0]
    assert caplog.text.count("unexpected error") == 1


def preempt(*_: object) -> NoReturn:
    raise Preempted


def preempt_once(*_: object) -> NoReturn:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    raise Preempted


class Preempting:
    """A handler that is an object."""

    def __call__(self, *_: object) -> NoReturn:
        raise Preempted


@pytest.mark.parametrize("handler", [preempt, preempt_once, Preempting()], ids=["function", "removes itself", "object"])
def test_what_a_users_signal_handler_raises_is_not_ours(tmp_path: Path, moody: Moody, handler: Any) -> None:
    """A signal may come at any instant, such as while our code runs."""

    def run_out_of_time() -> None:
        moody.act = lambda: None
        signal.raise_signal(signal.SIGUSR1)

    def become_moody(batch: int) -> None:
        if batch == 5:
            moody.act = run_out_of_time

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Preempted):
            framework.Loops(tmp_path).fit(
                [energy_callback(tmp_path, backends=[backend_of(moody)], verbose=False)], after_batch=become_moody
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
