"""EnergyMeter in any loop, on scripted devices; in real time where threads, signals or processes are tested."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from threads import samplers

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE
from ml_energy_callbacks.clock import Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def scripted(watts: float = 100.0, clock: Clock = monotonic_clock) -> tuple[PowerCurve, ScriptedCounter, ScriptedBackend]:
    curve = PowerCurve(clock, watts)
    counter = ScriptedCounter(curve, clock, period_s=0.02)
    return curve, counter, ScriptedBackend([counter])


def test_a_stop_leaves_no_thread_behind() -> None:
    _, _, backend = scripted()
    before = samplers()
    with EnergyMeter(backends=[backend], verbose=False):
        assert len(samplers() - before) == 2
    assert samplers() <= before


def test_a_follower_is_shown_the_record_until_the_end(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    seen: list[tuple[bool, str]] = []
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("train"):
        meter.follow(lambda build, *, last: seen.append((last, build().run.status)))
        clock.advance(20.0)
    assert len(seen) >= 4
    assert set(seen[:-1]) == {(False, "running")}
    assert seen[-1] == (True, "completed")


def test_a_follower_that_fails_stops_nothing(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("train"):
        meter.follow(lambda build, *, last: 1 / 0)
        clock.advance(20.0)
    assert meter.record.run.status == "completed"
    (warning,) = [text for text in meter.record.warnings if "unexpected error" in text]
    assert "ZeroDivisionError" in warning


def test_a_loop_is_measured_by_stage_and_phase(clock: ManualClock, tmp_path: Path) -> None:
    curve, _, backend = scripted(50.0, clock)
    true = {"compute": 0.0, "data_wait": 0.0}
    with SteppedMeter(
        clock, output_dir=tmp_path, backends=[backend], carbon_intensity=360, electricity_price=0.5, pue=2
    ) as meter:
        with meter.stage("train"):
            for i in range(60):
                before = curve.joules()
                clock.advance(0.01 + 0.0037 * (i % 7))  # not in step with the refreshes
                true["data_wait"] += curve.joules() - before
                with meter.batch(samples=4):
                    curve.set(250.0)
                    before = curve.joules()
                    clock.advance(0.03 + 0.0053 * (i % 11))
                    true["compute"] += curve.joules() - before
                curve.set(50.0)
        before = curve.joules()
        with meter.stage("predict"), meter.batch(samples=10):
            clock.advance(0.4)
        predicted = curve.joules() - before
    record = meter.record
    train = record.stages["train"]
    assert (train.batches, train.samples) == (60, 240)
    assert train.joules == pytest.approx(sum(true.values()), rel=0.03)
    for phase, joules in true.items():
        assert train.phases[phase].joules == pytest.approx(joules, rel=0.15)
    assert sum(phase.joules or 0 for phase in train.phases.values()) == pytest.approx(train.joules, rel=1e-9)
    assert sum(stage.joules or 0 for stage in record.stages.values()) == pytest.approx(record.total.joules, rel=1e-9)
    assert train.joules_per_sample == pytest.approx((train.joules or 0) / 240)
    # At its edge, the 70 ms between two reads at most hold both stages: half of what their powers differ by.
    assert record.stages["predict"].joules == pytest.approx(predicted, abs=0.5 * (250 - 50) * 0.07)
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / 3.6e6 * 2 * 360)
    assert record.total.cost == pytest.approx(record.total.joules / 3.6e6 * 2 * 0.5)
    assert record.run.status == "completed"
    assert load_record(tmp_path) == record


def test_a_meter_can_be_started_again_and_adds_up(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)
    for _ in range(2):
        with meter, meter.stage("train"), meter.batch(1):
            clock.advance(0.3)
        clock.advance(0.2)  # nobody's
    train = meter.record.stages["train"]
    assert train.samples == 2
    assert train.seconds == pytest.approx(0.6, abs=0.05)
    assert train.joules == pytest.approx(100 * train.seconds, rel=0.03)


def test_stages_nest_and_the_inner_ones_time_is_its_own(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("train"):
        clock.advance(0.2)
        with meter.stage("validate"):
            clock.advance(0.1)
    stages = meter.record.stages
    assert stages["train"].seconds == pytest.approx(0.2, abs=0.03)
    assert stages["validate"].seconds == pytest.approx(0.1, abs=0.03)


def test_what_passes_after_the_end_counts_nowhere(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter:
        pass
    before = meter.record
    with meter.stage("train"), meter.batch(5):
        clock.advance(0.05)
    assert meter.record.stages.keys() == before.stages.keys()
    assert meter.record.total == before.total


def test_a_batch_that_was_made_before_the_end_counts_nowhere_after_it(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter:
        clock.advance(0.1)
        meter.begin_stage("predict")
        batch = meter.batch(5)
    with batch:
        clock.advance(0.5)
    clock.advance(0.5)
    record = meter.record
    assert record.total.seconds == pytest.approx(0.1, abs=0.05)
    assert record.stages.keys() == {"other"}


def test_a_stage_that_begins_before_the_start_counts_from_the_start_on(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)
    for _ in range(2):  # in the first run, and between two runs
        meter.begin_stage("train")
        clock.advance(0.5)
        with meter:
            meter.end_stage()
            clock.advance(0.2)
        clock.advance(0.5)
    record = meter.record
    assert record.total.seconds == pytest.approx(0.4, abs=0.1)
    assert record.total.joules == pytest.approx(40, abs=10)
    assert record.stages.keys() == {"other"}


def test_a_batch_that_begins_outside_the_run_takes_no_others_place(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    meter = SteppedMeter(clock, backends=[backend], verbose=False)
    early = meter.batch(10)
    with meter:
        meter.begin_stage("predict")
        outside = meter.batch(10)
    with outside:
        meter.start()
        meter.begin_stage("predict")
        with meter.batch(1):
            clock.advance(0.1)
            outside.__exit__(None, None, None)
            clock.advance(0.5)
        with early:
            clock.advance(0.2)
        with meter.batch(1):
            clock.advance(0.3)
        meter.stop()
    stage = meter.record.stages["predict"]
    assert (stage.batches, stage.samples) == (2, 2)
    assert stage.seconds == pytest.approx(1.1, abs=0.1)
    assert stage.phases["compute"].seconds == pytest.approx(0.9, abs=0.05)


class Handler(ManualClock):
    """A clock that runs a signal handler once, as it is read."""

    handle: Callable[[], None] | None = None

    def __call__(self) -> int:
        handle, self.handle, now = self.handle, None, super().__call__()
        if handle is not None:
            handle()
        return now


@pytest.mark.parametrize("call", [lambda meter: meter.enter("compute"), lambda meter: meter.begin_stage("validate")])
def test_a_handler_that_stops_the_meter_in_the_middle_of_a_call_ends_its_time(call: Callable[[EnergyMeter], None]) -> None:
    clock = Handler()
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("train"):
        clock.advance(0.2)
        clock.handle = lambda: meter.stop("stopped", "signal")
        call(meter)
        clock.advance(0.5)
        with meter.batch(5):
            clock.advance(0.5)
    assert meter.record.total.seconds == pytest.approx(0.2, abs=0.05)


def test_a_batch_of_the_loops_own_does_not_end_one_that_overlaps_it(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("predict"), meter.batch(1):
        meter.batch_start()
        meter.batch_end(1)
        clock.advance(0.3)
    stage = meter.record.stages["predict"]
    assert (stage.batches, stage.samples) == (2, 2)
    assert stage.phases["compute"].seconds == pytest.approx(0.3, abs=0.03)


class Looking(ManualClock):
    """A clock that another thread reads for ever, as soon as that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.holds, self.go_on, self.held = False, threading.Event(), threading.Event()

    def __call__(self) -> int:
        if self.holds and threading.current_thread() is not threading.main_thread():
            self.held.set()
            self.go_on.wait()
        return super().__call__()


def test_calls_in_a_fork_wait_for_no_thread_of_its_parent() -> None:
    clock = Looking()
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter:
        serve = meter.measure()(lambda: None)
        clock.holds = True
        looking = threading.Thread(target=meter.point)
        looking.start()
        assert clock.held.wait(60)
        pid = os.fork()
        if pid == 0:
            for _ in range(LONGEST_QUEUE):
                serve()
            os._exit(0)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(os.waitpid, pid, 0)
            try:
                assert ended.result(timeout=60) == (pid, 0)
            finally:
                clock.go_on.set()
                if not ended.done():
                    os.kill(pid, signal.SIGKILL)
        looking.join()


def test_a_batch_of_unknown_size_makes_the_cost_per_sample_unknown_not_zero(clock: ManualClock) -> None:
    _, _, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter, meter.stage("predict"):
        for samples in (4, None):
            with meter.batch(samples):
                clock.advance(0.05)
        assert "energy/predict/joules_per_sample" not in meter.metrics("predict")
    stage = meter.record.stages["predict"]
    assert (stage.samples, stage.joules_per_sample) == (None, None)


def test_a_device_that_fails_for_good_leaves_a_gap_that_is_reported(clock: ManualClock) -> None:
    _, counter, backend = scripted(100.0, clock)
    with SteppedMeter(clock, backends=[backend], verbose=False) as meter:
        clock.advance(0.4)
        counter.failing = True
        clock.advance(0.6)
    (device,) = meter.record.devices
    assert device.missing_s == pytest.approx(0.6, abs=0.2)
    assert device.joules == pytest.approx(40, rel=0.2)


def test_without_any_device_energy_is_unknown_not_zero(clock: ManualClock) -> None:
    with SteppedMeter(clock, backends=[], verbose=False) as meter, meter.stage("train"), meter.batch(1):
        clock.advance(0.05)
    record = meter.record
    assert record.total.joules is None
    assert record.stages["train"].joules is None
    assert record.stages["train"].phases["compute"].joules is None
    assert "No device" in record.warnings[0]
    assert not any("joules" in name for name in meter.metrics("train"))


def test_a_driver_that_hangs_does_not_stop_the_run() -> None:
    curve, counter, backend = scripted()
    hangs, release = threading.Event(), threading.Event()

    class Hanging(ScriptedCounter):
        def read(self) -> float:
            if curve.watts() > 150:
                hangs.set()
                release.wait(60)
            return super().read()

    hanging = Hanging(curve, monotonic_clock, period_s=0.02)
    backend.sources = [hanging]
    before = samplers()
    meter = EnergyMeter(backends=[backend], verbose=False).start()
    curve.set(200)
    assert hangs.wait(10)
    begun = time.perf_counter()
    meter.stop()
    assert time.perf_counter() - begun < 5
    assert "did not respond" in meter.record.warnings[-1]
    release.set()
    for thread in samplers() - before:
        thread.join(10)
    assert samplers() <= before
    assert counter.failing is False


def test_on_a_machine_without_counters_every_number_says_estimated() -> None:
    with EnergyMeter(devices=["cpu-model:0", "memory-model:0"], verbose=False) as meter, meter.stage("train"):
        time.sleep(0.3)
    record = meter.record
    assert record.total.joules is not None
    assert record.total.joules > 0
    assert record.total.provenance == "estimated"
    assert {stage.provenance for stage in record.stages.values()} == {"estimated"}
    assert record.total.relative_uncertainty is not None
    assert record.total.relative_uncertainty >= 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_interval": -1}, "sample_interval is -1 s; give seconds above 0"),
        ({"sample_interval": math.nan}, "sample_interval"),
        ({"location": "Atlantis"}, "location 'Atlantis' is unknown"),
        ({"electricity_price": math.nan}, "electricity_price is nan"),
        ({"currency": "euro"}, "currency is 'euro'"),
        ({"pue": 0.5}, "pue is 0.5"),
        ({"carbon_intensity": -3}, "carbon_intensity is -3"),
        ({"devices": "nvml:0"}, "devices is 'nvml:0'; give 'auto' or a list"),
        ({"devices": []}, "devices is"),
        ({"tags": ["vision"]}, "tags is ..vision..; give names with texts"),
        ({"tags": {"team": 7}}, "tags is {'team': 7}; give names with texts"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EnergyMeter(**options)


def test_a_loop_is_described_by_one_object() -> None:
    meter = EnergyMeter(backends=[], verbose=False)
    with pytest.raises(
        ConfigurationError, match=r"takes a LoopDescription, such as LoopDescription\(gather=all_gather\), not list"
    ):
        meter.start([])  # type: ignore[arg-type]
    assert not meter.started


def test_options_are_no_attributes_that_a_subclass_could_hit() -> None:
    class Mine(EnergyMeter):
        scope = "my own"

        @property
        def location(self) -> str:
            return "here"

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.tags = ["mine"]

    with Mine(backends=[], location="FRA", tags={"team": "a"}, verbose=False) as meter:
        pass
    assert (meter.location, meter.scope, meter.tags) == ("here", "my own", ["mine"])
    assert (meter.record.carbon.location, meter.record.run.tags) == ("FRA", {"team": "a"})


def test_a_numpy_that_cannot_be_imported_is_an_error_before_any_device_is_opened(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('broken')", encoding="utf-8")
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.testing import ScriptedBackend
class Backend(ScriptedBackend):
    def open(self):
        raise SystemExit("opened")
meter = EnergyMeter(backends=[Backend([])])
try:
    meter.start()
except ImportError as error:
    print(error, meter.started)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "broken False\n"


def test_an_unknown_device_is_refused_with_those_that_there_are() -> None:
    _, _, backend = scripted()
    with pytest.raises(ConfigurationError, match="No device matches 'gpu:7'; available: scripted:0"):
        EnergyMeter(devices=["gpu:7"], backends=[backend]).start()


def test_an_output_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = samplers()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        EnergyMeter(output_dir=tmp_path / "file" / "run").start()
    assert samplers() <= before


def test_another_runs_record_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with EnergyMeter(output_dir=tmp_path, verbose=False):
            pass
    assert len(list(tmp_path.glob("energy*.json"))) == 2


SCRIPT = """
import signal, sys, time
from ml_energy_callbacks import EnergyMeter
signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent may ignore it
with EnergyMeter(output_dir=sys.argv[1], backends=[], verbose=False) as meter, meter.stage("train"):
    print("ready", flush=True)
    while True:
        with meter.batch(samples=2):
            time.sleep(0.01)
"""


@contextlib.contextmanager
def endless_run(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that measures until it is killed."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.communicate(timeout=30)


def test_kill_9_leaves_a_loadable_record_that_misses_little(tmp_path: Path) -> None:
    began = time.monotonic()
    with endless_run(tmp_path) as process:
        latest_start = time.monotonic()
        while load_record(tmp_path).total.seconds < 3 and time.monotonic() < latest_start + 30:  # from the second review on
            time.sleep(0.05)
        earliest_end = time.monotonic()
        process.kill()
    record = load_record(tmp_path)
    assert record.run.status == "running"
    # A record is written 1 s, 3 s and 7 s after the start, then every 5 s.
    assert max(3.0, earliest_end - latest_start - 6) < record.total.seconds < time.monotonic() - began
    assert record.stages["train"].samples


def test_a_meter_that_is_never_stopped_ends_with_its_interpreter(tmp_path: Path) -> None:
    code = f"from ml_energy_callbacks import EnergyMeter; EnergyMeter(output_dir={str(tmp_path)!r}, verbose=False).start()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert load_record(tmp_path).run.status == "stopped"


def test_ctrl_c_leaves_a_complete_record(tmp_path: Path) -> None:
    with endless_run(tmp_path) as process:
        process.send_signal(signal.SIGINT)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("stopped", "KeyboardInterrupt")
    assert process.returncode != 0


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "completed", None),
        (ValueError("too bad"), "failed", "ValueError: too bad"),
        (SystemExit(3), "stopped", "SystemExit: 3"),
    ],
)
def test_the_status_says_how_the_run_ended(
    clock: ManualClock, tmp_path: Path, error: BaseException | None, status: str, reason: str | None
) -> None:
    _, _, backend = scripted(clock=clock)
    raised = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with raised, SteppedMeter(clock, backends=[backend], output_dir=tmp_path, verbose=False) as meter, meter.stage("train"):
        clock.advance(0.3)
        if error is not None:
            raise error
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == (status, reason)


def test_batches_leave_nothing_behind_in_the_timeline() -> None:
    with EnergyMeter(backends=[ScriptedBackend([])], verbose=False) as meter, meter.stage("train"):  # no device: nobody looks
        for _ in range(100_000):
            meter.batch_start()
            meter.batch_end(1)
        assert len(meter._timeline.queue) <= LONGEST_QUEUE
        assert len(meter._timeline._state.switches) <= 1024
    assert meter.record.stages["train"].samples == 100_000
