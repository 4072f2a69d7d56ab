"""The stages of a run: which one is running, in which phase, and where the time of each is kept."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.summary import Tally
from ml_energy_callbacks.metrics import OUTSIDE, PARTS, PHASES, STAGES, Part, Phase, is_stage
from ml_energy_callbacks.safe_text import describe

_TIMED: Collection[str] = ("test", "predict")
"""Stages whose batch durations are recorded: those are what a user of the model waits for."""

_IN_BATCH: Collection[Phase] = ("compute", "step", "compile")
"""Phases from a batch's start to its end."""

_MOST_SUBSTAGES = 16
"""Largest number of sub-stages of a stage: each takes room in the record and at each reading."""


def check_stage(name: object, called: str) -> None:
    """Check that this is the name of a stage, or of a sub-stage of one.

    Args:
        name: The name.
        called: Begin of the message, before the name.

    Raises:
        ConfigurationError: It is not.
    """
    if not is_stage(name):
        msg = (
            f"{called} {describe(name)}; use one of {', '.join(STAGES)}, or a name of your own below one, such as "
            "predict/prefill, of letters, digits, _, - and ."
        )
        raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True)
class Frame:
    """A stage that runs, and the phases that its batches and the gaps between them are in."""

    tally: Tally
    during: Phase
    between: Phase


class Stages:
    """The stages, which nest, on a timeline.

    Attributes:
        buckets: Bucket of each phase of the running stage.
        parts: Bucket of each part of its batches that was named so far, and by None of what is left of them. It is the batches'
            own in a sub-stage, whose batches have no parts, and where batches are not in ``compute``.
        over: Whether the run has ended, or has not begun: that time belongs to no stage.
    """

    def __init__(self, timeline: Timeline) -> None:
        """Stay outside the run."""
        self._timeline = timeline
        self._tallies: dict[str, Tally] = {}
        self._stack: list[Frame] = []
        self.over = True
        self._set(self._outermost())

    @property
    def tallies(self) -> Sequence[Tally]:
        """Where the time of each stage is kept that was named so far."""
        return [tally for tally in self._tallies.values() if tally.parent is None]

    def tally(self, name: str) -> Tally:
        """Return where the time of a stage, or of a sub-stage such as ``predict/prefill``, is kept.

        Raises:
            ConfigurationError: There is no such stage, or a sub-stage has no plain name or is one too many.
        """
        tally = self._tallies.get(name)
        if tally is None:
            check_stage(name, "Unknown stage")
            stage, _, own = name.partition("/")
            parent = self.tally(stage) if own else None
            if parent is not None and len(parent.substages) >= _MOST_SUBSTAGES:
                msg = f"{describe(name)} is one too many: the stage {stage} has {_MOST_SUBSTAGES} sub-stages; use one of them."
                raise ConfigurationError(msg)
            group = len(self._tallies) + 1
            buckets = {
                phase: self._timeline.add_bucket(
                    group, None if parent is None else parent.buckets[phase], compiling=phase == "compile"
                )
                for phase in PHASES
            }
            if stage in _TIMED:
                self._timeline.time_batches(group)
            tally = self._tallies[name] = Tally(name, group, buckets)
            if parent is not None:
                parent.substages.append(tally)
        return tally

    def buckets_of(self, stage: str | None, phase: Phase | None) -> Sequence[int]:
        """Return the buckets of a stage with its sub-stages, or a phase, that was named so far; None for all."""
        tallies = self.tallies if stage is None else [self.tally(stage)]
        return [
            bucket for tally in tallies for name in tally.buckets if phase in {None, name} for bucket in tally.buckets_of(name)
        ]

    def add_part(self, part: Part | None) -> int:
        """Return the bucket of a part of the running stage's batches that was not named before.

        Raises:
            ConfigurationError: There is no such part.
        """
        bucket = self.parts[part] = self.bucket(self._current.tally.name, part)
        return bucket

    def bucket(self, stage: str, place: Phase | Part | None) -> int:
        """Return the bucket of a phase, or of a part of the batches, of a stage or a sub-stage.

        Raises:
            ConfigurationError: There is no such stage, or no such place in it.
        """
        tally = self.tally(stage)
        found = next((bucket for name, bucket in tally.places if name == place), None)
        if found is None:
            if place not in PARTS or tally.parent is not None:
                msg = f"Unknown part of a batch {describe(place)}; use one of {', '.join(PARTS)}."
                raise ConfigurationError(msg)
            found = tally.parts[place] = self._timeline.add_bucket(tally.group, tally.buckets["compute"])
        return found

    @property
    def running(self) -> str:
        """The stage or sub-stage that runs; ``other`` outside all."""
        return self._current.tally.name

    @property
    def depth(self) -> int:
        """Number of stages that run, one inside the other."""
        return len(self._stack)

    @property
    def phase(self) -> Phase | None:
        """The phase that the running stage is in; None outside a run."""
        running = self._timeline.wholes[self._timeline.look().running]
        wholes = ((phase, self._timeline.wholes[bucket]) for phase, bucket in self.buckets.items())
        return next((phase for phase, bucket in wholes if bucket == running != OUTSIDE), None)

    def place_of(self, bucket: int) -> tuple[str | None, Phase | Part]:
        """Return the stage or the sub-stage, and the phase or the part of a batch, of a bucket; no stage outside the run."""
        if bucket == OUTSIDE:
            return None, "other"
        tallies = list(self._tallies.values())
        return next((tally.name, name) for tally in tallies for name, other in tally.places if other == bucket)

    def open(self) -> int:
        """Begin the run, outside of all other stages; return when it began (clock in ns)."""
        self.over = False
        self._stack.clear()
        return self._enter(self._outermost(), "other")

    def close(self) -> None:
        """End the run."""
        self.over = True
        self._stack.clear()
        self._enter(self._outermost(), "other")

    def begin(self, stage: str, phase: Phase, during: Phase, between: Phase) -> Frame:
        """Enter a stage, in a phase, and return it; its batches, and the gaps between them, are in these."""
        frame = Frame(self._here(stage), during, between)
        self._stack.append(self._current)
        self._enter(frame, phase)
        return frame

    def interrupted(self, stage: str) -> Phase | None:
        """Return the phase in which a sub-stage begins and ends that is part of the running stage, or of a batch; else None."""
        tally, running = self._here(stage), self._current.tally
        phase = None if tally.parent is None else self.phase
        return phase if tally.parent in {running.name, running.parent} or phase in _IN_BATCH else None

    @property
    def running_part(self) -> Part | None:
        """The part of a batch that runs, as marked; None where none does."""
        parts = self._current.tally.parts
        running = self._timeline.look().running if parts else OUTSIDE
        return next((part for part, bucket in parts.items() if bucket == running), None)

    def _here(self, name: str) -> Tally:
        """Return a stage or a sub-stage by its name; in a sanity check, which validates, a sub-stage of that."""
        tally = self.tally(name)
        own = tally.name.partition("/")[2]
        checks = "sanity_check" in {self._current.tally.name, self._current.tally.parent}
        return self.tally(f"sanity_check/{own}") if checks and tally.parent == "validate" else tally

    def end(self, phase: Phase) -> None:
        """Leave the stage for the one around it, in this phase; outside all, for ``other``."""
        outer = self._stack.pop() if self._stack else self._outermost()
        self._enter(outer, phase if self._stack else "other")

    def leave(self, frame: Frame, phase: Phase, part: Part | None) -> bool:
        """Leave a stage for the one around it, in this phase; if others that began in it still run, they go on.

        Args:
            frame: The stage.
            phase: The phase.
            part: The part of a batch that goes on in the phase ``compute``, or None.

        Returns:
            Whether none of those is another stage, with which its time is mixed. A stage whose run has ended has been left.
        """
        if frame is self._current:
            self.end(phase)
            if part is not None and phase == "compute":
                self._timeline.switch(self.parts[part], queued=not self.over)
            return True
        every = [*self._stack, self._current]
        at = next((i for i, each in enumerate(every) if each is frame), None)
        if at is None:
            return True
        del self._stack[at]
        return all(each.tally is frame.tally for each in every[at:])

    def enter(self, phase: Phase) -> None:
        """Switch to another phase of the stage."""
        self._timeline.switch(self.buckets[phase])
        if self.over:  # a signal handler may have ended the run just before
            self._timeline.switch(OUTSIDE)

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Leave the time of the body out of the run; if it fails, the run ends."""
        self._timeline.switch(OUTSIDE)
        yield
        self._enter(self._current, self._current.between)

    def _outermost(self) -> Frame:
        return Frame(self.tally("other"), "other", "other")

    def _enter(self, frame: Frame, phase: Phase) -> int:
        before, after = self._current.tally, frame.tally
        # Between the parts of a stage, a device may have work left.
        queued = not self.over and before.name != after.name and before.name.split("/")[0] == after.name.split("/")[0]
        bucket = self._set(frame)[phase]
        begun = self._timeline.switch(bucket, queued=queued)
        if self.over and bucket != OUTSIDE:  # a signal handler has ended the run meanwhile
            return self._enter(frame, phase)
        return begun

    def _set(self, frame: Frame) -> Mapping[Phase, int]:
        """Make a stage the current one, and return its buckets: outside the run, none of its own."""
        self._current = frame
        self.buckets = buckets = dict.fromkeys(PHASES, OUTSIDE) if self.over else frame.tally.buckets
        timeline = self._timeline
        timeline.during, timeline.between = buckets[frame.during], buckets[frame.between]
        divided = not self.over and frame.tally.parent is None and frame.during == "compute"
        parts = frame.tally.parts.items() if divided else [(part, timeline.during) for part in PARTS]
        self.parts: dict[Part | None, int] = dict([(None, timeline.during), *parts])
        return buckets
