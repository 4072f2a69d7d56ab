"""The life of a meter: it starts, measures and stops, alone or as one of a job's processes."""

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from ml_energy_callbacks import safe_text
from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.steps import BREATH_S
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.backends.discovery import Discovery, discover
from ml_energy_callbacks.carbon import Rates, Site, choose_provider, price_table
from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.job.files import JobFiles
from ml_energy_callbacks.job.job import Gather, Job
from ml_energy_callbacks.job.launcher import Launch, enclosing_run, launched, scheduled_job
from ml_energy_callbacks.meter.devices import Devices, no_threads
from ml_energy_callbacks.meter.ending import ending, last_exception
from ml_energy_callbacks.meter.gpu_edges import DeviceEdges
from ml_energy_callbacks.meter.idle import measure_idle
from ml_energy_callbacks.meter.loop import LoopDescription, WatchedLoop
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.points import Point, run_figures
from ml_energy_callbacks.meter.recorder import Recorder
from ml_energy_callbacks.meter.run_warnings import Warnings
from ml_energy_callbacks.meter.sampler import Sampler
from ml_energy_callbacks.meter.stage_flops import StageFlops
from ml_energy_callbacks.meter.stages import Stages
from ml_energy_callbacks.meter.summary import State, build_record, phases_by_bucket
from ml_energy_callbacks.meter.unforeseen import in_words, note_handlers, pass_users_error
from ml_energy_callbacks.meter.versions import used_versions
from ml_energy_callbacks.metrics import StageFigures, TotalFigures, add_stage_figures
from ml_energy_callbacks.record.epochs import add_epoch, add_metrics, divide_epochs, limit_epochs
from ml_energy_callbacks.record.limits import limit_size
from ml_energy_callbacks.record.merge import MERGE_ADVICE, add_records
from ml_energy_callbacks.record.schema import (
    EpochRecord,
    ForecastRecord,
    PhaseRecord,
    RawReadings,
    Run,
    RunRecord,
    Status,
    StoppingRecord,
)
from ml_energy_callbacks.record.storage import Place, absolute, as_place, local_path, public_text
from ml_energy_callbacks.record.utf8 import in_utf8

if TYPE_CHECKING:
    from ml_energy_callbacks.attribution.device_fit import FitTask
    from ml_energy_callbacks.readings import Source

_log = logging.getLogger("ml_energy_callbacks")

_FIRST_READ_S = 1.0
"""Every device that can be read has been read by then."""


class Follower(Protocol):
    """Shows a run while it goes on."""

    def __call__(self, build: Callable[[], RunRecord], *, last: bool) -> None:
        """Show the record that ``build`` returns, if it is time to; called every few seconds in a thread of the meter's.

        Args:
            build: Returns the record as of now.
            last: Whether the run has ended, so that no other call follows.
        """


class Session:
    """Open the devices, join the job, read the devices, and write the record, from start to stop.

    It is stopped by a call of :meth:`stop`, by the end of the loop that it watches, or by the exit of the interpreter.
    :meth:`point` and :meth:`build` return what was measured so far, at any time and in any thread.

    Attributes:
        timeline: Time, batches and samples so far.
        stages: The stages on the timeline.
        devices: The devices and their energy.
        rates: Emissions and cost.
        job: The processes of the job; None if this process was never one of several.
        idle_watts: Idle power of each device in W by its id, if it was measured.
        parts_reason: Why the batches of the training have no parts although they were asked for; else None.
        verbose: Whether the user is told of warnings, and of what the run used.
        flops: FLOPs of a sample in each stage.
        phases: The phases in the last record, by their buckets on the timeline.
        forecast: The forecast for the record, or None.
        early_stopping: The state of early stopping for the record, or None.
        latest_forecast: The newest forecast, for those who follow the run, or None.
        followers: Who is shown the record of this loop from time to time.

    Args:
        options: The meter's options.
        timing: Clocks, waiting and time limits.
        sampler_type: Makes the sampler that reads the devices, as the class does.
        find: Finds the devices, as :func:`ml_energy_callbacks.backends.discovery.discover` does.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def __init__(
        self,
        options: MeterOptions,
        timing: Timing = REAL_TIME,
        sampler_type: Callable[..., Sampler] = Sampler,
        find: Callable[..., Discovery] = discover,
    ) -> None:
        """Check the options; hardware is not touched before :meth:`start`."""
        self._scope, self._idle_seconds, self.verbose = options.scope, options.idle_seconds, options.verbose
        self._timing = timing
        self._sampler_type = sampler_type
        self._interval_s = options.sample_interval
        self.devices = Devices(options.devices, options.sample_interval, options.backends, timing, find)
        site = Site(options.pue, options.wue, options.embodied_kg, options.lifetime_years, options.offset_grams)
        provider = choose_provider(options.location, options.carbon_intensity)
        self.rates = Rates(provider, price_table(options.electricity_price), options.currency, site)
        self._tags, self._chosen = dict(options.tags or {}), options.chosen()
        self._files = JobFiles(None if options.output_dir is None else as_place(options.output_dir))
        self._recording = None if options.recording is None else local_path(options.recording)
        self._keeps_raw = options.raw_readings
        self._unkept: str | None = None  # why raw readings are not kept
        self._recorded: tuple[int, Recorder] | None = None  # process and recorder of the last recording
        self._recorder: Recorder | None = None
        self.timeline = Timeline(timing.clock)
        self.stages = Stages(self.timeline)
        self.job: Job | None = None
        self.idle_watts: Mapping[str, float] = {}
        self.flops = StageFlops(options.flops_per_sample)
        self.parts_reason: str | None = None
        self.phases: Mapping[int, PhaseRecord] = {}
        self.forecast: ForecastRecord | None = None
        self.early_stopping: StoppingRecord | None = None
        self.latest_forecast: ForecastRecord | None = None
        self.followers: list[Follower] = []
        self._sampler: Sampler | None = None
        self._owner: object = None
        self._loop: WatchedLoop | None = None
        self._repeats = False
        self._edges: DeviceEdges | None = None
        self._epochs: list[EpochRecord] = []
        self._warnings = Warnings()
        self._erred = False
        self._earlier: RunRecord | None = None
        self._run: Run | None = None
        self._pid = 0  # the process that started it
        self._early_end: str | None = None
        self._opening = False  # whether a start opens its files
        self._unwritten = False  # whether a start has begun and the last record is not written yet
        self._hanging: Sequence[Source] = ()
        self._answering = True
        # Both are reentrant: a signal handler may stop the meter during one of the meter's own methods.
        self._lock = threading.RLock()
        self._stopping = threading.RLock()

    # ---------------------------------------------------------------------------------------------------- state

    @property
    def started(self) -> bool:
        """Whether it has ever measured, so that there is a record."""
        return self._run is not None

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
        """Whether this process is rank 0 of its job, or alone."""
        return self.job is None or self.job.leads

    @property
    def measures(self) -> bool:
        """Whether this process has devices to measure: in a job, another process of the host may measure all."""
        return self.job is None or bool(self.devices.counted)

    @property
    def record_path(self) -> Place | None:
        """Path or URL of the record; None if this process does not write it."""
        return self._files.path

    # ---------------------------------------------------------------------------------------------------- start

    def start(self, loop: LoopDescription, owner: object) -> None:
        """Open the devices and start to measure; do nothing if it already measures.

        Args:
            loop: What is measured.
            owner: Object to keep alive until the stop: the meter, to which sinks have only weak references.

        Raises:
            ConfigurationError: A device id is unknown, here or in another process of the job, or the output directory cannot be
                written.
        """
        with self._stopping:  # wait for a stop in another thread
            if self.running:
                return
            # Its NumPy takes 0.1 s to import; if that fails, nothing has been opened yet.
            import ml_energy_callbacks.attribution.device_fit  # noqa: F401, PLC0415

            note_handlers()
            failure = None
            try:
                self.devices.open(loop.gpus, loop.accelerator)
            except ConfigurationError as error:
                if loop.gather is None:
                    raise
                failure = error
            launch = launched()
            run = self._run = self._begin_run(loop, launch)
            self._join(run, loop.gather, failure)
            if loop.gather is None and launch is not None and launch.world_size > loop.world_size:
                self.warn(
                    f"This is process {launch.rank} of {launch.world_size}, and each measures every device that it sees: "
                    "start the meter with LoopDescription(gather=...), so that each device is counted once."
                )
            self._warn_of_missing_devices()
            self._open_ledgers()
            output_dir = loop.output_dir
            if output_dir is not None and launch is not None and launch.directory is not None:
                output_dir = launch.directory  # the framework writes to the disk of the worker
            self._pid, self._owner = os.getpid(), owner
            self._unwritten, self._repeats = True, False
            try:
                self._opening = True
                try:
                    self._open_files(None if output_dir is None else as_place(output_dir), launch)
                finally:
                    self._opening = False
                if run.status != "running":  # a signal handler has stopped it
                    self.stop(run.status, run.reason)
                    return
                atexit.register(self._stop_at_exit)  # which then runs before what the package of a store has registered
                self._start_measuring(loop, run)
            except BaseException as error:  # such as Ctrl-C while it waits: what has started has to be stopped
                self.stop(*ending(error))
                raise

    def _start_measuring(self, loop: LoopDescription, run: Run) -> None:
        """Begin the run and its readings, and measure the idle power where that was asked for."""
        self._loop = loop.watched
        self._repeats = loop.repeats and loop.gather is None  # a job's processes share the devices out at each start
        self.timeline.forget_edges()
        self._edges = None if loop.record_event is None else DeviceEdges(loop.record_event, self._timing)
        self.timeline.stamp = self._edges or self._timing.clock
        watch = None if loop.watched is None else partial(self._watch, loop.watched)
        sampler = self._sampler = self._sampler_type(
            self.devices.pollers(self.timeline, self._lock, self._recorder),
            self._timing,
            self._review,
            watch,
            self.warn_of_error,
        )
        _MEASURING.add(self)
        counts = self.timeline.look().counts
        self.flops.begin({tally.name: tally.count(counts) for tally in self.stages.tallies})
        began = self.stages.open()
        if self._sampler is not sampler:  # a signal handler has stopped it
            self.stages.close()
            return
        self._record(began, run)
        self.rates.begin(self.point().joules or [], self._timing.now())
        unread = sampler.start()
        if unread:
            self.warn(no_threads(", ".join(source.device.id for source in unread)))
        if self._idle_seconds and not self.idle_watts:
            self._measure_idle(self._idle_seconds)

    def _begin_run(self, loop: LoopDescription, launch: Launch | None) -> Run:
        """Return the run of the first start, marked as running."""
        run = self._run or Run(
            id=uuid.uuid4().hex,
            started_at=self._now(),
            status="running",
            framework=loop.framework,
            hostnames=[socket.gethostname()],
            world_size=loop.world_size,
            model=loop.model,
            tags=self._tags,
            launcher=None if launch is None else launch.launcher,
            job_id=scheduled_job() if launch is None else launch.job_id,
            within=enclosing_run(),
            versions=used_versions(),
            options=self._chosen,
        )
        run.status, run.reason, run.ended_at = "running", None, None
        return run

    def _join(self, run: Run, gather: Gather | None, failure: ConfigurationError | None) -> None:
        """Join the job's other processes and close the devices that they measure, or continue without them."""
        if gather is None:
            if self.job is not None:
                self.job.continue_alone(self.devices.opened)
            return
        job = self.job or Job(self.warn)
        try:
            job.join(gather, run.id, self.devices.opened, failure)
        except BaseException:
            self.devices.close()
            raise
        if len(job.members) == 1:
            return
        self.job = job
        self.devices.close_others(job.measured)
        run.id, run.world_size = job.run_id, len(job.members)
        if not job.leads:
            self._earlier = None  # rank 0 adds what the job had measured before

    def _warn_of_missing_devices(self) -> None:
        """Warn of devices that are missing, and of what is assumed."""
        if not self.devices.sources and (self.job is None or not self.job.host_measured):
            self.warn(f"No device can be read {self.devices.found.place}: energy is unknown.")
        self._warn_all(self.rates.caveats)
        self._warn_all(self.devices.missing_warnings())

    def _open_ledgers(self) -> None:
        """Open the ledger of each device, and with ``scope="process"`` those of the job's shares of devices."""
        pids = None
        if self._scope == "process":
            pids = [os.getpid()] if self.job is None else self.job.pids
            if self.job is not None and self.job.hidden:
                self.warn(
                    f"{self.job.hidden} of the job's processes on this host run in other containers and cannot be seen: they "
                    "are not included in the job's share."
                )
        self.devices.open_ledgers(pids)

    def _open_files(self, framework_dir: Place | None, launch: Launch | None) -> None:
        """Write the first record and open the recording, in all processes of a job or in none."""
        failure = None
        try:
            self._open_recording(framework_dir, launch)
            self._files.open(
                framework_dir, self.job, self._own_ids(), build=self.build, build_own=self._build_own, warn=self.warn
            )
        except ConfigurationError as error:
            failure = error
        try:
            self._agree(failure)
        except BaseException:
            self.devices.close()
            self._files.remove_own()
            self._end_recording()
            raise

    def _open_recording(self, framework_dir: Place | None, launch: Launch | None) -> None:
        """Open the file of the recording, if there is to be one; at a further start, a failure is a warning.

        A failure of the one beside the record is always a warning.
        """
        path = self._recording_path(framework_dir, launch)
        if path is None:
            return
        before = None
        if self._recorded is not None and self._recorded[0] == os.getpid() and self._recorded[1].path == path:
            before = self._recorded[1]
        try:
            self._recorder = Recorder(path, self.warn, self.stages.place_of, before)
        except ConfigurationError as error:
            if self._recorded is None and not self._keeps_raw:
                raise
            self._unkept = str(error)
            self.warn(str(error))

    def _recording_path(self, framework_dir: Place | None, launch: Launch | None) -> Path | None:
        """Return the file of the recording, or None for none."""
        rank = self.job.rank if self.job is not None else launch.rank if launch is not None and launch.world_size > 1 else None
        number = "" if rank is None else f".rank{rank}"
        if self._recording is not None:
            path = self._recording = Path(absolute(self._recording))
            return path.with_name(f"{path.stem}{number}{path.suffix}")
        if not self._keeps_raw or self._run is None:
            return None
        folder = self._files.folder(framework_dir)
        if not isinstance(folder, Path):
            self._unkept = "No raw readings are kept, as the record is in no directory of this machine: set output_dir to one."
            self.warn(self._unkept)
            return None
        path = folder / f"energy-{self._run.id[:8]}{number}.readings.jsonl.gz"  # each run has its own beside its record
        if self._recorded is not None and self._recorded[1].path != path:
            self._unkept = "The run went on in another directory."
        return path if self._unkept is None else None

    def _raw_readings(self) -> list[RawReadings]:
        """Return what the record of this process says of its raw readings."""
        rank = None if self.job is None else self.job.rank
        if self._unkept is not None:
            return [RawReadings(rank=rank, reason=self._unkept)]
        return [self._recorded[1].kept(rank)] if self._keeps_raw and self._recorded is not None else []

    def _record(self, began: int, run: Run) -> None:
        """Begin to record the run, which began at this clock in ns."""
        if self._recorder is not None:
            self._recorded = os.getpid(), self._recorder
            self._recorder.start(
                began,
                outside_ns=self.timeline.began_ns,
                run_id=run.id,
                started_at=run.started_at,
                framework=run.framework,
                sample_interval=self._interval_s,
                devices=self.devices.opened,
                incomplete=self.devices.incomplete,
            )
            self.timeline.journal = self._recorder.add_event

    def _end_recording(self) -> None:
        """Write what waits for the file of the recording."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            self.timeline.journal = None
            recorder.finish()

    def _agree(self, failure: ConfigurationError | None) -> None:
        """Start in all processes of a job or in none."""
        if self.job is not None and self.job.alive:
            self.job.agree_to_start(failure)
        elif failure is not None:
            raise failure

    def _measure_idle(self, seconds: float) -> None:
        """Measure the devices' idle power; that time is not counted."""
        with self.stages.outside():
            self.idle_watts = measure_idle(self.timeline, self.devices.counted, seconds, self._timing.sleep)
        if self._recorder is not None:
            with self._lock:  # as readings are added: the lines are in the order of their times
                self._recorder.add_idle(self._timing.clock(), self.idle_watts)
        for name in self.devices.counted:
            if name not in self.idle_watts:
                self.warn(f"The idle power of {name} could not be measured: some reads failed.")

    # ---------------------------------------------------------------------------------------------------- stop

    def stop(self, status: Status = "completed", reason: str | None = None) -> None:
        """Stop measuring, close the devices and write the record; a second call does nothing.

        Args:
            status: How the run ended.
            reason: Why it stopped or failed.
        """
        if self.forked:
            return
        with self._stopping:
            sampler, run = self._sampler, self._run
            if run is None or not (sampler is not None or self._unwritten):
                return
            if self._opening:  # a signal handler, in the middle of start(), which then does the rest
                run.status, run.reason = status, reason and safe_text.message(reason)
                return
            # Each step on its own: whatever goes wrong in one, the record is written and the devices are closed.
            try:
                if run.status == "running":
                    early = status == "completed" and self._early_end is not None
                    run.status, run.reason = (
                        ("stopped", self._early_end) if early else (status, reason and safe_text.message(reason))
                    )
                if sampler is not None:
                    self._stop_measuring(sampler, run)
                    with self._unharmed():
                        self._exchange_last(status)
                with self._unharmed():
                    self._end_recording()  # also where it was interrupted before anything was read
            finally:  # a further Ctrl-C ends what comes before: the record is written all the same
                run.ended_at = run.ended_at or self._now()
                kept = False
                with self._unharmed():
                    kept = self._files.finish()
                self._unwritten = False
            self._show_followers(last=True)
            self.followers.clear()
            with self._unharmed():
                if status == "completed" and self.job is not None and self.job.confirm_end(kept=kept):
                    self._files.remove_own()
            with self._unharmed():
                if self._repeats and self._answering and not self._hanging:
                    self.devices.rest()
                else:
                    self.devices.close(self._hanging)
            self._owner = None
            atexit.unregister(self._stop_at_exit)  # last: until then, an interpreter that ends waits for this

    def _stop_measuring(self, sampler: Sampler, run: Run) -> None:
        """End the readings, and settle what was measured."""
        with self._unharmed():
            if self._edges is not None:
                self._edges.settle()
                self.timeline.forget_edges()
        self.stages.close()
        end = self.timeline.look().now
        if self._recorder is not None:
            with self._lock:
                self._recorder.stop(self._timing.clock(), run.status)
        self._sampler = self._loop = self._edges = None
        self.timeline.stamp = self._timing.clock
        self._answering = not self.devices.silent(end)
        try:
            with self._unharmed():
                self._hanging = sampler.stop(end)
        finally:  # a further Ctrl-C ends the waiting alone
            _MEASURING.discard(self)  # its threads have ended
            with self._unharmed():
                self._fit()
            with self._unharmed():
                self._settle_rates(last=True)
            with self._unharmed():
                self._end_recording()
        with self._unharmed():
            self._warn_of_devices()
        run.ended_at = self._now()

    def _warn_of_devices(self) -> None:
        """Warn of devices that could not be read or trusted up to the end."""
        if self._hanging:
            self.warn("A device's driver did not respond at the end of the run; the last energy of the device is not included.")
        self._warn_all(self.devices.counter_warnings(ended=True))
        self._warn_all(self.devices.gap_warnings(sum(self.timeline.look().totals[1:])))

    def _exchange_last(self, status: Status) -> None:
        """Exchange the last figures with the job's other processes where they get here, too."""
        if self.job is None:
            return
        if status == "completed":  # otherwise, other processes may never get here
            self.exchange({}, self.point())
        elif not self.job.apart:
            self.warn(
                "The job's processes did not end together: the figures of the others are those of the end of an epoch. "
                f"{MERGE_ADVICE}"
            )

    def wait_for_stop(self) -> None:
        """Wait for the end of a stop in another thread, such as the one that watches the loop."""
        with self._stopping:
            pass

    def end_early(self, reason: str | None) -> None:
        """Let the run end as ``stopped`` instead of ``completed``; of several reasons, the first one is recorded.

        Args:
            reason: Why it stops; None undoes this.
        """
        self._early_end = reason and (self._early_end or reason)

    def _watch(self, loop: WatchedLoop) -> None:
        """Stop measuring when the loop has gone; called in a thread of the sampler."""
        with self._unharmed():
            # While another thread stops the meter, it waits for this one: leave it to that.
            if loop.running() or not self._stopping.acquire(blocking=False):
                return
            try:
                if self._loop is loop:
                    self.stop(*loop.ending())
            finally:
                self._stopping.release()

    def _stop_at_exit(self) -> None:
        error = last_exception()
        end = partial(
            self.stop, *(ending(error) if error else ("stopped", "The interpreter ended before the meter was stopped."))
        )
        try:
            end()
        except KeyboardInterrupt:  # a further Ctrl-C, while the interpreter ends already
            end()
            raise

    def stay_behind(self) -> None:
        """Measure nothing: this process is a fork of the one that does, and has no thread that would free a lock."""
        self._lock = threading.RLock()
        self.timeline.discard()

    @property
    def in_framework(self) -> bool:
        """Whether the loop of a framework is measured now."""
        return self.running and self._run is not None and self._run.framework != "none"

    # ---------------------------------------------------------------------------------------------------- what was measured

    def point(self) -> Point:
        """Return the present state; the energy since a device's last refresh is extrapolated from fitted powers."""
        others = None if self.job is None else self.job.figures_of_others()
        return Point.at(self.timeline.look(), self.devices.counted, self.devices.beside, self.rates, others)

    def mark(self) -> Mark:
        """Return a mark at the present instant; the energy up to it is added once the devices have refreshed."""
        with self._lock:
            look = self.timeline.look()
            return self.devices.mark(look) if self.running else Mark(look.now, look.totals)

    def total_figures(self, until: Point) -> TotalFigures:
        """Return the figures of the run up to a point, of this process alone, including the run that it resumes."""
        return run_figures(
            until,
            self.devices.counted,
            self.devices.beside,
            self.rates,
            self._earlier,
            measures=self.measures,
            incomplete=self.devices.incomplete,
        )

    def add_epoch(self, epoch: EpochRecord) -> None:
        """Add an epoch to the record."""
        if self._recorder is not None:
            with self._lock:
                self._recorder.add_epoch(self._timing.clock(), epoch)
        epochs = add_epoch(self._epochs, epoch)
        if self.job is None:
            self._epochs = limit_epochs(epochs)  # here, as it then costs nothing each time a record is built
        else:
            self._epochs = epochs
            self.job.note_epoch(epoch)

    def add_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to the last epoch of a stage in the record."""
        self._epochs = add_metrics(self._epochs, stage, metrics)

    def exchange(self, windows: dict[str, StageFigures], began: Point) -> dict[str, StageFigures] | None:
        """Exchange figures with the job's other processes: a collective; without others, it does nothing.

        Args:
            windows: Figures of an epoch in this process, by its stage and the sub-stages that ran, or none.
            began: The state up to which this process reports.

        Returns:
            Figures of the epoch in the whole job, in the same way; None if they are unknown.
        """
        job = self.job
        if job is None or job.apart:
            return windows
        each = job.exchange_figures(windows, self.total_figures(began), self._build_own()) if job.alive else None
        if each is None:
            return None
        self._files.write_own()  # if this process dies, its file is as recent as what the others know
        if self.running:  # time after the end is not counted
            ended = self.point()
            used = sum(joules - began.devices[name] for name, joules in ended.devices.items() if name in began.devices)
            job.add_wait((ended.time_ns - began.time_ns) / NS_PER_S, used)
        names = dict.fromkeys(name for found in each for name in found)
        return {name: add_stage_figures([found[name] for found in each if name in found]) for name in names}

    # ---------------------------------------------------------------------------------------------------- record

    def build(self) -> RunRecord:
        """Return the record as of now, or as of the end of the run.

        Raises:
            ConfigurationError: The meter was never started.
        """
        self._fit()
        own = self._build_own()
        if self.job is not None:
            return limit_size(self.job.merge_record(own))
        own = divide_epochs(own)
        return limit_size(own if self._earlier is None else add_records(self._earlier, own))

    def _build_own(self) -> RunRecord:
        """Return the record of this process alone, without the run that it resumes, by the last fits.

        In a job, the loop's thread waits for it at the end of each epoch.
        """
        if self._run is None:
            msg = (
                "There is no record yet in this process: start the meter first. To read what another process measured, as "
                "with ddp_spawn, call load_record() with its run file."
            )
            raise ConfigurationError(msg)
        with self._lock:
            look = self.timeline.look()
            tallies = [tally for tally in self.stages.tallies if any(tally.by_phase(look.totals).values())]
            groups = [group for tally in tallies for group in tally.groups]
            state = State(
                look.now,
                look.totals,
                look.counts,
                list(self.devices.counted.values()),
                tallies,
                self._epochs,
                self._warnings.listed,
                whole_machine=self.devices.whole_machine,
                incomplete=self.devices.incomplete,
                shares=self.devices.shares if self._scope == "process" else None,
                unshared=self.devices.unshared,
                idle_watts=self.idle_watts,
                flops={tally.name: self.flops.record(tally.name, tally.count(look.counts)) for tally in tallies},
                parts_reason=self.parts_reason,
                latencies={group: times for group in groups if (times := self.timeline.latencies(group)) is not None},
            )
            run = replace(self._run, record_path=public_text(self._files.place))
            record = build_record(run, state, self.rates)
            record.raw_readings = self._raw_readings()
        self.phases = phases_by_bucket(record, tallies)
        record.forecast, record.early_stopping = self.forecast, self.early_stopping
        record.part = None if self.job is None else self.job.make_part(self._earlier)
        return in_utf8(record)

    def _fit(self) -> None:
        """Solve the fits that are due without the lock and in steps: the loop may wait for the lock, or for the interpreter."""
        number, due = self.begin_fit()
        for name, ledger, tasks in due:
            for task in tasks:
                for _ in task.steps():
                    time.sleep(BREATH_S)
            with self._lock:
                ledger.accept(tasks)
                if self._recorder is not None:
                    self._recorder.accept_fit(self._timing.clock(), number, name)

    def begin_fit(self) -> "tuple[int, list[tuple[str, Ledger, list[FitTask]]]]":
        """Return the fits that are due, by device and with its ledger, and their number in the recording, or 0."""
        while True:
            with self._lock:
                # Rows that are due are added first, so that the fits do not depend on how far another thread got with them.
                if not sum(ledger.add_due_rows() for _, ledger in self.devices.all):  # of each, a piece
                    number = 0 if self._recorder is None else self._recorder.add_fit(self._timing.clock())
                    fits = [(name, ledger, ledger.fit_tasks()) for name, ledger in self.devices.all]
                    return number, [fit for fit in fits if fit[2]]
            time.sleep(BREATH_S)

    def resume(self, earlier: RunRecord) -> None:
        """Continue the record of an interrupted run, unless it is this run or was killed before its first read."""
        if not self.leads:
            return
        unread = earlier.total.joules is None and earlier.total.seconds < _FIRST_READ_S
        if earlier.run.id not in self._own_ids() and not unread:
            self._earlier = earlier

    def _own_ids(self) -> set[str]:
        runs = (self._run, self._earlier.run if self._earlier else None)
        return {run.id for run in runs if run is not None}

    def warn(self, message: str) -> None:
        """Log a warning, and add it to the record; each message once, and of very many only the first ones."""
        added = self._warnings.add(message)
        if added is not None and self.verbose and self.leads:
            try:
                _log.warning("%s", added)
            except Exception as error:  # noqa: BLE001 - a handler of the user's may raise anything
                pass_users_error(error)

    def warn_of_error(self, error: Exception) -> None:
        """Warn of an error that nobody foresaw; of the first one alone, as others may follow from it."""
        if not self._erred:
            self._erred = True
            self.warn(f"Measuring energy met an unexpected error, and figures may be missing: {in_words(error)}.")

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Run the body such that what goes wrong in it, whatever it is, becomes a warning."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            pass_users_error(error)
            self.warn_of_error(error)

    def _warn_all(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.warn(message)

    def _review(self) -> None:
        """Write what is known so far; called in a thread of the sampler."""
        with self._unharmed():
            self._fit()
            self._settle_rates()
            self._warn_all(self.devices.counter_warnings())
        with self._unharmed():
            self._files.write()
        self._show_followers(last=False)

    def _show_followers(self, *, last: bool) -> None:
        """Let those who follow the run have the record, where they want it now."""
        for follower in [*self.followers] if self.leads else []:
            with self._unharmed():
                follower(self._build_live, last=last)

    def _build_live(self) -> RunRecord:
        """Return the record as of now with the newest forecast, in place of the first one that a record keeps."""
        record = self.build()
        record.forecast = self.latest_forecast or record.forecast
        return record

    def _settle_rates(self, *, last: bool = False) -> None:
        """Settle the emissions and the cost of the energy so far, where an intensity or a price ended; at the end, of all."""
        joules = self.point().joules
        with self._lock:
            if joules is not None:
                self.rates.follow(joules, self._timing.now())
            if last:
                self.rates.conclude()
        self._warn_all(self.rates.caveats)

    def _now(self) -> str:
        """Return the time of day for the record."""
        return self._timing.now().astimezone().isoformat(timespec="seconds")


_MEASURING: weakref.WeakSet[Session] = weakref.WeakSet()


def _stay_behind() -> None:
    for session in list(_MEASURING):
        session.stay_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stay_behind)
