"""A served model: overlapping requests in threads and tasks, calls of a function, latencies, power above idle."""

import asyncio
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.quantiles import Quantiles
from ml_energy_callbacks.report import render
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.timeline import Timeline


def scripted(watts: float = 100.0) -> tuple[PowerCurve, ScriptedBackend]:
    curve = PowerCurve(monotonic_clock, watts)
    return curve, ScriptedBackend([ScriptedCounter(curve, monotonic_clock, period_s=0.02)])


def test_requests_in_threads_share_the_power_by_time() -> None:
    _, backend = scripted()
    meter = EnergyMeter(backends=[backend], verbose=False)

    def serve(_: int) -> None:
        with meter.batch(samples=3):
            time.sleep(0.2)

    with meter, meter.stage("predict"), ThreadPoolExecutor(4) as pool:
        time.sleep(0.1)
        begun = time.monotonic()
        list(pool.map(serve, range(8)))
        took = time.monotonic() - begun
        time.sleep(0.1)
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (8, 24)
    assert predict.phases["compute"].seconds == pytest.approx(took, abs=0.05)  # not 8 x 0.2 s
    assert predict.joules == pytest.approx(100 * predict.seconds, rel=0.05)
    assert predict.joules_per_sample == pytest.approx(predict.joules / 24)
    assert predict.latency is not None
    assert predict.latency.batches == 8
    assert 0.19 < predict.latency.p50_s < 0.3


def test_tasks_and_stages_of_each_request_overlap() -> None:
    _, backend = scripted()
    meter = EnergyMeter(backends=[backend], verbose=False)

    async def serve(seconds: float) -> None:
        with meter.stage("predict"), meter.batch(samples=1):
            await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(serve(0.4), serve(0.1), serve(0.25))

    with meter:
        asyncio.run(main())
        time.sleep(0.2)
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples) == (3, 3)
    assert predict.seconds == pytest.approx(0.4, abs=0.08)
    assert predict.phases["compute"].seconds == pytest.approx(predict.seconds, abs=0.02)
    assert meter.record.stages["other"].seconds > 0.19


def test_each_call_of_a_decorated_function_is_a_batch() -> None:
    _, backend = scripted()
    meter = EnergyMeter(backends=[backend], verbose=False)

    @meter.measure(samples=len)
    def predict(batch: list[int]) -> int:
        """Add up."""
        time.sleep(0.05)
        return sum(batch)

    @meter.measure(samples=2, stage="test")
    async def later(number: int, *, plus: int) -> int:
        await asyncio.sleep(0.05)
        return number + plus

    assert predict([1, 2]) == 3  # nothing is measured yet
    with meter:
        assert (predict([1, 2, 3]), predict([4, 5])) == (6, 9)
        time.sleep(0.1)

        async def main() -> list[int]:
            return await asyncio.gather(*(later(i, plus=1) for i in range(3)))

        assert asyncio.run(main()) == [1, 2, 3]
    assert predict([7]) == 7  # and not any more
    assert predict.__doc__ == "Add up."
    stages = meter.record.stages
    assert (stages["predict"].batches, stages["predict"].samples) == (2, 5)
    assert stages["predict"].seconds == pytest.approx(0.1, abs=0.05)  # the pause after it is nobody's
    assert (stages["test"].batches, stages["test"].samples) == (3, 6)
    assert stages["test"].seconds == pytest.approx(0.05, abs=0.04)
    assert stages["other"].seconds > 0.09


def test_a_call_that_raises_is_a_batch_and_raises() -> None:
    _, backend = scripted()
    meter = EnergyMeter(backends=[backend], verbose=False)

    @meter.measure()
    def fail() -> None:
        message = "no"
        raise KeyError(message)

    with meter, meter.stage("predict"):
        with pytest.raises(KeyError):
            fail()
        time.sleep(0.1)
    predict = meter.record.stages["predict"]
    assert predict.batches == 1
    assert predict.phases["data_wait"].seconds > 0.09


def test_samples_that_cannot_be_counted_are_unknown_and_bad_ones_refused() -> None:
    _, backend = scripted()
    meter = EnergyMeter(backends=[backend], verbose=False)
    count = meter.measure(samples=lambda batch: len(batch["rows"]))
    with meter:
        assert count(lambda batch: batch)({}) == {}
    assert meter.record.stages["predict"].samples is None
    assert any("counts samples failed (KeyError('rows'))" in warning for warning in meter.record.warnings)
    with pytest.raises(ConfigurationError, match="A call of 0 samples is none"):
        meter.measure(samples=0)
    with pytest.raises(ConfigurationError, match="There is no stage 'serve'"):
        meter.measure(stage="serve")  # type: ignore[arg-type]


def test_a_request_that_outlives_its_stage_or_the_run_takes_nobodys_time() -> None:
    now = 0
    timeline = Timeline(lambda: now)
    outside, during, between, other = 0, timeline.add_bucket(1), timeline.add_bucket(1), timeline.add_bucket(2)
    timeline.queue.append((10, during, None))
    timeline.queue.append((20, other))  # another stage begins while it runs
    timeline.queue.append((30, between, 1, 4, 10, during))
    timeline.queue.append((40, during, None))
    timeline.queue.append((50, outside))  # the run ends
    timeline.queue.append((60, between, 1, 4, 40, during))
    now = 100
    look = timeline.look()
    assert [look.totals[bucket] for bucket in (outside, during, between, other)] == [10 + 50, 10 + 10, 0, 20]
    assert (look.counts[1].batches, look.counts[1].samples) == (2, 8)


def test_idle_power_is_measured_first_and_told_apart() -> None:
    curve, backend = scripted(40.0)
    meter = EnergyMeter(backends=[backend], verbose=False, idle_seconds=1.0)
    begun = time.monotonic()
    with meter, meter.stage("predict"):
        assert time.monotonic() - begun > 1
        curve.set(100.0)
        for _ in range(10):
            with meter.batch(samples=5):
                time.sleep(0.1)
        metrics = meter.metrics("predict")
        curve.set(40.0)
    record = meter.record
    predict = record.stages["predict"]
    assert record.devices[0].idle_watts == pytest.approx(40, rel=0.05)
    assert record.total.seconds < 1.5  # idling is no part of the run
    assert predict.joules_per_sample == pytest.approx(2.0, rel=0.08)
    assert predict.joules_per_sample_above_idle == pytest.approx(1.2, rel=0.12)
    assert metrics["energy/predict/joules_per_sample_above_idle"] == pytest.approx(1.2, rel=0.2)
    console = Console(width=150, file=io.StringIO())
    console.print(render(record))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "above" in text
    assert "Batches of predict took 100 ms at the median" in text


def test_without_idle_power_nothing_is_told_above_it() -> None:
    _, backend = scripted()
    with EnergyMeter(backends=[backend], verbose=False) as meter, meter.stage("predict"), meter.batch(1):
        time.sleep(0.2)
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


def test_latencies_of_hooks_leave_waiting_and_compiling_out() -> None:
    _, backend = scripted()
    with EnergyMeter(backends=[backend], verbose=False) as meter:
        meter.begin_stage("test", during="compile")
        meter.batch_start()
        time.sleep(0.3)
        meter.batch_end(2)
        meter.end_stage()
        with meter.stage("test"):
            for _ in range(20):
                time.sleep(0.01)
                meter.batch_start()
                time.sleep(0.02)
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
