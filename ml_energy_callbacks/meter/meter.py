"""EnergyMeter: the object that callbacks, loops and sinks talk to."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Counts
from ml_energy_callbacks.backends.discovery import Discovery
from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.batches import Batch, checked_number, checked_size, each_call
from ml_energy_callbacks.meter.ending import ending
from ml_energy_callbacks.meter.epoch_metrics import read_metrics
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.meter.options import MeterOptions, documents, takes
from ml_energy_callbacks.meter.points import Point, Span, Window, count
from ml_energy_callbacks.meter.session import Follower, Session
from ml_energy_callbacks.meter.stage_flops import GIVEN, is_count_of_flops
from ml_energy_callbacks.meter.stages import Frame
from ml_energy_callbacks.meter.unforeseen import in_words, pass_users_error
from ml_energy_callbacks.metrics import (
    STAGES,
    Part,
    Phase,
    StageFigures,
    TotalFigures,
    add_total_figures,
    stage_metrics,
    total_metrics,
)
from ml_energy_callbacks.record.schema import ForecastRecord, RunRecord, Status, StoppingRecord
from ml_energy_callbacks.report import summary
from ml_energy_callbacks.report.terminal import columns, for_terminal, in_ipython
from ml_energy_callbacks.safe_text import describe

_Function = TypeVar("_Function", bound=Callable[..., Any])


@documents(MeterOptions)
class EnergyMeter:
    """Measure the energy of a loop, split by stage and phase.

    Start and stop it, or use it as a context manager. A meter can be started again: its stages add up in one record.
    One thread drives it; another may read :attr:`record`.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    @takes(MeterOptions)
    def __init__(self, options: MeterOptions) -> None:
        """Check the options; hardware is not touched before :meth:`start`."""
        self._session = self._new_session(options)
        self._timeline = self._session.timeline
        self._stages = self._session.stages
        self._checked = partial(checked_number, self._session.warn)

    def _new_session(self, options: MeterOptions) -> Session:
        """Return the session that measures; a meter for tests has one with other clocks."""
        return Session(options)

    # ---------------------------------------------------------------------------------------------------- session

    @property
    def started(self) -> bool:
        """Whether it was ever started, so that there is a record."""
        return self._session.started

    @property
    def running(self) -> bool:
        """Whether it measures now."""
        return self._session.running

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that measures: it has neither the threads nor the run."""
        return self._session.forked

    @property
    def discovery(self) -> Discovery:
        """The devices that were found at the last start, and why others were not."""
        return self._session.devices.found

    @property
    def silent(self) -> frozenset[str]:
        """Ids of the devices that cannot be read now."""
        return self._session.devices.silent(self._timeline.clock())

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0 of its job, or alone."""
        return self._session.leads

    @property
    def reaches_all(self) -> bool:
        """Whether all processes of its job could be reached so far."""
        job = self._session.job
        return job is None or job.alive or job.apart

    @property
    def currency(self) -> str | None:
        """Currency of the cost, or None where no price is known."""
        rates = self._session.rates
        return rates.currency if rates.priced else None

    def end_early(self, reason: str | None) -> None:
        """Let the run end as ``stopped``, with the first reason that is given, where it would end as ``completed``.

        Args:
            reason: Why; None takes it back, as when another training begins.
        """
        self._session.end_early(reason)

    def start(self, loop: LoopDescription | None = None) -> Self:
        """Open the devices and start to measure; while it measures already, do nothing.

        In a job of several processes each of them has a meter: give the loop a ``gather``, and each device is measured by one
        process of its host alone. The processes exchange what they used in :meth:`close_epoch` and :meth:`share`, which all of
        them have to call, and at the end of a run that completed. Rank 0 writes the job's record, and each process a file of
        its own, ``energy.rank<rank>.json``, until its figures are in that.

        Args:
            loop: What is measured; None for a plain loop in one process.

        Raises:
            ConfigurationError: ``loop`` is not a description, a device id is unknown, here or in another process of the job, or
                the output directory cannot be written.
        """
        given: object = loop
        if given is not None and not isinstance(given, LoopDescription):
            msg = f"start() takes a LoopDescription, such as LoopDescription(gather=all_gather), not {type(given).__name__}."
            raise ConfigurationError(msg)
        self._session.start(loop or LoopDescription(), self)
        return self

    def stop(self, status: Status = "completed", reason: str | None = None) -> None:
        """Stop measuring, close the devices and write the record; a second call does nothing.

        Args:
            status: How the run ended.
            reason: Why it stopped or failed.
        """
        self._session.stop(status, reason)

    def wait_for_stop(self) -> None:
        """Wait for the end of a stop in another thread, after which the last record is written."""
        self._session.wait_for_stop()

    def __enter__(self) -> Self:
        """Start measuring."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Stop measuring and print the headline; an exception ends the run as ``stopped`` (Ctrl-C, exit) or ``failed``."""
        self.stop(*ending(error))
        self.write_headline(_write_line)

    def write_headline(self, write: Callable[[str], object]) -> None:
        """Write what the run used, once for a job, if the meter is verbose; an error of the output becomes a warning.

        Args:
            write: Writes a text of several lines; in IPython, they go to stdout instead.
        """
        if not (self._session.verbose and self.leads):
            return
        try:
            (_write_line if in_ipython() else write)(for_terminal(summary(self.record, self.record_path, columns())))
        except Exception as error:  # noqa: BLE001 - of the user's output
            pass_users_error(error)
            self.warn(f"What the run used cannot be shown: {in_words(error)}.")

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to be pickled: threads and drivers' handles cannot be.

        Raises:
            TypeError: Always.
        """
        msg = "An EnergyMeter cannot be pickled; create a new one with the same options."
        raise TypeError(msg)

    # ---------------------------------------------------------------------------------------------------- stages

    def begin_stage(
        self, stage: str, phase: Phase = "data_wait", *, during: Phase = "compute", between: Phase = "data_wait"
    ) -> None:
        """Enter a stage, in this phase; stages nest, and an inner one's time is not the outer one's.

        Args:
            stage: The stage, or a sub-stage of your own such as ``predict/prefill``, which is included in ``predict``.
            phase: The phase that it begins in.
            during: The phase from a batch's start to its end.
            between: The phase from a batch's end to the next one's start.

        Raises:
            ConfigurationError: There is no such stage, or a sub-stage has no plain name or is one too many. In the loop of a
                framework that is a warning, and the running stage is entered again.
        """
        self._begin_stage(stage, phase, during, between)

    def _begin_stage(self, stage: str, phase: Phase, during: Phase = "compute", between: Phase = "data_wait") -> Frame:
        try:
            return self._stages.begin(stage, phase, during, between)
        except ConfigurationError as error:
            self._refuse(error)
            return self._stages.begin(self._stages.running, phase, during, between)

    def _refuse(self, error: ConfigurationError) -> None:
        """Raise the error, unless the loop is that of a framework, which nothing of ours may end."""
        if not self._session.in_framework:
            raise error
        self.warn(str(error))

    def end_stage(self, phase: Phase = "data_wait") -> None:
        """Leave the stage for the one around it, in this phase; outside all, for ``other``."""
        self._stages.end(phase)

    @property
    def depth(self) -> int:
        """Number of stages that run, one inside the other."""
        return self._stages.depth

    @property
    def phase(self) -> Phase | None:
        """The phase that the running stage is in; None outside a run."""
        return self._stages.phase

    def enter(self, phase: Phase) -> None:
        """Switch to another phase of the stage."""
        self._stages.enter(phase)

    @contextlib.contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Run the body as this stage, or as a sub-stage of your own such as ``predict/prefill``.

        Time outside :meth:`batch` is data wait. Inside of its stage, a sub-stage has the phase that it interrupts: in a batch,
        it is part of the batch. A stage has up to 16 sub-stages, with names of at most 64 letters, digits, ``_``, ``-`` or
        ``.``.

        Raises:
            ConfigurationError: There is no such stage, or a sub-stage has no plain name or is one too many. In the loop of a
                framework that is a warning, and the stage around it goes on.
        """
        try:
            interrupted = self._stages.interrupted(stage)
        except ConfigurationError as error:
            self._refuse(error)
            yield
            return
        phase, part = interrupted or "data_wait", self._stages.running_part
        frame = self._begin_stage(stage, phase)
        try:
            yield
        finally:
            if not self._stages.leave(frame, phase, part):
                self.warn(
                    f"{stage} ended while another stage went on that had begun in it, as in threads or tasks: time counts in "
                    "the stage that began last."
                )

    def enter_part(self, part: Part | None) -> None:
        """Begin a part of the batch that runs, or None for what is left of it; the part ends with the next one or the batch.

        A batch has parts in the phase ``compute`` of a stage itself; elsewhere this changes nothing.

        Args:
            part: ``transfer``, ``forward``, ``backward``, ``optimizer`` or None.

        Raises:
            ConfigurationError: There is no such part. In the loop of a framework that is a warning.
        """
        timeline, stages = self._timeline, self._stages
        try:
            bucket = stages.parts[part] if part in stages.parts else stages.add_part(part)
        except ConfigurationError as error:
            self._refuse(error)
            return
        stamp = timeline.stamp
        timeline.queue.append(("switch", stamp(), bucket, 0, None, None))

    @contextlib.contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Run the body as this part of the batch that runs, and then what is left of it; see :meth:`enter_part`.

        Raises:
            ConfigurationError: There is no such part. In the loop of a framework that is a warning.
        """
        self.enter_part(part)
        try:
            yield
        finally:
            self.enter_part(None)

    def parts_of(self, stage: str) -> Collection[Part]:
        """Return the parts that batches of a stage had so far."""
        return self._stages.tally(stage).parts.keys()

    def explain_parts(self, reason: str | None) -> None:
        """Tell why the batches of the training have no parts although they were asked for; None takes it back.

        Parts that some of them had are then a part of ``compute`` alone.
        """
        self._session.parts_reason = reason

    def batch_start(self) -> None:
        """Begin to compute a batch."""
        timeline = self._timeline
        stamp = timeline.stamp  # to call it as an attribute takes 0.1 µs more
        timeline.queue.append(("switch", stamp(), timeline.during, 0, None, None))

    def batch_end(self, samples: int | None = None, batches: int = 1, tokens: int | None = None) -> None:
        """End a batch and wait for data.

        Args:
            samples: Number of samples; None where it is unknown.
            batches: Number of batches, where the framework runs several as one.
            tokens: Number of tokens; None where it is unknown.
        """
        timeline = self._timeline
        queue, stamp = timeline.queue, timeline.stamp
        now = stamp()
        plain = tokens is None and (samples.__class__ is int or samples is None)
        size = samples if plain else checked_size(self._checked, samples, tokens)
        queue.append(("batches", now, timeline.between, batches, size, None))
        if len(queue) > LONGEST_QUEUE:
            timeline.drain_queue()

    def batch(self, samples: int | None = None, tokens: int | None = None) -> Batch:
        """Return the context manager of a batch with this number of samples and of tokens; None where one is unknown.

        What becomes known only in the batch can be set there: ``with meter.batch() as batch: batch.tokens = 128``. It can be
        used in any thread and any asyncio task. The energy of batches that overlap is counted once, and shared by their
        samples.
        """
        timeline = self._timeline
        return Batch(timeline, samples, tokens, timeline.during, timeline.between, self._checked)

    def measure(
        self,
        *,
        samples: int | Callable[..., int] | None = 1,
        tokens: int | Callable[..., int] | None = None,
        stage: str = "predict",
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that measures each call of a function, or of a coroutine function, as a batch of this stage.

        Calls in several threads or tasks may overlap, as in :meth:`batch`. The time between calls belongs to the stage around
        them: inside ``with meter.stage("predict"):``, the energy of a waiting server is part of its predictions' energy.

        Args:
            samples: Number of samples in a call, or a function of its arguments that returns it; None where it is unknown.
            tokens: The same of tokens.
            stage: The stage.

        Raises:
            ConfigurationError: The stage or a number is invalid.
        """
        for name, each in (("samples", samples), ("tokens", tokens)):
            if each is not None and not callable(each) and (type(each) is not int or each < 1):
                msg = f"{name} is {describe(each)}; give a whole number above 0, a function of the arguments, or None."
                raise ConfigurationError(msg)
        during = self._stages.tally(stage).buckets["compute"]

        def batch(args: Any, kwargs: Any) -> AbstractContextManager[object]:  # noqa: ANN401
            if self._stages.over or not self.running:
                return contextlib.nullcontext()
            number = self._count(samples, args, kwargs, "samples") if callable(samples) else samples
            counted = self._count(tokens, args, kwargs, "tokens") if callable(tokens) else tokens
            return Batch(self._timeline, number, counted, during, self._timeline.between, self._checked)

        return each_call(batch)

    def _count(self, function: Callable[..., int], args: Any, kwargs: Any, what: str) -> int | None:  # noqa: ANN401
        """Return the number of samples or tokens of a call, or None where the user's function fails."""
        try:
            return self._checked(function(*args, **kwargs), what)
        except Exception as error:  # noqa: BLE001 - the user's function; the call goes on
            pass_users_error(error)
            self.warn(f"The function that counts {what} failed ({describe(error)}): energy per {what[:-1]} is unknown.")
            return None

    def add_samples(self, stage: str, samples: int | None, batches: int = 0) -> None:
        """Add samples that were processed elsewhere, or whose number is known only now.

        Args:
            stage: The stage.
            samples: Their number; None makes the stage's number of samples unknown.
            batches: Number of batches whose size was unknown at their end and that these samples are of.
        """
        self._timeline.add_samples(self._stages.tally(stage).group, samples or 0, 1 if samples is None else -batches)

    def set_flops_per_sample(self, stage: str, per_sample: float, method: str = GIVEN) -> None:
        """Set the floating-point operations (FLOPs) of a sample of a stage, for all its samples since the last start.

        Args:
            stage: The stage.
            per_sample: FLOPs of a sample; in training, forward and backward.
            method: How that is known, for the record.

        Raises:
            ConfigurationError: There is no such stage, or that cannot be the FLOPs of a sample. In the loop of a framework that
                is a warning.
        """
        if stage in STAGES and is_count_of_flops(per_sample):
            self._session.flops.learn(stage, plain_number(per_sample), method)
        else:
            msg = f"A sample of stage {describe(stage)} cannot take {describe(per_sample)} FLOPs; give a stage, and a number."
            self._refuse(ConfigurationError(msg))

    def knows_flops(self, stage: str) -> bool:
        """Return whether the FLOPs of a sample of a stage are known since the last start."""
        return self._session.flops.knows(stage)

    # ---------------------------------------------------------------------------------------------------- figures

    def point(self) -> Point:
        """Return the state as of now; what was used since a device's last refresh is extrapolated from fitted powers."""
        return self._session.point()

    def metrics(
        self, stage: str, since: Point | None = None, until: Point | None = None, *, suffix: str = ""
    ) -> dict[str, float]:
        """Return the metrics of a stage between two points, by their full names, of this process alone; none if reversed.

        Those of its sub-stages that ran are among them.

        Args:
            stage: The stage.
            since: Where the window begins; None for the start of the meter.
            until: Where it ends; None for now.
            suffix: Appended to each name.
        """
        until = until or self.point()
        return self._stage_metrics(self._figures(stage, since, until), suffix) if self._ordered(since, until) else {}

    def _ordered(self, since: Point | None, until: Point) -> bool:
        """Return whether a point is not before another one, and warn if it is."""
        if since is None or since.time_ns <= until.time_ns:
            return True
        self.warn("A window ends before it begins, and its figures are left out: give the earlier point first.")
        return False

    def _figures(self, stage: str, since: Point | None, until: Point) -> dict[str, StageFigures]:
        """Return the figures of a stage and of its sub-stages that ran between two points, of this process alone."""
        session, tally = self._session, self._stages.tally(stage)
        spans = [Span(each, since, until) for each in (tally, *tally.substages)]
        return {
            span.tally.name: span.figures(
                session.idle_watts,
                session.phases,
                flops=session.flops.between(span.tally.name, span.counted_before, span.counted),
                measures=session.measures,
            )
            for span in spans
            if span.tally is tally or span.ran
        }

    def _stage_metrics(self, windows: Mapping[str, StageFigures], suffix: str = "") -> dict[str, float]:
        currency = self._session.rates.currency
        return {
            name: value
            for stage, figures in windows.items()
            for name, value in stage_metrics(stage, figures, currency, suffix).items()
        }

    def close_epoch(
        self, stage: str, index: int, since: Point, metrics: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, float], Point]:
        """Add an epoch of a stage that ends now to the record; in a job of several processes a collective.

        Args:
            stage: The stage.
            index: Number of the epoch.
            since: Where it began.
            metrics: Metrics of it such as ``val_loss``, by their names, for the record: numbers, or arrays with one element.

        Returns:
            The epoch's metrics and the running totals, by their full names, of the whole job, or none where a process cannot be
            reached any more; and the state as it ends.
        """
        session = self._session
        self._stages.tally(stage)  # before the point, which then has the buckets of a stage that never ran
        point = session.point()
        self.add_epoch(stage, index, since, point, metrics)
        windows = session.exchange(self._figures(stage, since, point), point)
        if windows is None:
            return {}, point
        if session.job is not None:
            point = dataclasses.replace(point, others=session.job.figures_of_others())
        return {**self._stage_metrics(windows), **self.totals(point)}, point

    def share(self) -> None:
        """Exchange the figures so far with the job's other processes: a collective; without others, it does nothing."""
        if self._session.job is not None:
            self._session.exchange({}, self.point())

    def spent(self, until: Point, *, stage: str | None = None, phase: Phase | None = None) -> tuple[float, float]:
        """Return the energy in J and the time in s that went into a stage, or a phase, up to a point; None for all.

        This includes the energy of the job's other processes as of the last exchange.
        """
        job = self._session.job
        others = 0.0 if job is None else job.joules_of_others(stage, phase)
        joules, seconds = until.spent(self._stages.buckets_of(stage, phase))
        return joules + others, seconds

    def counts(self, stage: str, since: Point | None = None, until: Point | None = None) -> Counts:
        """Return the batches and samples of a stage, without its sub-stages, between two points; None for the start or now."""
        tally = dataclasses.replace(self._stages.tally(stage), substages=[])
        if until is not None and not self._ordered(since, until):
            return Counts()
        return count(tally, since, (self._timeline.look() if until is None else until).counts)

    def sums(self, until: Point | None = None) -> TotalFigures:
        """Return the figures of the whole run up to a point, including the run that it resumes; None for now.

        This includes the job's other processes as of the last exchange.
        """
        until = until or self.point()
        own = self._session.total_figures(until)
        return own if until.others is None else add_total_figures([own, until.others])

    def totals(self, until: Point | None = None) -> dict[str, float]:
        """Return the running totals by their full names, as in :meth:`sums`."""
        return total_metrics(self.sums(until), self._session.rates.currency)

    def add_epoch(self, stage: str, index: int, since: Point, until: Point, metrics: Mapping[str, Any] | None = None) -> None:
        """Add an epoch of a stage to the record, with its metrics as in :meth:`close_epoch`."""
        if self._ordered(since, until):
            span = Span(self._stages.tally(stage), since, until)
            self._session.add_epoch(span.epoch(index, read_metrics(metrics)))

    def add_metrics(self, stage: str, metrics: Mapping[str, Any] | None) -> None:
        """Add metrics that are known only now to the last epoch of a stage in the record."""
        found = read_metrics(metrics)
        if found:
            self._session.add_metrics(stage, found)

    def window(self) -> Window:
        """Measure the body of a ``with``; ``window.joules`` holds its energy about a batch after its end, not at once.

        ``window.low_joules`` and ``window.high_joules`` are its 95 % interval: a counter shows only at its refreshes how much
        energy was used.
        """
        return Window(self._session.mark, self._session.devices.backend_of)

    # ---------------------------------------------------------------------------------------------------- record

    def _repr_html_(self) -> str | None:
        return self.record._repr_html_() if self.started else None

    @property
    def record(self) -> RunRecord:
        """The record as of now, or as of the end of the run.

        Raises:
            ConfigurationError: The meter was never started.
        """
        return self._session.build()

    @property
    def record_path(self) -> Path | str | None:
        """Where the record is written: a path, or a URL where ``output_dir`` is one; None where it is not written.

        While a URL cannot be written, it is the path of the local file that is written in its place.
        """
        return self._session.record_path

    def resume(self, earlier: RunRecord) -> None:
        """Continue the record of an interrupted run: its stages, devices and totals are added to this one's.

        A record of this very run is ignored, since its joules are already included; so is the record of a run that was killed
        before its devices were read for the first time.
        """
        self._session.resume(earlier)

    @property
    def forecast(self) -> ForecastRecord | None:
        """The record's forecast, which a callback sets."""
        return self._session.forecast

    @forecast.setter
    def forecast(self, forecast: ForecastRecord | None) -> None:
        self._session.forecast = self._session.latest_forecast = forecast

    def update_forecast(self, forecast: ForecastRecord) -> None:
        """Show a newer forecast to those who follow the run; the record keeps the first one."""
        self._session.forecast = self._session.forecast or forecast
        self._session.latest_forecast = forecast

    @property
    def early_stopping(self) -> StoppingRecord | None:
        """The record's state of early stopping, which a callback sets."""
        return self._session.early_stopping

    @early_stopping.setter
    def early_stopping(self, state: StoppingRecord | None) -> None:
        self._session.early_stopping = state

    def follow(self, follower: Follower) -> None:
        """Show the record to a follower every few seconds until the meter stops, and once more then, in rank 0 of a job."""
        self._session.followers.append(follower)

    def warn(self, message: str) -> None:
        """Log a warning and add it to the record; each message once."""
        self._session.warn(message)

    def warn_of_error(self, error: Exception) -> None:
        """Warn of an error that nobody foresaw; of the first one alone, as others may follow from it."""
        self._session.warn_of_error(error)


def _write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
