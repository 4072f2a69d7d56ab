"""However a loop ends, the record says how, and no thread lives on: Keras calls no hook after an exception."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from forked import Warm
from frameworks.keras_loops import AroundBatch, arrays, net, nothing, on_one_backend

from ml_energy_callbacks import load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.keras import EnergyCallback

SCRIPT = Path(__file__).with_name("train.py")

programs = pytest.mark.xdist_group("programs")


def wait_for_record(folder: Path, seconds: float, batches: int) -> None:
    """Wait until the file says that the run has taken longer than this, and more batches."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.05)
        with contextlib.suppress(RecordError):
            record = load_record(folder)
            train = record.stages.get("train")
            if train and train.batches > batches and record.total.seconds > seconds:
                return
    raise AssertionError(folder)


@on_one_backend
@programs
@pytest.mark.parametrize(
    ("number", "options", "status", "reason"),
    [
        (signal.SIGKILL, (), "running", None),
        # Nobody handles it, so that the process is gone at once; no Python code can run then.
        (signal.SIGTERM, (), "running", None),
        (signal.SIGTERM, ("--handle",), "stopped", "The interpreter ended before the meter was stopped."),
        (signal.SIGINT, (), "stopped", "KeyboardInterrupt"),
    ],
    ids=["kill", "term", "term-handled", "interrupt"],
)
def test_a_signal_leaves_a_record_with_the_right_status(
    tmp_path: Path, program: Warm, number: int, options: tuple[str, ...], status: str, reason: str | None
) -> None:
    with program.start(SCRIPT, tmp_path, *options, folder=tmp_path) as process:
        wait_for_record(tmp_path, seconds=2, batches=20)
        process.send_signal(number)
        process.wait()
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == (status, reason), process.errors
    assert record.total.seconds > 2
    assert record.stages["train"].batches > 20
    assert (record.run.ended_at is None) == (status == "running")


def break_at(batch: int, error: BaseException) -> Any:
    def after(index: int) -> None:
        if index == batch:
            raise error

    return AroundBatch(nothing, after)


def fit(energy: EnergyCallback, *others: Any) -> None:
    x, y = arrays(60)
    net().fit(x, y, batch_size=4, callbacks=[energy, *others], verbose=0)


def test_an_exception_that_somebody_handles_is_seen_while_it_is_handled(
    tmp_path: Path, no_thread_lives: Callable[[], bool]
) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    try:
        fit(energy, break_at(5, ValueError("too bad")))
    except ValueError:
        end = time.monotonic() + 60
        while not no_thread_lives() and time.monotonic() < end:
            time.sleep(0.01)
        assert no_thread_lives()
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("failed", "ValueError: too bad")
    assert record.stages["train"].batches == 6


def test_an_exception_that_is_handled_and_gone_is_a_failure_all_the_same(
    tmp_path: Path, no_thread_lives: Callable[[], bool]
) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    with pytest.raises(ValueError, match="too bad"):
        fit(energy, break_at(5, ValueError("too bad")))
    record = energy.record
    assert record.run.status == "failed"
    assert "exception" in (record.run.reason or "")
    assert no_thread_lives()
    assert load_record(tmp_path) == record


@on_one_backend
def test_an_older_exception_is_not_taken_for_the_end(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    try:
        _ = {}["old"]
    except KeyError:
        with pytest.raises(ValueError, match="too bad"):
            fit(energy, break_at(5, ValueError("too bad")))
        assert "KeyError" not in (energy.record.run.reason or "")
    assert energy.record.run.status == "failed"


def test_after_a_failure_the_same_callback_goes_on(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    with pytest.raises(ValueError, match="too bad"):
        fit(energy, break_at(5, ValueError("too bad")))
    fit(energy)
    record = energy.record
    assert (record.run.status, record.run.reason) == ("completed", None)
    assert record.stages["train"].batches == 6 + 15
    assert no_thread_lives()


@on_one_backend
def test_a_failure_in_validation_and_in_prediction_is_seen(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    class Breaking(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            raise test

        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            raise predict

    test, predict = ValueError("in test"), ValueError("in predict")
    x, y = arrays(20)
    for name, loop in (
        ("validate", lambda model, callbacks: model.fit(x, y, validation_data=(x, y), callbacks=callbacks, verbose=0)),
        ("test", lambda model, callbacks: model.evaluate(x, y, callbacks=callbacks, verbose=0)),
        ("predict", lambda model, callbacks: model.predict(x, callbacks=callbacks, verbose=0)),
    ):
        energy = EnergyCallback(verbose=False)
        with pytest.raises(ValueError, match="in "):
            loop(net(), [energy, Breaking()])
        assert energy.record.run.status == "failed"
        assert name in energy.record.stages
        assert no_thread_lives()


@on_one_backend
def test_a_loop_in_another_thread_is_watched_there(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fit(energy, AroundBatch(nothing, lambda _: time.sleep(0.02)))
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert (energy.record.run.status, energy.record.stages["train"].batches) == ("completed", 15)


@on_one_backend
@programs
def test_a_fit_that_resumes_goes_on_from_the_interrupted_ones_totals(tmp_path: Path, program: Warm) -> None:
    with program.start(SCRIPT, tmp_path, "--backup", folder=tmp_path) as process:
        process.wait_for("batch 10", times=3)  # in the third epoch
        process.send_signal(signal.SIGKILL)
    first = load_record(tmp_path / "backup")
    assert [epoch.index for epoch in first.epochs] == [0, 1]
    program.run(SCRIPT, tmp_path, "--backup", "--epochs", "4", folder=tmp_path)
    second = load_record(tmp_path)
    assert (second.run.id, second.run.started_at, second.run.status) == (first.run.id, first.run.started_at, "completed")
    assert [epoch.index for epoch in second.epochs] == [0, 1, 2, 3]
    train = second.stages["train"]
    # What the interrupted epoch used was used: it is in the totals of the run that repeats it.
    assert train.batches >= 4 * 50
    assert (train.joules or 0) > (first.stages["train"].joules or 0)
    assert second.total.joules == pytest.approx(sum(stage.joules or 0 for stage in second.stages.values()))
    assert not (tmp_path / "backup").exists()
    # The next run begins at zero.
    program.run(SCRIPT, tmp_path, "--backup", "--epochs", "1", folder=tmp_path)
    assert load_record(tmp_path).run.id != first.run.id
