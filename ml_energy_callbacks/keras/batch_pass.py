"""The batches of one stage of a Keras loop: the phase of each moment, and the number of samples of each batch."""

import sys
from typing import Any

from ml_energy_callbacks.frameworks.parts import Parts
from ml_energy_callbacks.keras import traits
from ml_energy_callbacks.keras.compiling import ExpectedCompilations
from ml_energy_callbacks.keras.gate import Gate
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.keras.parts import UNSEEN, mark_parts
from ml_energy_callbacks.keras.samples import SampleCounter
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import Phase, Stage

_NEVER = sys.maxsize


class BatchPass:
    """One stage while it runs over its batches: a training with all its epochs, or one evaluation or prediction.

    Nearly all batches are ``plain``: they need no more than ``meter.batch_start()`` and ``meter.batch_end()``, which the
    callback calls itself. Any other is passed to :meth:`begin_batch` and :meth:`end_batch`.

    Args:
        meter: The meter, which has started.
        stage: The stage; ``other`` outside all stages.
        loop: The loop that runs, or None outside all loops.
        model: The model as Keras gave it to the callback.
        params: The loop's parameters, as Keras gave them to the callback.
        thread: The thread of the measured loop, within which this loop may run.
        source: The gate of the watched data, or None if the data are not watched.
        sized_by_user: Whether the user has a ``batch_size_fn``.
        log_every: Batches of training between two logs of a step's energy; 0 for none.

    Attributes:
        stage: The stage.
        model: The model as Keras gave it to the callback.
        params: The loop's parameters, as Keras gave them to the callback.
        since: The point at which the epoch began.
        plain: Whether the next batch is like any other: not expected to compile, not watched, and not several in one.
        mark: Index of the next batch of training after whose end :meth:`reach_mark` is due.
        parts: Marks the parts of its batches.
    """

    def __init__(
        self,
        meter: EnergyMeter,
        stage: Stage = "other",
        loop: KerasLoop | None = None,
        *,
        model: Any = None,
        params: dict[str, Any] | None = None,
        thread: int | None = None,
        source: Gate | None = None,
        sized_by_user: bool = False,
        log_every: int = 0,
    ) -> None:
        self.stage = stage
        self.model = model
        self.params = {} if params is None else params
        self.since = meter.point()
        self.plain = True
        self.mark = _NEVER
        self.parts = Parts(meter, UNSEEN)
        self._meter = meter
        self._source = source
        self._first = 0
        self._compiles = False
        own = traits.unwrapped(model)
        self._steps = None if loop is None else loop.steps
        self._width = int(getattr(own, "steps_per_execution", 1) or 1)
        partial = None if loop is None else loop.has_partial_batch
        self._compilations = ExpectedCompilations(own, stage, steps=self._steps, width=self._width, partial=partial)
        self._samples = SampleCounter(
            meter, stage, own, since=self.since, thread=thread, source=source, sized_by_user=sized_by_user
        )
        self._marks = _Marks(self._steps, log_every) if stage == "train" else None
        self._gate: Gate | None = None
        self._during: Phase = "other"
        self._between: Phase = "other"

    # ---------------------------------------------------------------------------------------------------- the stage

    def begin(self) -> None:
        """Enter the stage, with the phases that can be recognised in its batches and between them."""
        if traits.waits_between_batches():
            self._during, self._between = "compute", "data_wait"
        elif self._source is not None and self._shows_waits(self._source):
            self._gate = self._source
            self._during = "compute"
        else:
            self._during = "step"
        self._meter.begin_stage(self.stage, "other", during=self._during, between=self._between)
        if self._marks is not None:
            self._marks.begin(self._meter.counts(self.stage).batches)
        if self._source is not None:
            self._source.attach(timed=self._gate is not None)

    def _shows_waits(self, source: Gate) -> bool:
        """Return whether waits for data can be measured at the gate; if not, warn with the reason."""
        reason = None
        if self._width > 1:
            reason = (
                f"Keras runs {self._width} batches as one (steps_per_execution), and only the wait for the first of them could "
                "be measured"
            )
        elif source.elsewhere and traits.takes_ahead():
            reason = "JAX fetches each batch ahead of its use, from the data's own threads; use a generator or a PyDataset"
        elif source.lost_count:
            reason = "Keras fetched some batches before the fit, to build the model; it is measured from the next fit on"
        if reason is not None:
            self._meter.warn(f"The data are watched, but waiting for them cannot be measured: {reason}.")
        return reason is None

    def mark_parts(self) -> None:
        """Mark the parts of the batches from now on."""
        mark_parts(self.parts, traits.unwrapped(self.model))

    def end(self) -> None:
        """Leave the stage."""
        self.parts.review()
        self.release()
        self._meter.end_stage("other")

    def release(self) -> None:
        """Let another loop use the watched data and the model."""
        self.parts.restore()
        if self._source is not None:
            self._source.detach()

    # ---------------------------------------------------------------------------------------------------- epochs

    def begin_epoch(self) -> None:
        """Begin an epoch, and the wait for its first batch."""
        self.since = self._meter.point()
        self._compilations.begin_epoch()
        self._samples.begin_epoch(self.since)
        self.plain = self._next_is_plain()
        self.mark = _NEVER if self._marks is None else self._marks.next_after(-1, self._batches_before())
        self._pause(self._between)

    def end_epoch(self, logs: Any = None) -> None:
        """End an epoch, and count the samples that are not counted yet; its logs show whether Keras's count is complete."""
        self._pause("other")
        self.parts.review()
        self._compilations.end_epoch()
        self._samples.count(logs)

    def interrupt(self) -> None:
        """Interrupt an epoch for another stage, before which Keras resets its count of samples."""
        self._pause("other")
        self._samples.count()
        self._samples.lose_count()

    @property
    def cut_short(self) -> bool:
        """Whether the last epoch ended before its last batch; False if Keras does not know the number of batches."""
        return self._steps is not None and self._meter.counts(self.stage, self.since).batches < self._steps

    def _pause(self, phase: Phase) -> None:
        """Enter a phase between batches."""
        if self._gate is not None:
            self._gate.leave(phase)
        else:
            self._meter.enter(phase)

    # ---------------------------------------------------------------------------------------------------- batches

    def begin_batch(self, batch: int) -> None:
        """Begin a batch that is not plain."""
        self._first = batch
        self._compiles = self._compilations.begin_batch(batch)
        if self._compiles and self._meter.counts(self.stage, self.since).batches == batch:
            self._samples.count()  # so that this batch's own samples are known at its end
        phase: Phase = "compile" if self._compiles else self._during
        if self._gate is not None:
            self._gate.begin(phase)
        else:
            self._meter.enter(phase)

    def begin_compiling(self) -> None:
        """Record the rest of the batch as compiling; called from within a batch's function, or at any other time."""
        if self._meter.phase != self._during or self._during == "other":
            return
        self._samples.count_within_batch()
        self._compiles, self.plain = True, False
        if self._gate is not None:
            self._gate.work("compile")
        else:
            self._meter.enter("compile")

    def end_batch(self, batch: int, samples: int | None = None) -> None:
        """End a batch that is not plain.

        Args:
            batch: Its index; if several ran as one, the index of the last of them.
            samples: Its number of samples, or None if the outputs do not show it.
        """
        last = batch if self._steps is None else min(batch, self._steps - 1)
        batches = 1 if self._width == 1 else last - self._first + 1
        watched, tokens = (None, None) if self._source is None else self._source.take(batches)
        samples = self._samples.size_of_batch(batches, samples, watched, read_count=self._compiles)
        self._compiles = False
        if self._gate is not None:
            self._gate.end(samples, tokens, batches)
        else:
            self._meter.batch_end(samples, tokens=tokens, batches=batches)
        self.plain = self._next_is_plain()

    def _next_is_plain(self) -> bool:
        return self._source is None and self._width == 1 and not self._compilations.pending

    def reach_mark(self, batch: int) -> int | None:
        """Count the samples after a batch of training whose index is at the mark or beyond, and set the next mark.

        Returns:
            The step whose energy is to be logged now, or None if no log is due.
        """
        if self._marks is None:
            return None
        before = self._batches_before()
        self.mark = self._marks.next_after(batch, before)
        self._samples.count_after_batch()
        return self._marks.step_to_log(batch, before) if self._meter.running else None

    def _batches_before(self) -> int:
        """Return the batches of the stage before this epoch."""
        return self._meter.counts(self.stage, until=self.since).batches


class _Marks:
    """The batches of a training after which samples are counted or a step is logged.

    Args:
        steps: Number of batches of an epoch, or None if it is unknown.
        log_every: Batches between two logs; 0 for none.
    """

    def __init__(self, steps: int | None, log_every: int) -> None:
        self._steps = steps
        self._log_every = log_every
        self._logged = 0

    def begin(self, before: int) -> None:
        """Begin after this many batches of earlier trainings, whose logs are not due again."""
        self._logged = before // self._log_every if self._log_every else 0

    def next_after(self, batch: int, before: int) -> int:
        """Return the index of the next such batch.

        Args:
            batch: Index of the batch that ended, or -1 at the start of an epoch.
            before: Batches of all epochs before.
        """
        # Twice as far each time, so that a reset of the count is detected: the count is then lower than before.
        marks = [2 * batch + 1 if batch >= 0 else 0]
        if self._steps and self._steps - 1 > batch:
            marks.append(self._steps - 1)
        if self._log_every:
            marks.append(batch + 1 + -(before + batch + 2) % self._log_every)
        return min(marks)

    def step_to_log(self, batch: int, before: int) -> int | None:
        """Return the step to log after a batch, or None if no log is due; each log that is due is returned once.

        Args:
            batch: Index of the batch that ended.
            before: Batches of all epochs before.
        """
        due = (before + batch + 1) // self._log_every if self._log_every else 0
        if due <= self._logged:
            return None
        self._logged = due
        return before + batch
