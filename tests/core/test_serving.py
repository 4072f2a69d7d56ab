"""A served model: overlapping requests in threads and tasks, calls of a function, latencies, power above idle."""

import asyncio
import io
import os
import selectors
import signal
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from rich.console import Console

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.attribution.timeline import Event, Timeline
from ml_energy_callbacks.clock import NS_PER_S, Clock, Timing, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.session import Session
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.report import render
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

Result = TypeVar("Result")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class SteppedSelector(selectors.SelectSelector):
    """Where an event loop would wait, the clock moves on."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            self._clock.advance(timeout)
        return super().select(timeout and 0)


class SteppedLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        self._manual_clock = clock
        super().__init__(SteppedSelector(clock))

    def time(self) -> float:
        return self._manual_clock() / NS_PER_S


def run(clock: ManualClock, main: Coroutine[Any, Any, Result]) -> Result:
    """Run coroutines under the clock."""
    with asyncio.Runner(loop_factory=lambda: SteppedLoop(clock)) as runner:
        return runner.run(main)


def scripted(watts: float = 100.0, clock: Clock = monotonic_clock) -> tuple[PowerCurve, ScriptedBackend]:
    curve = PowerCurve(clock, watts)
    return curve, ScriptedBackend([ScriptedCounter(curve, clock, period_s=0.02)])


def test_requests_in_threads_share_the_power_by_time(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)
    began, ends = threading.Barrier(5), threading.Barrier(5)

    def serve() -> None:
        with meter.batch(samples=3):
            began.wait(60)
            ends.wait(60)

    with meter, meter.stage("predict"), ThreadPoolExecutor(4) as pool:
        clock.advance(0.1)
        for _ in range(2):
            requests = [pool.submit(serve) for _ in range(4)]
            began.wait(60)
            clock.advance(0.2)
            ends.wait(60)
            for request in requests:
                request.result()
        clock.advance(0.1)
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (8, 24)
    assert predict.phases["compute"].seconds == pytest.approx(0.4)  # not 8 x 0.2 s
    assert predict.joules == pytest.approx(100 * predict.seconds, rel=0.05)
    assert predict.joules_per_sample == pytest.approx(predict.joules / 24)
    assert predict.latency is not None
    assert predict.latency.batches == 8
    assert predict.latency.p50_s == pytest.approx(0.2, rel=0.01)


def test_tasks_and_stages_of_each_request_overlap(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)

    async def serve(seconds: float) -> None:
        with meter.stage("predict"), meter.batch(samples=1):
            await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(serve(0.4), serve(0.1), serve(0.25))

    with meter:
        run(clock, main())
        clock.advance(0.2)
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (3, 3)
    assert predict.seconds == pytest.approx(0.4, abs=0.08)
    assert predict.phases["compute"].seconds == pytest.approx(predict.seconds, abs=0.02)
    assert meter.record.stages["other"].seconds > 0.19


def test_each_call_of_a_decorated_function_is_a_batch(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)

    @meter.measure(samples=len)
    def predict(batch: list[int]) -> int:
        """Add up."""
        clock.advance(0.05)
        return sum(batch)

    @meter.measure(samples=2, stage="test")
    async def later(number: int, *, plus: int) -> int:
        await asyncio.sleep(0.05)
        return number + plus

    assert predict([1, 2]) == 3  # nothing is measured yet
    with meter:
        assert (predict([1, 2, 3]), predict([4, 5])) == (6, 9)
        clock.advance(0.1)

        async def main() -> list[int]:
            return await asyncio.gather(*(later(i, plus=1) for i in range(3)))

        assert run(clock, main()) == [1, 2, 3]
    assert predict([7]) == 7  # and not any more
    assert predict.__doc__ == "Add up."
    stages = meter.record.stages
    assert (stages["predict"].batches, stages["predict"].samples) == (2, 5)
    assert stages["predict"].seconds == pytest.approx(0.1, abs=0.05)  # the pause after it is nobody's
    assert (stages["test"].batches, stages["test"].samples) == (3, 6)
    assert stages["test"].seconds == pytest.approx(0.05, abs=0.04)
    assert stages["other"].seconds > 0.09


def test_a_call_that_raises_is_a_batch_and_raises(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)

    @meter.measure()
    def fail() -> None:
        message = "no"
        raise KeyError(message)

    with meter, meter.stage("predict"):
        with pytest.raises(KeyError):
            fail()
        clock.advance(0.1)
    predict = meter.record.stages["predict"]
    assert predict.batches == 1
    assert predict.phases["data_wait"].seconds > 0.09


def test_samples_that_cannot_be_counted_are_unknown_and_bad_ones_refused(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)
    count = meter.measure(samples=lambda batch: len(batch["rows"]))

    def work(batch: dict[str, int]) -> dict[str, int]:
        clock.advance(0.01)
        return batch

    with meter:
        assert count(work)({}) == {}
    assert meter.record.stages["predict"].samples is None
    assert any("counts samples failed (KeyError('rows'))" in warning for warning in meter.record.warnings)
    with pytest.raises(ConfigurationError, match="samples is 0; give"):
        meter.measure(samples=0)
    with pytest.raises(ConfigurationError, match="Unknown stage 'serve'"):
        meter.measure(stage="serve")  # type: ignore[arg-type]


def switched(now: int, bucket: int) -> Event:
    return ("switch", now, bucket, 0, None, None)


def begun(now: int, during: int) -> Event:
    return ("begin", now, during, 0, None, None)


def ended(now: int, after: int, samples: int, begin: Event) -> Event:
    return ("end", now, after, 1, samples, begin)


def test_a_request_that_outlives_its_stage_or_the_run_takes_nobodys_time() -> None:
    now = 0
    timeline = Timeline(lambda: now)
    outside, during, between, other = 0, timeline.add_bucket(1), timeline.add_bucket(1), timeline.add_bucket(2)
    timeline.queue.append(switched(10, between))
    timeline.queue.append(begun(10, during))
    timeline.queue.append(switched(20, other))  # another stage begins while it runs
    timeline.queue.append(ended(30, between, 4, begun(10, during)))
    timeline.queue.append(begun(40, during))
    timeline.queue.append(switched(50, outside))  # the run ends
    timeline.queue.append(ended(60, between, 4, begun(40, during)))
    now = 100
    look = timeline.look()
    assert [look.totals[bucket] for bucket in (outside, during, between, other)] == [10 + 50, 10 + 10, 0, 20]
    assert (look.counts[1].batches, look.counts[1].samples) == (1, 4)  # what ends after the run is not the run's


def test_a_request_that_hangs_is_forgotten_with_its_run() -> None:
    now = 0
    timeline = Timeline(lambda: now)
    outside, during, between = 0, timeline.add_bucket(1), timeline.add_bucket(1)
    timeline.queue += [
        switched(10, between),
        begun(10, during),
        switched(20, outside),
        switched(30, between),
        begun(40, during),
        ended(50, between, 1, begun(40, during)),
    ]
    timeline.queue.append(ended(60, between, 100, begun(10, during)))
    now = 100
    look = timeline.look()
    assert [look.totals[bucket] for bucket in (outside, during, between)] == [10 + 10, 10 + 10, 10 + 50]
    assert (look.counts[1].batches, look.counts[1].samples) == (1, 1)


def test_two_stages_at_once_give_their_time_back() -> None:
    now = 0
    timeline = Timeline(lambda: now)
    test, predict, other = timeline.add_bucket(1), timeline.add_bucket(2), timeline.add_bucket(3)
    timeline.queue += [switched(0, other), begun(10, test), begun(20, predict), ended(30, other, 1, begun(20, predict))]
    timeline.queue += [
        ended(60, other, 1, begun(10, test)),
        begun(70, test),
        begun(75, predict),
        ended(80, other, 1, begun(70, test)),
    ]
    timeline.queue.append(ended(90, other, 1, begun(75, predict)))
    now = 100
    look = timeline.look()
    assert [look.totals[bucket] for bucket in (test, predict, other)] == [10 + 30 + 5, 10 + 15, 10 + 10 + 10]


@pytest.mark.parametrize("samples", ["8", -5, 1.5, object()])
def test_what_is_no_number_of_samples_is_told_and_hurts_nothing(clock: ManualClock, samples: Any, tmp_path: Path) -> None:
    _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False, output_dir=tmp_path) as meter, meter.stage("predict"):
        with meter.batch(samples):
            clock.advance(0.05)
        meter.batch_start()
        meter.batch_end(samples)
    assert load_record(tmp_path).stages["predict"].samples is None
    assert any("is not a number of samples" in warning for warning in meter.record.warnings)
    if not isinstance(samples, str):
        return
    with pytest.raises(ConfigurationError, match="samples is '8'; give"):
        meter.measure(samples=samples)


def test_numbers_of_numpy_are_numbers_of_samples(clock: ManualClock, tmp_path: Path) -> None:
    _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False, output_dir=tmp_path) as meter, meter.stage("predict"):
        with meter.batch(np.int64(8)):
            clock.advance(0.05)
        meter.measure(samples=lambda: np.int32(2))(lambda: None)()
    assert load_record(tmp_path).stages["predict"].samples == 10


def test_generators_and_objects_with_an_asynchronous_call_are_measured_to_their_end(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)

    @meter.measure()
    def tokens() -> Iterator[int]:
        for i in range(5):
            clock.advance(0.02)
            yield i

    @meter.measure()
    async def stream() -> AsyncIterator[int]:
        for i in range(5):
            await asyncio.sleep(0.02)
            yield i

    class Model:
        async def __call__(self) -> int:
            await asyncio.sleep(0.1)
            return 7

    model = meter.measure()(Model())

    async def main() -> list[int]:
        return [item async for item in stream()] + [await model()]

    with meter:
        assert list(tokens()) == [0, 1, 2, 3, 4]
        assert run(clock, main()) == [0, 1, 2, 3, 4, 7]
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (3, 3)
    assert predict.phases["compute"].seconds == pytest.approx(0.3, abs=0.06)
    assert predict.latency is not None
    assert predict.latency.p50_s > 0.09


def test_ctrl_c_while_idle_power_is_measured_stops_the_meter() -> None:
    interrupting = threading.Event()

    def sleep(seconds: float) -> None:
        if seconds == 20:
            interrupting.set()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.05, left))  # in steps: a signal just before a sleep does not interrupt that

    class Interrupted(EnergyMeter):
        def _new_session(self, options: MeterOptions) -> Session:
            return Session(options, Timing(sleep=sleep))

    def interrupt() -> None:
        assert interrupting.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    meter = Interrupted(backends=[], verbose=False, idle_seconds=20)
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            meter.start()
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert time.monotonic() - begun < 15
    assert not meter.running
    assert meter.record.run.status == "stopped"


def test_idle_power_of_a_device_that_cannot_be_read_all_the_time_is_unknown_and_told(clock: ManualClock) -> None:
    curve = PowerCurve(clock, 40.0)
    counter = ScriptedCounter(curve, clock, period_s=0.02)
    other = PowerCurve(clock, 70.0)
    fails = ScriptedCounter(other, clock, period_s=0.03, device=replace(counter.device, id="scripted:b"))

    def fail_for_a_while() -> Iterator[float]:
        yield 0.6
        fails.failing = True
        yield 0.4
        fails.failing = False

    clock.run(fail_for_a_while())
    with SteppedMeter(clock, backends=[ScriptedBackend([counter, fails])], verbose=False, idle_seconds=1.0) as meter:
        pass
    watts = {device.id: device.idle_watts for device in meter.record.devices}
    assert watts[counter.device.id] == pytest.approx(40, rel=0.05)
    assert watts[fails.device.id] is None
    assert any("could not be measured: some reads failed" in warning for warning in meter.record.warnings)


def test_idle_power_is_measured_first_and_told_apart(clock: ManualClock) -> None:
    curve, backend = scripted(40.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False, idle_seconds=1.0)
    begun = clock()
    with meter, meter.stage("predict"):
        assert clock() - begun > NS_PER_S
        curve.set(100.0)
        for _ in range(10):
            with meter.batch(samples=5):
                clock.advance(0.1)
        metrics = meter.metrics("predict")
        curve.set(40.0)
    record = meter.record
    predict = record.stages["predict"]
    assert record.devices[0].idle_watts == pytest.approx(40, rel=0.05)
    assert record.total.seconds < 1.5  # idling is no part of the run
    assert predict.joules_per_sample == pytest.approx(2.0, rel=0.08)
    assert predict.joules_per_sample_above_idle == pytest.approx(1.2, rel=0.12)
    assert metrics["energy/predict/joules_per_sample_above_idle"] == pytest.approx(1.2, rel=0.2)
    assert predict.joules_per_sample is not None
    assert predict.joules_per_sample_above_idle is not None
    assert predict.above_idle_joules is not None
    assert predict.sampled_joules == pytest.approx(predict.joules_per_sample * 50)
    assert predict.above_idle_joules == pytest.approx(predict.joules_per_sample_above_idle * 50)
    earlier = deepcopy(record)
    earlier.stages["predict"].sampled_joules = earlier.stages["predict"].above_idle_joules = None  # an earlier release's
    for before in (record, earlier):
        both = add_records(before, record).stages["predict"]
        assert both.joules_per_sample == pytest.approx(predict.joules_per_sample)
        assert both.above_idle_joules == pytest.approx(2 * predict.above_idle_joules)
    console = Console(width=150, file=io.StringIO())
    console.print(render(record, verbose=True))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "above" in text
    assert "Latency of a batch of predict: p50 100 ms (10 batches)." in text


def test_without_idle_power_nothing_is_told_above_it(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("predict"), meter.batch(1):
        clock.advance(0.2)
    assert meter.record.devices[0].idle_watts is None
    assert meter.record.stages["predict"].joules_per_sample_above_idle is None
    assert "energy/predict/joules_per_sample_above_idle" not in meter.metrics("predict")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_impossible_time_to_idle_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="idle_seconds is"):
        EnergyMeter(idle_seconds=seconds)


def test_quantiles_are_those_of_the_values_to_a_percent() -> None:
    times = Quantiles()
    values = [round(1.001**i * 1000) for i in range(10_000)]
    for value in values:
        times.add(value)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert times.at(share) == pytest.approx(sorted(values)[max(0, round(share * 10_000) - 1)], rel=0.01)
    times.add(5, 90_000)
    assert times.at(0.5) == 5
    assert times.count == 100_000


def test_latencies_of_hooks_leave_waiting_and_compiling_out(clock: ManualClock) -> None:
    _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter:
        meter.begin_stage("test", during="compile")
        meter.batch_start()
        clock.advance(0.3)
        meter.batch_end(2)
        meter.end_stage()
        with meter.stage("test"):
            for _ in range(20):
                clock.advance(0.01)
                meter.batch_start()
                clock.advance(0.02)
                meter.batch_end(2)
    latency = meter.record.stages["test"].latency
    assert latency is not None
    assert latency.batches == 20
    assert 0.0195 < latency.p50_s < 0.028
    assert latency.p99_s < 0.25
    assert "train" not in meter.record.stages


def test_many_requests_of_many_threads_are_all_counted() -> None:
    _, backend = scripted()
    with EnergyMeter(backends=[backend], verbose=False) as meter, meter.stage("predict"):

        def serve() -> None:
            for _ in range(3000):
                with meter.batch(2):
                    pass

        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.1)
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (12_000, 24_000)
    assert predict.phases["data_wait"].seconds > 0.09  # none is thought to run for ever
    assert predict.seconds * NS_PER_S > 0
