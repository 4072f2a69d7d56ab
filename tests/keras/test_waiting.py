"""Waiting for data: seen by the hooks with torch, and in watched data with TensorFlow and JAX; else not known."""

import time
from collections.abc import Iterator
from typing import Any

import keras
import pytest
from frameworks.keras_loops import AroundBatch, arrays, kinds, net, nothing, on_one_backend

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.keras import EnergyCallback
from ml_energy_callbacks.keras.gate import Gate

BACKEND = keras.backend.backend()
STEPS, WAIT_S = 20, 0.03


def batch() -> tuple[Any, Any]:
    time.sleep(WAIT_S)
    return arrays(4)


class Slow(keras.utils.PyDataset):
    """Takes some time for each batch."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        return batch()


def slow_tf_data() -> Any:
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    kinds = (tf.TensorSpec((None, 8)), tf.TensorSpec((None, 1)))
    dataset = tf.data.Dataset.from_generator(lambda: (batch() for _ in range(STEPS)), output_signature=kinds)
    return dataset.apply(tf.data.experimental.assert_cardinality(STEPS))


def slow_loader() -> Any:
    data = pytest.importorskip("torch.utils.data", reason="a DataLoader is torch's")

    class Items(data.Dataset):  # type: ignore[name-defined, misc] - imported just now
        def __len__(self) -> int:
            return 4 * STEPS

        def __getitem__(self, index: int) -> Any:
            time.sleep(WAIT_S / 4)
            return arrays(1)[0][0], arrays(1)[1][0]

    return data.DataLoader(Items(), batch_size=4)


def slow_generator() -> Iterator[Any]:
    while True:
        yield batch()


class SlowList:
    """An iterable of a known length."""

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        return (batch() for _ in range(STEPS))


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "py-dataset": (Slow, {}),
    "tf-data": (slow_tf_data, {}),
    "data-loader": (slow_loader, {}),
    "generator": (slow_generator, {"steps_per_epoch": STEPS}),
    "iterable": (SlowList, {}),
}


def seconds(energy: EnergyCallback) -> dict[str, float | None]:
    return {name: phase.seconds for name, phase in energy.record.stages["train"].phases.items()}


@pytest.mark.parametrize("kind", kinds(KINDS))
def test_the_wait_of_watched_data_is_the_time_that_fetching_took(kind: str) -> None:
    make, options = KINDS[kind]
    energy = EnergyCallback(verbose=False)
    model = net()
    model.train_on_batch(*arrays(4))
    data = energy.watch(make())
    begun = time.perf_counter()
    model.fit(data, epochs=2, shuffle=False, callbacks=[energy], verbose=0, **options)
    took = time.perf_counter() - begun
    found = seconds(energy)
    assert "step" not in found
    waited, computed = found["data_wait"] or 0, found["compute"] or 0
    # Threads of TensorFlow's own fetch the first batches while the loop does other things; on a busy machine, what lies
    # between a source and the loop takes its time as well.
    assert waited > 0.75 * 2 * STEPS * WAIT_S
    assert computed > 2 * STEPS * 0.0002
    assert waited + computed < took


@pytest.mark.skipif(BACKEND == "torch", reason="with torch the hooks see the waits")
def test_computing_while_the_next_batch_is_fetched_is_no_waiting() -> None:
    energy = EnergyCallback(verbose=False)
    model = net()
    model.train_on_batch(*arrays(4))
    model.evaluate(*arrays(4), verbose=0)
    data = energy.watch(Slow(workers=2, max_queue_size=4))

    slow_hook = AroundBatch(lambda: time.sleep(WAIT_S), nothing)
    model.fit(data, epochs=1, shuffle=False, callbacks=[energy, slow_hook], verbose=0)
    # Two threads are twice as fast as the loop: it waits for the first batch alone.
    assert (seconds(energy).get("data_wait") or 0) < 5 * WAIT_S
    assert (seconds(energy)["compute"] or 0) > 0.7 * STEPS * WAIT_S


def test_without_watched_data_it_is_known_with_torch_alone() -> None:
    energy = EnergyCallback(verbose=False)
    model = net()
    model.fit(Slow(), epochs=1, callbacks=[energy], verbose=0)
    phases = energy.record.stages["train"].phases
    if BACKEND == "torch":
        assert (phases["data_wait"].seconds or 0) > 0.9 * STEPS * WAIT_S
    else:
        for name in ("data_wait", "compute"):
            assert (phases[name].joules, phases[name].seconds) == (None, None)
            assert "watch()" in (phases[name].reason or "")
        assert not any("data_wait" in name for name in model.history.history)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution with torch")
def test_waits_of_batches_that_run_as_one_are_unknown_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    energy = EnergyCallback()
    model = net()
    model.compile("sgd", "mse", steps_per_execution=4)
    model.fit(energy.watch(Slow()), callbacks=[energy], verbose=0)
    assert energy.record.stages["train"].phases["data_wait"].joules is None
    assert "steps_per_execution" in caplog.text


@pytest.mark.skipif(BACKEND != "jax", reason="only there Keras fetches an item for itself, through the threads' queue")
def test_a_queue_that_was_filled_before_the_loop_began_is_not_trusted() -> None:
    energy = EnergyCallback(verbose=False)
    data = energy.watch(Slow(workers=2))
    model = net()
    model.fit(data, callbacks=[energy], verbose=0)
    assert energy.record.stages["train"].phases["data_wait"].joules is None
    assert any("to build the model" in warning for warning in energy.record.warnings)
    again = EnergyCallback(verbose=False)
    model.fit(again.watch(Slow(workers=2)), callbacks=[again], verbose=0)
    assert "step" not in seconds(again)


def test_training_and_validation_data_can_both_be_watched() -> None:
    energy = EnergyCallback(verbose=False)
    model = net()
    model.fit(energy.watch(Slow()), epochs=2, validation_data=energy.watch(Slow()), callbacks=[energy], verbose=0)
    for name in ("train", "validate"):
        stage = energy.record.stages[name]
        assert stage.samples == 2 * STEPS * 4
        assert (stage.phases["data_wait"].seconds or 0) > 0.7 * 2 * STEPS * WAIT_S


@on_one_backend
def test_a_gate_tells_waiting_from_computing() -> None:
    with EnergyMeter(backends=[], verbose=False) as meter:
        gate = Gate(meter, lambda item: (item, None))
        meter.begin_stage("train", "other", during="compute", between="other")
        gate.attach(timed=True)

        def from_elsewhere(size: int) -> None:
            ticket = gate.ask()
            gate._thread, own = 0, gate._thread
            gate.hand_over(ticket, (size, 10 * size))
            gate._thread = own

        gate.begin("compute")
        assert meter.phase == "data_wait"
        from_elsewhere(3)
        assert meter.phase == "compute"
        gate.end(None, None, 1)
        assert meter.phase == "other"
        from_elsewhere(4)
        gate.begin("compute")
        assert meter.phase == "compute"  # it was there already
        ticket = gate.ask()
        assert meter.phase == "data_wait"  # the loop itself fetches ahead
        gate.hand_over(ticket, (5, 50))
        assert meter.phase == "compute"
        gate.end(None, None, 1)
        gate.begin("compute")
        gate.end(None, None, 1)
        assert gate.take(3) == (3 + 4 + 5, 30 + 40 + 50)
        # A batch that finds no more data, and a new pass.
        gate.begin("compute")
        assert meter.phase == "data_wait"
        gate.leave("other")
        assert meter.phase == "other"
        gate.open()
        gate.begin("compute")
        assert meter.phase == "data_wait"
        second = gate.ask(), gate.ask()
        for ticket, phase in zip(reversed(second), ("data_wait", "compute"), strict=True):
            gate._thread = 0
            gate.hand_over(ticket, (1, None))
            assert meter.phase == phase  # items count in their order
        assert gate.take(5) == (None, None)
