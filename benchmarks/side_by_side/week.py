"""A long run under a manual clock: drives the core as the meter does, with an epoch each minute, and writes the record."""

import time
from pathlib import Path
from typing import Any

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.carbon import Rates, Site, choose_provider
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.points import Point, Span
from ml_energy_callbacks.meter.sampler import REVIEW_NS, Poller
from ml_energy_callbacks.meter.summary import State, Tally, build_record
from ml_energy_callbacks.metrics import OUTSIDE, PHASES
from ml_energy_callbacks.record.epochs import add_epoch, divide_epochs
from ml_energy_callbacks.record.limits import limit_size
from ml_energy_callbacks.record.load import encode_record, load_record
from ml_energy_callbacks.record.schema import FILE_NAME, EpochRecord, Run, RunRecord
from ml_energy_callbacks.record.storage import LocalFile
from ml_energy_callbacks.testing import ManualClock, ScriptedCounter, SquareCurve

EPOCH_S = 60.0
CYCLE_S, DUTY = 0.97, 2 / 3
"""Duration of a batch with the wait for its data, and the fraction of computing in it."""
WATTS = (90.0, 420.0)
SAMPLES = 32
LAST_STEP_S = 0.005
"""Interval at which a stopping meter checks whether the counter was refreshed."""


class _Run:
    """The core, with one GPU."""

    def __init__(self, interval_s: float) -> None:
        self.clock = ManualClock()
        self.start_ns = self.clock()
        self.curve = SquareCurve(*WATTS, CYCLE_S, DUTY)
        counter = ScriptedCounter(self.curve, self.clock, offset_s=0.037)
        self.timeline = Timeline(self.clock)
        self.tally = Tally("train", 1, {phase: self.timeline.add_bucket(1) for phase in PHASES})
        self.ledger = Ledger(counter.device, interval_s)
        self.poller = Poller([(counter, self.ledger)], self.timeline, interval_s)
        self.rates = Rates(choose_provider(None, 400.0), None, "USD", Site())
        self.epochs: list[EpochRecord] = []
        self._ended = 0
        self._before: Point | None = None

    def start(self) -> None:
        """Wait for the first refreshes, as the meter does, so that there is a value to report."""
        self.start_ns = self.timeline.switch(self.tally.buckets["other"])
        while not self.poller.ready:
            self.poll_until(self.poller.next_poll + 1)

    def stop(self) -> int:
        """Wait for the refresh that follows the end, as the meter does; return the end in ns."""
        ended = self.timeline.switch(OUTSIDE)
        while not self.poller.known_until(ended):
            self.clock.advance(LAST_STEP_S)
            self.poller.poll(ended)
        self.poller.close()
        return ended

    def poll_until(self, instant: int) -> None:
        """Poll whenever a poll is due, up to an instant in ns."""
        while self.poller.next_poll < instant:
            self.clock.now_ns = max(self.clock.now_ns, self.poller.next_poll)
            self.poller.poll()
        self.clock.now_ns = max(self.clock.now_ns, instant)

    def end_epoch(self) -> None:
        """Record an epoch as the meter does, with two metrics."""
        point = Point.at(self.timeline.look(), {self.ledger.device.id: self.ledger}, {}, self.rates, None)
        metrics = {"train_loss": 1 / (1 + self._ended), "train_accuracy": 1 - 1 / (2 + self._ended)}
        epoch = Span(self.tally, self._before, point).epoch(self._ended, metrics)
        self.epochs = add_epoch(self.epochs, epoch)
        self._before, self._ended = point, self._ended + 1

    def record(self) -> RunRecord:
        """Return the current record."""
        self.ledger.fit()
        look = self.timeline.look()
        state = State(look.now, look.totals, look.counts, [self.ledger], [self.tally], self.epochs)
        run = Run(id="week", started_at="2026-01-01T00:00:00+00:00", status="completed", framework="none", hostnames=["host"])
        return limit_size(divide_epochs(build_record(run, state, self.rates)))


def play_week(folder: Path, seconds: float, interval_s: float) -> dict[str, Any]:
    """Simulate a run of this length and polling interval; return the size of its file, its errors, and the cost of a review."""
    run = _Run(interval_s)
    run.start()
    wait, compute = run.tally.buckets["data_wait"], run.tally.buckets["compute"]
    next_epoch = run.start_ns + round(EPOCH_S * NS_PER_S)
    first = int(run.clock() / NS_PER_S / CYCLE_S) + 1
    batches = round(seconds / CYCLE_S)
    for cycle in range(first, first + batches):
        began = round(cycle * CYCLE_S * NS_PER_S)
        run.poll_until(began)
        run.timeline.switch(compute)
        run.poll_until(began + round(DUTY * CYCLE_S * NS_PER_S))
        run.timeline.queue.append(("batches", run.timeline.clock(), wait, 1, SAMPLES, None))
        if run.clock() >= next_epoch:
            run.end_epoch()
            next_epoch += round(EPOCH_S * NS_PER_S)
    ended = run.stop()
    begun = time.perf_counter()
    record = run.record()
    LocalFile(folder / FILE_NAME).write(encode_record(record))
    review_s = time.perf_counter() - begun
    load_record(folder)
    true = run.curve.joules(ended) - run.curve.joules(run.start_ns)
    true_seconds = (ended - run.start_ns) / NS_PER_S
    stage = record.stages["train"]
    return {
        "bytes": (folder / FILE_NAME).stat().st_size,
        "epochs": sum(epoch.epochs for epoch in record.epochs),
        "joules": record.total.joules,
        "error_joules": record.total.joules - true,
        "error_seconds": record.total.seconds - true_seconds,
        "missing_batches": batches - stage.batches,
        "slices": len(next(iter(record.power.values())).mean),
        "review_percent": 100 * review_s * NS_PER_S / REVIEW_NS,
    }
