"""EnergyMeter: which stage and phase is running, how many samples passed; the one object that a callback talks to."""

import atexit
import contextlib
import dataclasses
import logging
import operator
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from ml_energy_callbacks.attribution.ledger import Mark
from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Counts, Stamp, Timeline
from ml_energy_callbacks.backends.discovery import Discovery
from ml_energy_callbacks.carbon import Rates, Site, choose_provider, price_table
from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.job.files import JobFiles
from ml_energy_callbacks.job.job import Gather, Job
from ml_energy_callbacks.job.launcher import launched, scheduled_job
from ml_energy_callbacks.meter.batches import Batch, each_call
from ml_energy_callbacks.meter.devices import Devices
from ml_energy_callbacks.meter.ending import ending, last_exception
from ml_energy_callbacks.meter.gpu_edges import DeviceEdges
from ml_energy_callbacks.meter.idle import measure_idle
from ml_energy_callbacks.meter.loop import LoopDescription, WatchedLoop
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.points import Point, Span, Window, count, run_figures
from ml_energy_callbacks.meter.sampler import Sampler
from ml_energy_callbacks.meter.stages import Stages
from ml_energy_callbacks.meter.summary import State, build_record, known_buckets
from ml_energy_callbacks.metrics import (
    PHASES,
    STAGES,
    Phase,
    Stage,
    StageFigures,
    TotalFigures,
    add_stage_figures,
    add_total_figures,
    stage_metrics,
    total_metrics,
)
from ml_energy_callbacks.record.merge import MERGE_ADVICE, add_records
from ml_energy_callbacks.record.schema import (
    EpochRecord,
    ForecastRecord,
    Run,
    RunRecord,
    Status,
    StoppingRecord,
    add_epoch,
    check_tags,
)
from ml_energy_callbacks.record.storage import Place, as_place

_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger("ml_energy_callbacks")

_LONGEST_INTERVAL_S = 10.0

_FIRST_READ_S = 1.0
"""A run has been read by then, if it ever is."""


class EnergyMeter(MeterOptions):
    """Measure the energy of a loop, split by stage and phase.

    Start and stop it, or use it as a context manager. A meter can be started again: its stages add up in one record.
    One thread drives it; another may read :attr:`record`.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    # What a callback puts into the record.
    forecast: ForecastRecord | None = None
    early_stopping: StoppingRecord | None = None

    # A test's meter has others.
    _timing: Timing = REAL_TIME
    _sampler_type: type[Sampler] = Sampler

    _pid = 0  # of the process that started it

    def __post_init__(self) -> None:
        """Check the options; hardware is not touched before :meth:`start`."""
        super().__post_init__()
        self._devices = Devices(self.devices, self.sample_interval, self.backends, self._timing)
        site = Site(self.pue, self.wue, self.embodied_kg, self.lifetime_years, self.offset_grams)
        provider = choose_provider(self.location, self.carbon_intensity)
        self._rates = Rates(provider, price_table(self.electricity_price), self.currency, site)
        self._tags = check_tags(self.tags)
        self._files = JobFiles(None if self.output_dir is None else as_place(self.output_dir))
        self._timeline = Timeline(self._timing.clock)
        self._queue = self._timeline.queue
        self._stamp: Callable[[], Stamp] = self._timing.clock
        self._stages = Stages(self._timeline)
        self._sampler: Sampler | None = None
        self._loop: WatchedLoop | None = None
        self._edges: DeviceEdges | None = None
        self._epochs: list[EpochRecord] = []
        self._warnings: list[str] = []
        self._earlier: RunRecord | None = None
        self._resolved: frozenset[int] = frozenset()
        self._run: Run | None = None
        self._idle_watts: Mapping[str, float] = {}
        self._early_end: str | None = None
        # All can be entered again: a signal's handler may stop the meter in the middle of one of its own methods.
        self._lock = threading.RLock()
        self._stopping = threading.RLock()
        self._job: Job | None = None

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def started(self) -> bool:
        """Whether it ever measured, so that there is a record."""
        return self._run is not None

    @property
    def discovery(self) -> Discovery:
        """The devices that were found at the last start, and why others were not."""
        return self._devices.found

    @property
    def silent(self) -> frozenset[str]:
        """Ids of the devices that cannot be read now."""
        return self._devices.silent(self._timeline.clock())

    @property
    def running(self) -> bool:
        """Whether it measures now."""
        return self._sampler is not None

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that measures: it has neither the threads nor the run."""
        return self.started and os.getpid() != self._pid

    @property
    def leads(self) -> bool:
        """Whether this process speaks for its job: it is rank 0, or alone."""
        return self._job is None or self._job.leads

    @property
    def reaches_all(self) -> bool:
        """Whether none of its job's processes was found to be unreachable."""
        return self._job is None or self._job.alive or self._job.apart

    @property
    def cost_currency(self) -> str | None:
        """Currency of the cost, or None where no price is known."""
        return self._rates.currency if self._rates.priced else None

    def end_early(self, reason: str | None) -> None:
        """Let the run end as ``stopped``, with the first reason that is given, where it would end as ``completed``.

        Args:
            reason: Why; None takes it back, as when another training begins.
        """
        self._early_end = reason and (self._early_end or reason)

    def start(self, loop: LoopDescription | None = None) -> Self:
        """Open the devices and start to measure; while it measures already, do nothing.

        In a job of several processes each of them has a meter: give the loop a ``gather``, and each device is measured by one
        process of its host alone. The processes exchange what they used in :meth:`close_epoch` and :meth:`share`, which all of
        them have to call, and at the end of a run that completed. Rank 0 writes the job's record, and each process a file of
        its own, ``energy.rank<rank>.json``, until its figures are in that.

        Args:
            loop: What is measured; None for a plain loop in one process.

        Raises:
            ConfigurationError: A device id is unknown, here or in another process of the job, or the output directory cannot be
                written.
        """
        loop = loop or LoopDescription()
        output_dir = loop.output_dir
        with self._stopping:  # wait for a stop in another thread
            if self.running:
                return self
            failure = None
            try:
                self._devices.find(loop.gpus)
            except ConfigurationError as error:
                if loop.gather is None:
                    raise
                failure = error
            launch = launched()
            if output_dir is not None and launch is not None and launch.directory is not None:
                output_dir = launch.directory  # the framework writes to the disk of the worker
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            if self._run is None:
                self._run = Run(
                    id=uuid.uuid4().hex,
                    started_at=now,
                    status="running",
                    framework=loop.framework,
                    hostnames=[socket.gethostname()],
                    world_size=loop.world_size,
                    model=loop.model,
                    tags=self._tags,
                    launcher=None if launch is None else launch.launcher,
                    job_id=scheduled_job() if launch is None else launch.job_id,
                )
            self._run.status, self._run.reason, self._run.ended_at = "running", None, None
            self._join(self._run, loop.gather, failure)
            if loop.gather is None and launch is not None and launch.world_size > loop.world_size:
                self.warn(
                    f"This is process {launch.rank} of {launch.world_size}, and each of them measures all that it sees: give "
                    "EnergyMeter.start a gather, so that each device counts once."
                )
            self._tell_what_was_found()
            self._open_ledgers()
            self._open_files(None if output_dir is None else as_place(output_dir))
            self._pid = os.getpid()
            self._loop = loop.watched
            self._timeline.forget_edges()
            self._edges = None if loop.record_event is None else DeviceEdges(loop.record_event, self._timing)
            self._stamp = self._edges or self._timing.clock
            watch = None if loop.watched is None else partial(self._watch, loop.watched)
            self._sampler = self._sampler_type(
                self._devices.pollers(self._timeline, self._lock), self._timing, self._review, watch
            )
            self._stages.open()
            self._rates.begin(self.point().joules or [], self._timing.now())
            self._sampler.start()
            atexit.register(self._stop_at_exit)
            if self.idle_seconds and not self._idle_watts:
                try:
                    self._measure_idle(self.idle_seconds)
                except BaseException as error:  # Ctrl-C while it waits: nobody would stop what has started
                    self.stop(*ending(error))
                    raise
            return self

    def _join(self, run: Run, gather: Gather | None, failure: ConfigurationError | None) -> None:
        """Join the job's other processes, and leave them the devices that they measure; or go on without them."""
        if gather is None:
            if self._job is not None:
                self._job.continue_alone(self._devices.opened)
            return
        job = self._job or Job(self.warn)
        try:
            job.join(gather, run.id, self._devices.opened, failure)
        except BaseException:
            self._devices.close()
            raise
        if len(job.members) == 1:
            return
        self._job = job
        self._devices.keep(job.measured)
        run.id, run.world_size = job.run_id, len(job.members)
        if not job.leads:
            self._earlier = None  # what the job had before counts once

    def _measure_idle(self, seconds: float) -> None:
        """Learn what the devices draw while nothing of the run works; that time counts nowhere."""
        with self._stages.outside():
            self._idle_watts = measure_idle(self._timeline, self._devices.counted, seconds, self._timing.sleep)
        for name in self._devices.counted:
            if name not in self._idle_watts:
                self.warn(f"The idle power of {name} could not be measured: it was not read all the time.")

    def stop(self, status: Status = "completed", reason: str | None = None) -> None:
        """Stop measuring, close the devices and write the record; a second call does nothing.

        Args:
            status: How the run ended.
            reason: Why it stopped or failed.
        """
        if self.forked:
            return
        with self._stopping:
            sampler = self._sampler
            if sampler is None or self._run is None:
                return
            if self._edges is not None:
                self._edges.settle()
                self._timeline.forget_edges()
            self._stages.close()
            end = self._timeline.look().now
            self._sampler = self._loop = self._edges = None
            self._stamp = self._timing.clock
            hanging = sampler.stop(end)
            if hanging:
                self.warn("A device's driver did not answer when the run ended; what it used last is missing.")
            self._rates.conclude()
            self._follow_rates()
            self._warn_of(self._devices.doubts())
            self._warn_of(self._devices.gaps(end, sum(self._timeline.look().totals[1:]) / NS_PER_S, self.silent))
            early = status == "completed" and self._early_end is not None
            self._run.status, self._run.reason = ("stopped", self._early_end) if early else (status, reason)
            self._run.ended_at = datetime.now().astimezone().isoformat(timespec="seconds")
            if status == "completed":  # after anything else, other processes may never come to tell
                self.share()
            if status != "completed" and self._job is not None and not self._job.apart:
                self.warn(
                    "The job's processes did not end together: of the others there is here what they told at the end of an "
                    f"epoch. {MERGE_ADVICE}"
                )
            kept = self._files.finish()
            if status == "completed" and self._job is not None and self._job.confirm_end(kept=kept):
                self._files.remove_own()
            self._devices.close(hanging)
            atexit.unregister(self._stop_at_exit)  # last: until then, an interpreter that ends waits for this

    def _tell_what_was_found(self) -> None:
        """Tell the user what is missing, and what is assumed."""
        if not self._devices.sources and (self._job is None or not self._job.host_measured):
            self.warn("No device can be read here, so that every energy is unknown.")
        self._warn_of(self._rates.caveats)
        self._warn_of(self._devices.missing())

    def _open_ledgers(self) -> None:
        """Give each device its ledger, and where they were asked for each of the job's shares of devices."""
        pids = None
        if self.scope == "process":
            pids = [os.getpid()] if self._job is None else self._job.pids
            if self._job is not None and self._job.hidden:
                self.warn(
                    f"{self._job.hidden} of the job's processes on this host are in other containers, which hide them: their "
                    "share is missing in that of the job."
                )
        self._devices.open_ledgers(pids)

    def _watch(self, loop: WatchedLoop) -> None:
        """Stop measuring when the loop has gone; called in a thread of the sampler."""
        # While another thread stops the meter, it waits for this one: leave it to that.
        if loop.running() or not self._stopping.acquire(blocking=False):
            return
        try:
            if self._loop is loop:
                self.stop(*loop.ending())
        finally:
            self._stopping.release()

    def __enter__(self) -> Self:
        """Start measuring."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Stop measuring; an exception ends the run as ``stopped`` (Ctrl-C, exit) or ``failed``."""
        self.stop(*ending(error))

    def _stop_at_exit(self) -> None:
        error = last_exception()
        self.stop(*(ending(error) if error else ("stopped", "The interpreter ended before the meter was stopped.")))

    def __getstate__(self) -> dict[str, Any]:
        """Refuse: neither a thread nor a driver's handle survives a pickle.

        Raises:
            TypeError: Always.
        """
        msg = "A running meter cannot be pickled; make a new EnergyMeter with the same options."
        raise TypeError(msg)

    # ---------------------------------------------------------------------------------------------------- stages

    def begin_stage(
        self, stage: Stage, phase: Phase = "data_wait", *, during: Phase = "compute", between: Phase = "data_wait"
    ) -> None:
        """Enter a stage, in this phase; stages nest, and an inner one's time is not the outer one's.

        Args:
            stage: The stage.
            phase: The phase that it begins in.
            during: The phase from a batch's start to its end.
            between: The phase from a batch's end to the next one's start.
        """
        self._stages.begin(stage, phase, during, between)

    def end_stage(self, phase: Phase = "data_wait") -> None:
        """Leave the stage for the one around it, in this phase; outside all, for ``other``."""
        self._stages.end(phase)

    @property
    def phase(self) -> Phase | None:
        """The phase that the running stage is in; None outside a run."""
        return self._stages.phase

    def enter(self, phase: Phase) -> None:
        """Switch to another phase of the stage."""
        self._timeline.switch(self._stages.buckets[phase])

    @contextlib.contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Run the body as this stage; its time outside :meth:`batch` is data wait."""
        self.begin_stage(stage)
        try:
            yield
        finally:
            self.end_stage()

    def batch_start(self) -> None:
        """Begin to compute a batch."""
        self._queue.append((self._stamp(), self._stages.during))

    def batch_end(self, samples: int | None = None, batches: int = 1) -> None:
        """End a batch of so many samples, or of a number that is not known, and wait for data.

        Args:
            samples: Number of samples.
            batches: Number of batches, where the framework runs several as one.
        """
        queue = self._queue
        queue.append((self._stamp(), self._stages.between, batches, samples))
        if len(queue) > LONGEST_QUEUE:
            self._timeline.shorten()

    def batch(self, samples: int | None = None) -> Batch:
        """Return the context of a batch of so many samples.

        Any thread and any asyncio task may use it. While batches overlap, the machine's energy is counted once, and their
        samples share it.
        """
        if samples is not None and (samples.__class__ is not int or samples < 0):
            samples = self._whole(samples)
        return Batch(self._timeline, self._stamp, samples, self._stages.during, self._stages.between)

    def measure(
        self, *, samples: int | Callable[..., int] | None = 1, stage: Stage = "predict"
    ) -> Callable[[_Function], _Function]:
        """Return a decorator: each call of the function, or of the coroutine function, is a batch of this stage.

        Calls in several threads or tasks may overlap, as in :meth:`batch`. What passes between them belongs to the stage around
        them: inside ``with meter.stage("predict"):`` the time that a server waits is among the cost of its predictions.

        Args:
            samples: Number of samples of a call; a function of its arguments that returns that; or None where it is not known.
            stage: The stage.

        Raises:
            ConfigurationError: There is no such stage, or the number of samples is none.
        """
        if samples is not None and not callable(samples) and (type(samples) is not int or samples < 1):
            msg = f"A call of {samples!r} samples is none; give a number above 0, a function of the arguments, or None."
            raise ConfigurationError(msg)
        during = self._stages.tally(stage).buckets["compute"]

        def batch(args: Any, kwargs: Any) -> AbstractContextManager[None]:  # noqa: ANN401
            if self._stages.over or not self.running:
                return contextlib.nullcontext()
            number = self._ask(samples, args, kwargs) if callable(samples) else samples
            return Batch(self._timeline, self._stamp, number, during, self._stages.between)

        return each_call(batch)

    def _ask(self, samples: Callable[..., int], args: Any, kwargs: Any) -> int | None:  # noqa: ANN401
        """Return the number of samples of a call, or None where the user's function fails."""
        try:
            return self._whole(samples(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the user's function; the call goes on
            self.warn(f"The function that counts samples failed ({error!r}), so that energy per sample is unknown.")
            return None

    def _whole(self, samples: Any) -> int | None:  # noqa: ANN401 - as the user gives it
        """Return a number of samples as a plain one, or None where it is none."""
        try:
            whole = operator.index(samples)
        except TypeError:
            whole = -1
        if whole >= 0:
            return whole
        self.warn(f"{samples!r} is no number of samples, so that energy per sample is unknown.")
        return None

    def add_samples(self, stage: Stage, samples: int | None, batches: int = 0) -> None:
        """Count samples that passed elsewhere, or that are known only now.

        Args:
            stage: The stage.
            samples: Their number; None makes the stage's number unknown.
            batches: So many batches whose size was unknown at their end are known with these.
        """
        self._timeline.add_samples(self._stages.tally(stage).group, samples or 0, 1 if samples is None else -batches)

    # ---------------------------------------------------------------------------------------------------- figures

    def point(self) -> Point:
        """Return the state as of now; what was used since a device's last refresh is extrapolated from fitted powers."""
        others = None if self._job is None else self._job.figures_of_others()
        return Point.at(self._timeline.look(), self._devices.counted, self._devices.beside, self._rates, others)

    def metrics(
        self, stage: Stage, since: Point | None = None, until: Point | None = None, *, suffix: str = ""
    ) -> dict[str, float]:
        """Return the metrics of a stage between two points, by their full names, of this process alone.

        Args:
            stage: The stage.
            since: Where the window begins; None for the start of the meter.
            until: Where it ends; None for now.
            suffix: Appended to each name.
        """
        return stage_metrics(stage, self._figures(stage, since, until or self.point()), self._rates.currency, suffix)

    def _figures(self, stage: Stage, since: Point | None, until: Point) -> StageFigures:
        """Return what a stage took in this process between two points."""
        span = Span(self._stages.tally(stage), since, until)
        return span.figures(self._idle_watts, self._resolved, measures=self._measures)

    @property
    def _measures(self) -> bool:
        """Whether energy is missing where this process knows none."""
        return self._job is None or bool(self._devices.counted)

    def close_epoch(self, stage: Stage, index: int, since: Point) -> tuple[dict[str, float], Point]:
        """Note an epoch of a stage that ends now, in the record; in a job of several processes a collective.

        Args:
            stage: The stage.
            index: Number of the epoch.
            since: Where it began.

        Returns:
            The epoch's metrics and the running totals, by their full names, of the whole job, or none where a process cannot be
            reached any more; and the state as it ends.
        """
        self._stages.tally(stage)
        point = self.point()
        self.add_epoch(stage, index, since, point)
        window = self._tell(self._figures(stage, since, point), point)
        if window is None:
            return {}, point
        if self._job is not None:
            point = dataclasses.replace(point, others=self._job.figures_of_others())
        return {**stage_metrics(stage, window, self._rates.currency), **self.totals(point)}, point

    def share(self) -> None:
        """Let the job's processes tell each other what they took so far: a collective; without others, it does nothing."""
        if self._job is not None:
            self._tell(None, self.point())

    def _tell(self, window: StageFigures | None, began: Point) -> StageFigures | None:
        """Tell the job's other processes what this one took up to a point, and hear what they did.

        Returns:
            What the window took in the whole job; None where that is not known.
        """
        job = self._job
        if job is None or job.apart:
            return window
        told = job.exchange_figures(window, self._total_figures(began), self._build_own()) if job.alive else None
        if told is None:
            return None
        self._files.write_own()  # what this process leaves if it dies is no older than what the others know
        if self.running:  # what passes after the end counts nowhere
            ended = self.point()
            used = sum(joules - began.devices[name] for name, joules in ended.devices.items() if name in began.devices)
            job.add_wait((ended.time_ns - began.time_ns) / NS_PER_S, used)
        return add_stage_figures(told) if told else None

    def spent(self, until: Point, *, stage: Stage | None = None, phase: Phase | None = None) -> tuple[float, float]:
        """Return the energy in J and the time in s that went into a stage, or a phase, up to a point; None for all.

        The energy of the job's other processes is among it, as they told it last.
        """
        others = 0.0 if self._job is None else self._job.joules_of_others(stage, phase)
        joules, seconds = until.spent(self._stages.buckets_of(stage, phase))
        return joules + others, seconds

    def counts(self, stage: Stage, since: Point | None = None, until: Point | None = None) -> Counts:
        """Return the batches and samples of a stage between two points; None for the start and for now."""
        tally = self._stages.tally(stage)
        return count(tally, since, (self._timeline.look() if until is None else until).counts)

    def sums(self, until: Point | None = None) -> TotalFigures:
        """Return what the whole run took up to a point, that of a run that this one resumes included; None for now.

        The job's other processes are among it, as they told it last.
        """
        until = until or self.point()
        own = self._total_figures(until)
        return own if until.others is None else add_total_figures([own, until.others])

    def totals(self, until: Point | None = None) -> dict[str, float]:
        """Return the running totals by their full names, as in :meth:`sums`."""
        return total_metrics(self.sums(until), self._rates.currency)

    def _total_figures(self, until: Point) -> TotalFigures:
        """Return what the run took in this process."""
        return run_figures(
            until, self._devices.counted, self._devices.beside, self._rates, self._earlier, measures=self._measures
        )

    def add_epoch(self, stage: Stage, index: int, since: Point, until: Point) -> None:
        """Note an epoch of a stage in the record."""
        epoch = Span(self._stages.tally(stage), since, until).epoch(index)
        self._epochs = add_epoch(self._epochs, epoch)
        if self._job is not None:
            self._job.note_epoch(epoch)

    @contextlib.contextmanager
    def window(self) -> Iterator[Window]:
        """Measure the body; ``window.joules`` holds its energy about 0.1 s after its end, not at once."""
        window = Window(self._mark())
        try:
            yield window
        finally:
            window.end = self._mark()

    def _mark(self) -> Mark:
        with self._lock:
            look = self._timeline.look()
            return self._devices.mark(look) if self.running else Mark(look.now, look.totals)

    # ---------------------------------------------------------------------------------------------------- record

    @property
    def record(self) -> RunRecord:
        """The record as of now, or as of the end of the run.

        Raises:
            ConfigurationError: The meter was never started.
        """
        return self._build()

    @property
    def record_path(self) -> Path | str | None:
        """Where the record is written: a path, or a URL where ``output_dir`` is one; None where it is not written.

        While a URL cannot be written, it is the path of the local file that is written in its place.
        """
        return self._files.path

    def resume(self, earlier: RunRecord) -> None:
        """Go on from the record of an interrupted run: its stages, devices and totals add to this one's.

        A record of this very run is ignored: its joules are in here already. So is one that was killed before its devices were
        read for the first time.
        """
        if not self.leads:
            return
        unread = earlier.total.joules is None and earlier.total.seconds < _FIRST_READ_S
        if earlier.run.id not in self._own_ids() and not unread:
            self._earlier = earlier

    def _own_ids(self) -> set[str]:
        runs = (self._run, self._earlier.run if self._earlier else None)
        return {run.id for run in runs if run is not None}

    def warn(self, message: str) -> None:
        """Tell the user something, once: on the log and in the record."""
        if message not in self._warnings:
            self._warnings.append(message)
            if self.verbose and self.leads:
                _log.warning(message)

    def _warn_of(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.warn(message)

    def _build(self) -> RunRecord:
        own = self._build_own()
        if self._job is not None:
            return self._job.merge_record(own)
        return own if self._earlier is None else add_records(self._earlier, own)

    def _build_own(self) -> RunRecord:
        """Return what this process measured, and not a run before it."""
        if self._run is None:
            msg = (
                "There is no record yet in this process: start the meter first. What another process measured, as with "
                "ddp_spawn, load_record() reads from its run file."
            )
            raise ConfigurationError(msg)
        with self._lock:
            look = self._timeline.look()
            totals = [*look.totals, *[0] * len(PHASES) * len(STAGES)]
            tallies = [t for t in self._stages.tallies if any(totals[b] for b in t.buckets.values())]
            state = State(
                look.now,
                totals,
                look.counts,
                list(self._devices.counted.values()),
                tallies,
                self._epochs,
                self._warnings,
                whole_machine=self._devices.whole_machine,
                shares=self._devices.shares if self.scope == "process" else None,
                unshared=self._devices.unshared,
                idle_watts=self._idle_watts,
                latencies={t.group: times for t in tallies if (times := self._timeline.latencies(t.group)) is not None},
            )
            record = build_record(replace(self._run), state, self._rates)
        self._resolved = known_buckets(record, tallies)
        record.forecast, record.early_stopping = self.forecast, self.early_stopping
        record.part = None if self._job is None else self._job.make_part(self._earlier)
        return record

    def _review(self) -> None:
        """Write what is known so far; called in a thread of the sampler."""
        self._follow_rates()
        self._warn_of(self._devices.doubts())
        self._files.write()

    def _follow_rates(self) -> None:
        """Settle what the energy so far amounts to, where an intensity ended, and tell what the grams are by."""
        joules = self.point().joules
        if joules is not None:
            with self._lock:
                self._rates.follow(joules, self._timing.now())
        self._warn_of(self._rates.caveats)

    def _open_files(self, framework_dir: Place | None) -> None:
        """Write the first record, in all processes of a job or in none."""
        failure = None
        try:
            self._files.open(
                framework_dir, self._job, self._own_ids(), build=self._build, build_own=self._build_own, warn=self.warn
            )
        except ConfigurationError as error:
            failure = error
        try:
            self._agree(failure)
        except BaseException:
            self._devices.close()
            self._files.remove_own()
            raise

    def _agree(self, failure: ConfigurationError | None) -> None:
        if self._job is not None and self._job.alive:
            self._job.agree_to_start(failure)
        elif failure is not None:
            raise failure
