"""What goes wrong in mid-run neither stops the loop nor invents energy; the gap is told."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from forked import programs_environment
from threads import wait_for_the_end_of

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing, monotonic_clock
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.session import Session
from ml_energy_callbacks.readings import Source
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, ScriptedPower, SteppedMeter

COUNTER = ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock).device


@dataclass(slots=True)
class Blocking(ScriptedCounter):
    """A counter one of whose reads blocks from when ``blocks`` is set until ``release`` is."""

    blocks: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    blocked: list[float] = field(default_factory=list)  # the clock in s, before and after

    def read(self) -> float:
        if self.blocks.is_set():
            self.blocks.clear()
            self.blocked.append(monotonic_clock() / NS_PER_S)
            self.release.wait(60)
            self.blocked.append(monotonic_clock() / NS_PER_S)
        return ScriptedCounter.read(self)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    """A counter that can block; after the test it answers, and no thread is left."""
    counter = Blocking(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02)
    before = set(threading.enumerate())
    yield counter
    counter.release.set()
    wait_for_the_end_of(set(threading.enumerate()) - before)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def meter(*sources: Source, output_dir: Path | None = None, kind: type[EnergyMeter] = EnergyMeter) -> EnergyMeter:
    return kind(backends=[ScriptedBackend(list(sources))], output_dir=output_dir, carbon_intensity=1, verbose=False)


def stepped(clock: ManualClock, *sources: Source, output_dir: Path | None = None) -> SteppedMeter:
    backends = [ScriptedBackend(list(sources))]
    return SteppedMeter(clock, backends=backends, output_dir=output_dir, carbon_intensity=1, verbose=False)


IMPATIENT = Timing(open_s=0.5, answer_s=0.3, check_s=0.5)


class Impatient(EnergyMeter):
    """A meter that waits less long for drivers that hang."""

    def _new_session(self, options: MeterOptions) -> Session:
        return Session(options, IMPATIENT)


def steps_for(seconds: float, m: EnergyMeter) -> float:
    """Run a loop of short batches for so long, and return its longest batch in s."""
    longest, end = 0.0, time.monotonic() + seconds
    with m.stage("train"):
        while time.monotonic() < end:
            start = time.monotonic()
            with m.batch(1):
                time.sleep(0.005)
            longest = max(longest, time.monotonic() - start)
    return longest


def test_a_read_that_blocks_does_not_hold_up_the_loop_and_is_a_gap(blocking: Blocking) -> None:
    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    with meter(blocking, power) as m:
        steps_for(0.3, m)
        blocking.blocks.set()
        assert steps_for(1.6, m) < 0.5
        blocking.release.set()
        steps_for(0.4, m)
    counted, integrated = m.record.devices
    began, ended = blocking.blocked
    seconds = m.record.total.seconds
    assert counted.missing_s == pytest.approx(ended - began, abs=0.3)
    assert counted.joules == pytest.approx(100 * seconds, rel=0.03)  # it went on counting
    assert integrated.missing_s < 1  # another thread reads it meanwhile
    assert integrated.joules == pytest.approx(50 * (seconds - integrated.missing_s), rel=0.05)


def test_a_device_that_answers_slowly_holds_up_no_other() -> None:
    @dataclass(slots=True)
    class Slow(ScriptedPower):
        def read(self) -> float:
            time.sleep(0.4)
            return ScriptedPower.read(self)

    device = replace(COUNTER, id="scripted:slow", method="power_integration", min_interval_s=0.3, whole_machine=True)
    slow = Slow(PowerCurve(monotonic_clock, 200), monotonic_clock, device=device)
    quick = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    before = set(threading.enumerate())
    with meter(slow, quick) as m:
        assert steps_for(2.0, m) < 0.4
    (part,), (whole,) = m.record.devices, m.record.whole_machine
    assert part.missing_s < 0.4  # a busy machine may begin late, but no read of the slow device was waited for
    assert part.joules == pytest.approx(50 * (m.record.total.seconds - part.missing_s), rel=0.05)
    assert whole.joules == pytest.approx(200 * m.record.total.seconds, rel=0.35)  # readings are 0.8 s apart
    wait_for_the_end_of(set(threading.enumerate()) - before)  # those that closed the devices are about to end


def test_power_is_not_made_up_for_a_short_silence(clock: ManualClock) -> None:
    curve = PowerCurve(clock, 100)
    power = ScriptedPower(curve, clock)
    with stepped(clock, power) as m:
        clock.advance(0.5)
        power.failing = True
        clock.advance(0.4)
        power.failing = False
        clock.advance(0.5)
    (device,) = m.record.devices
    assert device.missing_s == pytest.approx(0.45, abs=0.15)
    assert device.joules == pytest.approx(100 * (m.record.total.seconds - device.missing_s), rel=0.05)


def test_two_meters_in_one_process_measure_the_same_and_do_not_disturb_each_other() -> None:
    curve = PowerCurve(monotonic_clock, 100)
    one, other = (meter(ScriptedCounter(curve, monotonic_clock, period_s=0.02)) for _ in range(2))
    with one, other:
        time.sleep(0.3)
        with other.stage("train"):
            time.sleep(0.5)
    assert one.record.total.joules == pytest.approx(100 * one.record.total.seconds, rel=0.05)
    train = other.record.stages["train"]
    assert train.seconds >= 0.5
    assert train.joules == pytest.approx(100 * train.seconds, rel=0.1)
    assert "train" not in one.record.stages


def test_a_windows_energy_bridges_an_outage_of_a_counter_and_is_unknown_where_power_was_not_seen(clock: ManualClock) -> None:
    counter = ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.02)
    power = ScriptedPower(PowerCurve(clock, 50), clock)

    def windows(source: ScriptedCounter | ScriptedPower) -> list[float | None]:
        with stepped(clock, source) as m, m.stage("train"):
            clock.advance(0.3)
            with m.window() as begins_before:
                clock.advance(0.2)
                source.failing = True
                clock.advance(0.2)
            with m.window() as inside:
                clock.advance(0.3)
            assert inside.joules is None
            with m.window() as ends_after:
                clock.advance(0.2)
                source.failing = False
                clock.advance(0.2)
            with m.window() as beyond:
                clock.advance(0.3)
            clock.advance(0.2)
            return [window.joules for window in (begins_before, inside, ends_after, beyond)]

    assert windows(counter) == [pytest.approx(joules, rel=0.15) for joules in (40, 30, 40, 30)]
    assert windows(power) == [None, None, None, pytest.approx(15, rel=0.15)]


def test_a_fork_in_the_middle_neither_stops_nor_doubles_the_measurement(tmp_path: Path) -> None:
    with meter(ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02), output_dir=tmp_path) as m:
        time.sleep(0.3)
        pids = []
        for _ in range(2):  # as DataLoader's workers are made
            pid = os.fork()
            if pid == 0:
                time.sleep(0.2)
                os._exit(0 if threading.active_count() == 1 else 1)
            pids.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
        time.sleep(0.3)
    assert m.record.total.joules == pytest.approx(100 * m.record.total.seconds, rel=0.05)
    assert load_record(tmp_path).run.status == "completed"


FORKED = """
import multiprocessing, sys, time
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

counter = ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02)
meter = EnergyMeter(backends=[ScriptedBackend([counter])], output_dir=sys.argv[1], carbon_intensity=1, verbose=False).start()
time.sleep(0.3)
worker = multiprocessing.get_context("fork").Process(target=sys.exit)  # runs the exit handlers that it inherited
worker.start()
worker.join()
time.sleep(0.3)
# The interpreter ends without a stop.
"""


def test_a_forked_child_that_unwinds_the_meters_block_leaves_the_run_alone(tmp_path: Path) -> None:
    with meter(ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02), output_dir=tmp_path) as m:
        time.sleep(0.3)
        pid = os.fork()
        if pid == 0:
            m.__exit__(SystemExit, SystemExit(3), None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert load_record(tmp_path).run.status == "running"
        time.sleep(0.3)
    assert load_record(tmp_path).run.status == "completed"


def test_a_device_that_was_lost_for_much_of_the_run_is_told(clock: ManualClock) -> None:
    power = ScriptedPower(PowerCurve(clock, 100), clock)
    counter = ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.02)
    with stepped(clock, power, counter) as m:
        clock.advance(0.3)
        power.failing = counter.failing = True
        clock.advance(1.5)
        power.failing = counter.failing = False
        clock.advance(0.3)
    (told,) = m.record.warnings  # the counter went on counting
    assert told.startswith(f"{power.device.id} could not be read for 1.")


def test_an_interpreter_that_ends_without_a_stop_leaves_the_record_of_its_own_run(tmp_path: Path) -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], check=True, timeout=60)
    assert time.monotonic() - start < 30
    record = load_record(tmp_path)
    assert record.run.status == "stopped"
    assert record.total.joules == pytest.approx(100 * record.total.seconds, rel=0.1)
    assert record.total.seconds > 0.6


def test_meters_that_start_at_the_same_time_in_several_threads_all_measure() -> None:
    @dataclass(slots=True)
    class Slow(ScriptedBackend):
        def open(self) -> list[ScriptedPower]:
            time.sleep(0.3)
            return [ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)]

    def measure() -> RunRecord:
        with EnergyMeter(backends=[Slow([])], carbon_intensity=1, verbose=False) as m:
            time.sleep(0.3)
        return m.record

    with ThreadPoolExecutor(4) as pool:
        records = [run.result() for run in [pool.submit(measure) for _ in range(4)]]
    assert [record.warnings for record in records] == [[]] * 4
    for record in records:
        assert record.total.joules == pytest.approx(50 * record.total.seconds, rel=0.1)


def test_a_second_stop_changes_nothing(clock: ManualClock) -> None:
    m = stepped(clock, ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.02))
    with m:
        clock.advance(0.2)
    before = m.record
    m.stop("failed", "too late")
    assert m.record == before


def test_whatever_a_backend_raises_is_a_gap(clock: ManualClock) -> None:
    class Wild(ScriptedCounter):
        errors = iter((OSError("gone"), ValueError("garbage"), KeyError("?"), ReadError("as promised")) * 1000)

        def read(self) -> float:
            if self.failing:
                raise next(self.errors)
            return ScriptedCounter.read(self)

    wild = Wild(PowerCurve(clock, 100), clock, period_s=0.02)
    with stepped(clock, wild) as m:
        clock.advance(0.4)
        wild.failing = True
        clock.advance(0.5)
        wild.failing = False
        clock.advance(0.4)
    (device,) = m.record.devices
    assert device.missing_s == pytest.approx(0.55, abs=0.2)
    assert device.joules == pytest.approx(100 * m.record.total.seconds, rel=0.05)


@dataclass(slots=True)
class Odd(ScriptedCounter):
    """A counter whose next value may be anything."""

    value: object = None

    def read(self) -> float:
        return ScriptedCounter.read(self) if self.value is None else self.value  # type: ignore[return-value]


@pytest.mark.parametrize("value", ["garbage", [], object()])
def test_a_value_that_is_no_number_is_a_gap_of_its_device_alone(clock: ManualClock, value: object) -> None:
    odd = Odd(PowerCurve(clock, 100), clock, period_s=0.02)
    power = ScriptedPower(PowerCurve(clock, 50), clock)
    with stepped(clock, odd, power) as m:
        clock.advance(0.4)
        odd.value = value
        clock.advance(0.5)
        odd.value = None
        clock.advance(0.4)
    counted, integrated = m.record.devices
    assert counted.missing_s == pytest.approx(0.55, abs=0.2)
    assert integrated.missing_s == 0
    assert integrated.joules == pytest.approx(50 * m.record.total.seconds, rel=0.05)


def test_a_read_that_never_ends_is_missing_in_the_record_while_it_hangs_and_at_the_end(blocking: Blocking) -> None:
    with meter(blocking) as m:
        time.sleep(0.5)
        blocking.blocks.set()
        time.sleep(1.5)
        hung = monotonic_clock() / NS_PER_S - blocking.blocked[0]
        assert m.record.devices[0].missing_s == pytest.approx(hung, abs=0.3)
        ended = monotonic_clock() / NS_PER_S
    (device,) = m.record.devices
    hung = ended - blocking.blocked[0]
    assert device.missing_s == pytest.approx(hung, abs=0.3)  # what the stop waits for it is no part of the run
    assert device.joules == pytest.approx(100 * (m.record.total.seconds - hung), rel=0.3)
    assert any("did not respond" in warning for warning in m.record.warnings)


def test_a_device_that_never_answers_holds_up_neither_the_start_nor_the_others(blocking: Blocking) -> None:
    blocking.blocks.set()
    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    with meter(blocking, power, kind=Impatient) as m:
        assert not blocking.release.is_set()
        assert len(blocking.blocked) == 1
        steps_for(0.5, m)
    (device,) = m.record.devices
    assert device.id == power.device.id
    assert device.joules == pytest.approx(50 * m.record.total.seconds, rel=0.05)
    assert any(f"{blocking.device.id} does not answer and is not counted" in told for told in m.record.warnings)


@dataclass
class Endless:
    """A backend that does not open before ``release`` is set."""

    release: threading.Event
    name: str = "endless"

    def open(self) -> list[ScriptedCounter]:
        self.release.wait(120)
        return []


@pytest.fixture
def endless() -> Iterator[Endless]:
    before = set(threading.enumerate())
    backend = Endless(threading.Event())
    yield backend
    backend.release.set()
    wait_for_the_end_of(set(threading.enumerate()) - before)


@pytest.mark.parametrize("timing", [IMPATIENT, pytest.param(REAL_TIME, marks=pytest.mark.full)])
def test_a_backend_that_never_opens_is_told_and_left_out_and_waited_for_once(endless: Endless, timing: Timing) -> None:
    class Waiting(EnergyMeter):
        def _new_session(self, options: MeterOptions) -> Session:
            return Session(options, timing)

    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    for waits in (True, False):
        start = time.monotonic()
        with Waiting(backends=[endless, ScriptedBackend([power])], carbon_intensity=1, verbose=False) as m:
            waited = time.monotonic() - start
        assert (waited >= timing.open_s) is waits
        assert [device.id for device in m.record.devices] == [power.device.id]
        words = f"Not measured: The backend endless did not answer within {timing.open_s:g} s. Check"
        assert any(told.startswith(words) for told in m.record.warnings)


def test_a_backend_that_was_not_chosen_is_not_even_asked() -> None:
    asked = []

    class Other:
        name = "other"

        def open(self) -> list[ScriptedCounter]:
            asked.append(self)
            return []

    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    for devices in (["scripted:*"], "auto"):
        with EnergyMeter(devices=devices, backends=[Other(), ScriptedBackend([power])], carbon_intensity=1, verbose=False):
            assert bool(asked) is (devices == "auto")


@pytest.mark.parametrize("error", [TimeoutError("at once"), SystemExit(3), BaseException("a panic")])
def test_whatever_a_backend_raises_as_it_opens_is_its_own_affair(error: BaseException) -> None:
    class Wild:
        name = "wild"

        def open(self) -> list[ScriptedCounter]:
            raise error

    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    with EnergyMeter(backends=[Wild(), ScriptedBackend([power])], carbon_intensity=1, verbose=False) as m:
        pass
    assert [device.id for device in m.record.devices] == [power.device.id]
    (told,) = m.record.warnings
    assert told.startswith("Not measured: The backend wild failed: ")
    assert repr(error) in told


def test_neither_a_close_nor_a_power_that_hangs_holds_up_the_loop() -> None:
    release = threading.Event()

    @dataclass(slots=True)
    class Stuck(ScriptedCounter):
        def watts(self) -> float:
            release.wait(60)
            return 0.0

        def close(self) -> None:
            release.wait(60)

    still = Stuck(PowerCurve(monotonic_clock, 0), monotonic_clock, device=replace(COUNTER, id="scripted:still"))
    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    stuck = Stuck(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02, device=replace(COUNTER, id="scripted:1"))
    before = set(threading.enumerate())
    for source in (stuck, still):
        start = time.monotonic()
        m = meter(source, power, kind=Impatient).start()
        time.sleep(0.2)
        m.stop()
        assert time.monotonic() - start < 5  # and not 60
    release.set()
    wait_for_the_end_of(set(threading.enumerate()) - before)


def test_what_hangs_in_mid_run_costs_no_other_backend_a_reading_and_the_file_is_kept_up_to_date(
    blocking: Blocking, tmp_path: Path
) -> None:
    power = ScriptedPower(PowerCurve(monotonic_clock, 50), monotonic_clock)
    power.device = replace(power.device, id="other:power", backend="other")
    with meter(blocking, power, output_dir=tmp_path) as m:
        began = monotonic_clock() / NS_PER_S
        steps_for(0.5, m)
        blocking.blocks.set()
        end = time.monotonic() + 30
        while load_record(tmp_path).total.seconds < 2.5 and time.monotonic() < end:  # it is written after 1 and 3 s
            steps_for(0.2, m)
        written = load_record(tmp_path)
        assert written.total.seconds > 2.5
        hangs, reads = written.devices
        assert hangs.missing_s == pytest.approx(written.total.seconds - (blocking.blocked[0] - began), abs=1)
        assert reads.missing_s == 0
    assert m.record.devices[1].missing_s == 0
    assert m.record.devices[1].joules == pytest.approx(50 * m.record.total.seconds, rel=0.05)


@pytest.mark.parametrize("counter_first", [True, False])
def test_a_device_that_is_read_in_another_way_at_the_next_start_adds_up(clock: ManualClock, *, counter_first: bool) -> None:
    curve = PowerCurve(clock, 100)
    counter = ScriptedCounter(curve, clock, period_s=0.02)
    power = ScriptedPower(curve, clock, device=replace(counter.device, method="power_integration"))
    backend = ScriptedBackend([counter if counter_first else power])
    m = SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False)
    for source in (backend.sources[0], power if counter_first else counter):
        backend.sources = [source]
        with m:
            clock.advance(0.6)
    (device,) = m.record.devices
    assert device.joules == pytest.approx(100 * m.record.total.seconds, rel=0.05)
    assert device.missing_s == 0


def test_a_device_that_is_gone_at_the_next_start_is_told_and_holds_up_no_window(clock: ManualClock) -> None:
    curve = PowerCurve(clock, 100)
    stays = ScriptedCounter(curve, clock, period_s=0.02)
    goes = ScriptedCounter(curve, clock, period_s=0.02, device=replace(COUNTER, id="scripted:1"), start_joules=7)
    backend = ScriptedBackend([stays, goes])
    m = SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False)
    with m:
        clock.advance(0.2)
    backend.sources = [stays]
    with m:
        clock.advance(0.2)
        with m.window() as window:
            clock.advance(0.3)
        clock.advance(0.3)
        assert window.joules == pytest.approx(30, rel=0.1)
    assert any("scripted:1 can no longer be read" in warning for warning in m.record.warnings)


def test_each_slow_device_is_asked_at_its_own_pace(clock: ManualClock) -> None:
    def slow(number: int, interval_s: float, *, whole: bool) -> ScriptedPower:
        device = replace(
            COUNTER, id=f"scripted:{number}", method="power_integration", min_interval_s=interval_s, whole_machine=whole
        )
        return ScriptedPower(PowerCurve(clock, 100), clock, device=device)

    with stepped(clock, slow(0, 0.1, whole=False), slow(1, 1.0, whole=True)) as m:
        clock.advance(4)
    (part,) = m.record.devices
    assert part.missing_s == 0
    assert part.joules == pytest.approx(100 * m.record.total.seconds, rel=0.1)


def test_what_must_not_be_asked_often_is_not(clock: ManualClock) -> None:
    @dataclass(slots=True)
    class Counted(ScriptedCounter):
        reads: int = 0

        def read(self) -> float:
            self.reads += 1
            return ScriptedCounter.read(self)

    device = replace(COUNTER, min_interval_s=0.5)
    counted = Counted(PowerCurve(clock, 100), clock, device=device)
    with stepped(clock, counted):
        clock.advance(2.5)
    assert 3 <= counted.reads <= 7


def test_a_device_that_cannot_be_closed_costs_no_record(clock: ManualClock, tmp_path: Path) -> None:
    class Stuck(ScriptedCounter):
        def close(self) -> None:
            msg = "stuck"
            raise RuntimeError(msg)

    with stepped(clock, Stuck(PowerCurve(clock, 100), clock, period_s=0.02), output_dir=tmp_path):
        clock.advance(0.2)
    assert load_record(tmp_path).run.status == "completed"


def _without_threads(folder: Path, devices: str, framework: str = "none") -> list[str]:
    """Run a loop in a process that can start no thread; return the warnings in its record."""
    script = Path(__file__).with_name("threadless.py")
    environment = {**programs_environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), devices, framework]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    warnings: list[str] = json.loads(ended.stdout.splitlines()[-1])
    record = load_record(folder)
    assert (record.run.status, record.total.joules) == ("completed", None)
    assert record.stages["train"].batches > 0
    return warnings


@pytest.mark.parametrize("devices", ["auto", "cpu-model:0"])
def test_threads_that_cannot_start_end_no_loop(tmp_path: Path, devices: str) -> None:
    told = [warning for warning in _without_threads(tmp_path, devices) if "No thread can be started" in warning]
    assert len(told) == 1
    assert "ulimit -u" in told[0]
