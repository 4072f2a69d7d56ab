"""Edges on a device's own time, over a scripted device that goes through its queue later than the host fills it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from threads import until

from ml_energy_callbacks import LoopDescription, load_record
from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Timeline, TimelineReader
from ml_energy_callbacks.clock import NS_PER_S, Timing, monotonic_clock
from ml_energy_callbacks.meter.gpu_edges import DeviceEdges
from ml_energy_callbacks.testing import ManualClock, ScriptedBackend, ScriptedCounter, SteppedMeter

LATENCY_NS = 20_000
"""From the record of an event to its passing, at least."""


def timing(clock: ManualClock) -> Timing:
    return Timing(clock, clock.advance)


@dataclass
class Device:
    """It works off its queue one after the other, on a clock of its own that runs a little fast."""

    clock: ManualClock
    rate: float = 1 + 5e-6
    free_ns: int = 0
    refuses: bool = False
    events: list["Event"] = field(default_factory=list)

    def launch(self, seconds: float) -> None:
        self.free_ns = max(self.free_ns, self.clock()) + round(seconds * NS_PER_S)

    def record(self) -> "Event | None":
        if self.refuses:
            return None
        self.events.append(Event(self, max(self.free_ns, self.clock()) + LATENCY_NS))
        return self.events[-1]


@dataclass
class Event:
    device: Device
    time_ns: int

    def query(self) -> bool:
        self.device.clock.now_ns += 1000
        return self.device.clock() >= self.time_ns

    def elapsed_time(self, end_event: "Event", /) -> float:
        return (end_event.time_ns - self.time_ns) * self.device.rate / 1e6


def loop(batches: int, compute_s: float, launch_s: float, wait_s: float) -> tuple[Timeline, int, Device, ManualClock]:
    """Run a loop whose host is ahead of its device where launching takes less time than the work."""
    clock = ManualClock()
    device, timeline = Device(clock), Timeline(clock)
    edges = DeviceEdges(device.record, timing(clock))
    compute, wait = timeline.add_bucket(1), timeline.add_bucket(1)
    rng = random.Random(0)
    for _ in range(batches):
        timeline.queue.append(("switch", edges(), compute, 0, None, None))
        device.launch(compute_s * rng.uniform(0.8, 1.2))
        clock.advance(launch_s)
        timeline.queue.append(("batches", edges(), wait, 1, 4, None))
        clock.advance(wait_s)
    clock.advance(max(0, device.free_ns - clock()) / NS_PER_S)
    edges.settle()
    return timeline, compute, device, clock


def test_where_the_device_idles_between_batches_its_own_windows_are_measured() -> None:
    timeline, compute, device, clock = loop(500, compute_s=0.02, launch_s=0.002, wait_s=0.05)
    starts, ends = device.events[::2], device.events[1::2]
    true = sum(end.time_ns - start.time_ns for start, end in zip(starts, ends, strict=True))
    look = timeline.look()
    assert look.totals[compute] == pytest.approx(true, rel=0.001)
    assert look.counts[1].batches == 500
    assert look.settled == look.now == clock()


def test_where_the_host_runs_ahead_the_edges_are_placed_by_the_devices_clock() -> None:
    timeline, compute, device, _ = loop(300, compute_s=0.03, launch_s=0.001, wait_s=0.0285)
    reader = TimelineReader(timeline)
    for event in device.events[-100:]:
        before, after = reader.at(event.time_ns - 2_000_000)[1], reader.at(event.time_ns + 2_000_000)[1]
        assert compute in (before, after)


def test_what_lies_ahead_is_not_settled_and_is_told_by_the_hosts_time_meanwhile() -> None:
    clock = ManualClock()
    device, timeline = Device(clock), Timeline(clock)
    edges = DeviceEdges(device.record, timing(clock))
    compute, wait = timeline.add_bucket(1), timeline.add_bucket(1)
    timeline.queue.append(("switch", edges(), compute, 0, None, None))
    device.launch(1.0)
    clock.advance(0.1)
    timeline.queue.append(("batches", edges(), wait, 1, 8, None))
    clock.advance(0.3)
    look = timeline.look()
    assert look.settled < look.now == clock()
    assert look.totals[wait] == pytest.approx(0.3 * NS_PER_S, rel=0.001)
    assert look.counts[1].samples == 8
    clock.advance(1.0)
    edges()
    look = timeline.look()
    assert look.totals[compute] == pytest.approx(NS_PER_S, rel=0.001)
    assert look.counts[1].samples == 8


def test_clocks_that_part_over_a_day_are_tied_again() -> None:
    clock = ManualClock()
    device = Device(clock, rate=1 + 15e-6)
    edges = DeviceEdges(device.record, timing(clock))
    edges()
    for _ in range(24 * 60):
        clock.advance(60)
        device.launch(0.01)
        edge = edges()
        clock.advance(0.02)
        edges()
        assert edge is not None
        assert edge.time_ns == pytest.approx(device.events[-2].time_ns, abs=1_000_000)


@pytest.mark.parametrize("failing", ["record", "query", "elapsed_time"])
def test_a_driver_that_fails_leaves_the_loop_to_the_hosts_time(failing: str) -> None:
    clock = ManualClock()
    device, timeline = Device(clock), Timeline(clock)

    def fail(*_: object) -> None:
        msg = "device lost"
        raise RuntimeError(msg)

    def record() -> Event | None:
        event = device.record()
        if len(device.events) > 2:
            if failing == "record":
                fail()
            setattr(event, failing, fail)
        return event

    edges = DeviceEdges(record, timing(clock))
    compute, wait = timeline.add_bucket(1), timeline.add_bucket(1)
    for _ in range(10):
        timeline.queue.append(("switch", edges(), compute, 0, None, None))
        clock.advance(0.2)
        timeline.queue.append(("switch", edges(), wait, 0, None, None))
        clock.advance(0.1)
    edges.settle()
    timeline.forget_edges()
    look = timeline.look()
    assert look.settled == look.now
    assert look.totals[compute] == pytest.approx(2 * NS_PER_S, rel=0.2)


def test_an_edge_that_cannot_be_recorded_now_is_the_hosts() -> None:
    device = Device(ManualClock(), refuses=True)
    assert isinstance(DeviceEdges(device.record, timing(device.clock))(), int)


class PoweredDevice(Device):
    """A device that draws 420 W while it works, and 90 W while it does not."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, rate=1.0)
        self.busy_ns: list[tuple[int, int]] = []

    def launch(self, seconds: float) -> None:
        begin = max(self.free_ns, self.clock())
        super().launch(seconds)
        self.busy_ns.append((begin, self.free_ns))

    def watts(self, time_ns: int) -> float:
        return 420 if any(begin <= time_ns < end for begin, end in self.busy_ns) else 90

    def joules(self, time_ns: int) -> float:
        busy_ns = sum(max(0, min(end, time_ns) - begin) for begin, end in self.busy_ns)
        return (90 * time_ns + 330 * busy_ns) / NS_PER_S


def test_what_a_gpu_does_for_a_batch_is_that_batchs_though_the_host_is_done_with_it_at_once() -> None:
    clock = ManualClock()
    device = PoweredDevice(clock)
    counter = ScriptedCounter(device, clock, period_s=0.02)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False)
    meter.start(LoopDescription(record_event=device.record))
    with meter.stage("train"):
        for i in range(80):
            with meter.batch(samples=4):
                device.launch(0.0313)
            clock.advance(0.06 + 0.0113 * (i % 3))  # the next batch is loaded; refreshes fall at all places of the cycle
    meter.stop()
    train = meter.record.stages["train"]
    assert (train.batches, train.samples) == (80, 320)
    compute, wait = train.phases["compute"], train.phases["data_wait"]
    assert compute.seconds == pytest.approx(80 * 0.0313, rel=0.03)
    assert compute.joules == pytest.approx(420 * 80 * 0.0313, rel=0.05)
    assert wait.joules == pytest.approx(90 * (train.seconds - 80 * 0.0313), rel=0.1)


def test_in_a_pause_after_the_last_batch_no_figure_waits_for_its_edge(tmp_path: Path) -> None:
    clock = ManualClock()
    device = PoweredDevice(clock)
    counter = ScriptedCounter(device, clock, period_s=0.02)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False, output_dir=tmp_path)
    meter.start(LoopDescription(record_event=device.record))
    meter.begin_stage("train")
    start, true_start = meter.point(), device.joules(clock())
    with meter.window() as window:
        for _ in range(10):
            with meter.batch(samples=4):
                device.launch(0.03)
            clock.advance(0.05)
        # The last batch is still under way when the loop begins to wait.
        with meter.batch(samples=4):
            device.launch(0.2)
    true_window = device.joules(clock()) - true_start
    clock.advance(3)
    assert window.joules == pytest.approx(true_window, abs=330 * 0.06)  # the device is read every 50 ms
    assert until(lambda: load_record(tmp_path).total.seconds > 2)  # it is written in the background
    written = load_record(tmp_path).total
    assert written.joules == pytest.approx(90 * written.seconds + 330 * 0.5, rel=0.05)
    true = device.joules(clock()) - true_start
    assert sum(meter.record.stages["train"].devices.values()) == pytest.approx(true, rel=0.03)
    point = meter.point()
    assert sum(point.devices.values()) - sum(start.devices.values()) == pytest.approx(true, abs=330 * 0.06)
    meter.stop()
    assert meter.record.stages["train"].phases["compute"].seconds == pytest.approx(0.5, rel=0.05)


def test_the_first_batch_may_take_long() -> None:
    clock = ManualClock()
    device, timeline = Device(clock), Timeline(clock)
    edges = DeviceEdges(device.record, timing(clock))
    compute, wait = timeline.add_bucket(1), timeline.add_bucket(1)
    for seconds in (10.0, *[0.1] * 10):
        timeline.queue.append(("switch", edges(), compute, 0, None, None))
        device.launch(seconds)
        clock.advance(seconds + 0.001)
        timeline.queue.append(("batches", edges(), wait, 1, 4, None))
        clock.advance(0.05)
    edges()
    true = sum(end.time_ns - start.time_ns for start, end in zip(device.events[:-1:2], device.events[1::2], strict=True))
    assert timeline.look().totals[compute] == pytest.approx(true, rel=0.0001)


def test_nothing_is_asked_while_no_event_can_be_recorded() -> None:
    """As during the capture of a CUDA graph, which a question would spoil."""
    clock = ManualClock()
    device = Device(clock)
    edges = DeviceEdges(device.record, timing(clock))
    device.launch(1.0)
    edges()
    asked = clock()
    device.refuses = True
    assert isinstance(edges(), int)
    assert clock() == asked


def test_another_thread_asks_nothing() -> None:
    clock = ManualClock()
    device = Device(clock)
    edges = DeviceEdges(device.record, timing(clock))
    edges()
    clock.advance(1.0)
    asked = clock()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(edges.resolve).result()
        pool.submit(edges.settle).result()
    assert clock() == asked


def test_a_device_that_never_comes_back_holds_up_the_end_for_a_moment_alone() -> None:
    class Never:
        def query(self) -> bool:
            return False

        def elapsed_time(self, end_event: object, /) -> float:
            raise AssertionError

    clock = ManualClock()
    edges = DeviceEdges(Never, timing(clock))
    timeline = Timeline(clock)
    timeline.queue.append(("switch", edges(), timeline.add_bucket(1), 0, None, None))
    start = clock()
    edges.settle()
    assert 0 < clock() - start < NS_PER_S
    timeline.forget_edges()
    look = timeline.look()
    assert look.settled == look.now


def test_batches_whose_edges_never_pass_neither_pile_up_nor_slow_the_loop() -> None:
    class Never:
        def query(self) -> bool:
            return False

        def elapsed_time(self, end_event: object, /) -> float:
            raise AssertionError

    edges, timeline = DeviceEdges(Never), Timeline(monotonic_clock)
    compute, wait = timeline.add_bucket(1), timeline.add_bucket(1)
    times = []
    for _ in range(6000):
        start = time.perf_counter()
        timeline.queue.append(("switch", edges(), compute, 0, None, None))
        timeline.queue.append(("batches", edges(), wait, 1, 1, None))
        if len(timeline.queue) > LONGEST_QUEUE:
            timeline.drain_queue()
        times.append(time.perf_counter() - start)
    assert len(timeline.queue) <= LONGEST_QUEUE
    assert timeline.look().counts[1].samples == 6000
    assert sorted(times)[3000] < 0.0001
    assert sorted(times[-1000:])[500] < 0.0001
