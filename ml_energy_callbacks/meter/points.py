"""Instants of a run, and the figures between two of them; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Self, TypeVar

from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.timeline import Counts, Look
from ml_energy_callbacks.carbon import Amounts, Rates
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.process_share import is_share
from ml_energy_callbacks.meter.summary import Tally, value_at
from ml_energy_callbacks.metrics import OUTSIDE, PARTS, Phase, StageFigures, TotalFigures, add_up, known_sum
from ml_energy_callbacks.record.build import errors_by_backend, stage_energy
from ml_energy_callbacks.record.epochs import brief
from ml_energy_callbacks.record.schema import EpochRecord, PhaseRecord, RunRecord

_Name = TypeVar("_Name", bound=str)

_UNKNOWN, _NONE_YET = Amounts(None, None), Amounts((), ())

_SHOWN: tuple[Phase, Phase] = ("compute", "data_wait")
"""The phases whose energy and interval are shown during a run."""


@dataclass(frozen=True, slots=True)
class Point:
    """The state at one instant, from which windows are measured: the difference of two points is a window.

    Attributes:
        time_ns: Monotonic clock.
        totals: Time in each bucket in ns.
        joules: Energy of each bucket in J; None before the first reading.
        devices: Energy inside the run in J by device.
        beside: The same for devices that are not part of the totals.
        counts: Batches and samples so far, by the timeline's groups.
        amounts: Emissions and cost of the energy of each bucket; None before the first reading.
        others: Figures of the job's other processes as of the last exchange; None if there are none, or none was reported.
        sampling: Half-width in J of the energy of 1 s, as some devices see their power for a part of the time only; that of
            other times grows with their square root.
        by_device: Energy of each bucket in J of each device that was read, by its id.
    """

    time_ns: int
    totals: Sequence[int]
    joules: Sequence[float] | None
    devices: dict[str, float]
    beside: dict[str, float]
    counts: Sequence[Counts]
    amounts: Amounts | None
    others: TotalFigures | None
    sampling: float = 0.0
    by_device: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        look: Look,
        ledgers: Mapping[str, Ledger],
        beside: Mapping[str, Ledger],
        rates: Rates,
        others: TotalFigures | None,
    ) -> Self:
        """Return the state at a look; the energy since a device's last refresh is extrapolated from fitted powers.

        Args:
            look: The state of the timeline.
            ledgers: The devices that are counted, by their ids.
            beside: The devices that are reported separately, by their ids.
            rates: Converts energy to emissions and cost.
            others: Figures of the job's other processes, or None.
        """
        known, apart = _known(ledgers, look), _known(beside, look)
        whole = [sum(column) for column in zip(*known.values(), strict=True)] if known else None
        return cls(
            time_ns=look.now,
            totals=look.totals,
            joules=whole,
            devices={name: sum(joules) - joules[OUTSIDE] for name, joules in known.items()},
            beside={name: sum(joules) - joules[OUTSIDE] for name, joules in apart.items()},
            counts=look.counts,
            amounts=None if whole is None else rates.amounts(whole),
            others=others,
            sampling=hypot(*(ledger.sampling for ledger in ledgers.values())),
            by_device=known,
        )

    def spent(self, buckets: Sequence[int]) -> tuple[float, float]:
        """Return the energy in J and the time in s of these buckets so far."""
        return sum(value_at(self.joules, b) for b in buckets), sum(value_at(self.totals, b) for b in buckets) / NS_PER_S


class Window:
    """A part of the run whose energy is known once the counters have refreshed after its end: the body of a ``with``.

    Of a window that is used again, the figures are those of the last time.

    Attributes:
        start: Where it begins; None until it is entered.
        end: Where it ends; None while it is open.
    """

    def __init__(self, mark: Callable[[], Mark], backend_of: Callable[[str], str] = str) -> None:
        """Make a window whose edges ``mark`` returns; ``backend_of`` returns the backend of a device, by its id."""
        self._mark = mark
        self._backend_of = backend_of
        self.start: Mark | None = None
        self.end: Mark | None = None

    def __enter__(self) -> Self:
        """Begin it."""
        self.start, self.end = self._mark(), None
        return self

    def __exit__(self, *_: object) -> None:
        """End it, after an exception, too."""
        self.end = self._mark()

    @property
    def joules(self) -> float | None:
        """Energy of the window in J; None until every device has refreshed after its end, and what ran then has ended.

        It stays None if a device's energy is unknown at one of the window's edges or has a gap between them, if there is no
        device, and if the meter does not measure at one of the edges.
        """
        end, start = self.end, self.start
        if end is None or start is None or not end.expected or end.expected != start.expected or end.time_ns < start.time_ns:
            return None
        if end.joules.keys() != end.expected or start.joules.keys() != start.expected or start.gaps != end.gaps:
            return None
        return sum(joules - start.joules[device] for device, joules in end.joules.items())

    @property
    def low_joules(self) -> float | None:
        """Lower end of the 95 % interval of ``joules`` in J, by when energy was used within refreshes; None as they are.

        It does not hold the devices' own uncertainty.
        """
        joules, half = self.joules, self._half_width
        return None if joules is None else max(min(joules, 0.0), joules - half)

    @property
    def high_joules(self) -> float | None:
        """Upper end of the interval, in J."""
        joules, half = self.joules, self._half_width
        return None if joules is None else joules + half

    @property
    def _half_width(self) -> float:
        """Half-width in J.

        The errors of both edges and of what was sampled in between are independent, from device to device, too. What devices
        of one backend have in common adds up.
        """
        if self.start is None or self.end is None:
            return 0.0
        seconds = max(0, self.end.time_ns - self.start.time_ns) / NS_PER_S
        sampled = (half * seconds**0.5 for half in self.end.sampling.values())
        edges = self.start, self.end
        common = errors_by_backend((self._backend_of(name), half) for edge in edges for name, half in edge.common.items())
        return hypot(*(half for edge in edges for half in edge.half_widths.values()), *sampled) + hypot(*common.values())


@dataclass(frozen=True, slots=True)
class Span:
    """A stage between two points, in this process.

    Attributes:
        tally: The stage's group and buckets on the timeline.
        since: Where it begins; None for the start of the meter.
        until: Where it ends.
    """

    tally: Tally
    since: Point | None
    until: Point

    @property
    def ran(self) -> bool:
        """Whether the stage ran in it."""
        return any(self._seconds.values())

    @property
    def counted(self) -> Counts:
        """Batches and samples of the stage up to its end."""
        return self.tally.count(self.until.counts)

    @property
    def counted_before(self) -> Counts:
        """Batches and samples of the stage before it begins."""
        return Counts() if self.since is None else self.tally.count(self.since.counts)

    def figures(
        self,
        idle_watts: Mapping[str, float],
        recorded: Mapping[int, PhaseRecord],
        *,
        flops: float | None = None,
        measures: bool,
    ) -> StageFigures:
        """Return its figures.

        Args:
            idle_watts: Idle power of each device in W by its id, if it was measured.
            recorded: The phases in the last record, by their buckets.
            flops: FLOPs of its samples, excluding those during compilation, or None.
            measures: Whether this process measures devices.
        """
        phases, counts = self._phases, self.counted.since(self.counted_before)
        energy = stage_energy(phases, self._seconds, self.until.devices, idle_watts)
        last = {phase: recorded[bucket] for phase, bucket in self.tally.buckets.items() if bucket in recorded}
        computing = waiting = computed = waited = None
        parts: dict[str, float] = {}
        if phases is not None:
            divided, unexplained = _divide(phases, self._seconds, last)
            whole = sum(phases.values())
            computing, waiting = (
                _interval(last[phase], self._seconds[phase], whole, unexplained, self._sampling) if phase in last else None
                for phase in _SHOWN
            )
            if all(phase in last and last[phase].joules is not None for phase in _SHOWN):
                computed, waited = (divided[phase] for phase in _SHOWN)
                parts = self._parts(computed, last["compute"].parts)
        return StageFigures(
            joules=energy.joules,
            seconds=sum(self._seconds.values()),
            sampled_joules=energy.sampled_joules,
            above_idle_joules=energy.above_idle_joules,
            samples=None if counts.known_samples is None else counts.known_samples - counts.compiled,
            tokens=None if counts.known_tokens is None else counts.known_tokens - counts.compiled_tokens,
            parts=parts,
            compute_joules=computed,
            data_wait_joules=waited,
            compute_joules_low=None if computing is None else computing[0],
            compute_joules_high=None if computing is None else computing[1],
            data_wait_joules_low=None if waiting is None else waiting[0],
            data_wait_joules_high=None if waiting is None else waiting[1],
            co2e_grams=self._grams,
            cost=self._cost,
            flops=flops,
            sampled_seconds=sum(seconds for phase, seconds in self._seconds.items() if phase != "compile"),
            measures=measures,
        )

    def epoch(self, index: int, metrics: Mapping[str, float]) -> EpochRecord:
        """Return the span as the epoch with this index and these metrics; its energy is not divided among its phases."""
        counts = count(self.tally, self.since, self.until.counts)
        return EpochRecord(
            stage=self.tally.name,
            index=index,
            joules=None if self._phases is None else sum(self._phases.values()),
            seconds=sum(self._seconds.values()),
            samples=counts.known_samples,
            tokens=counts.known_tokens,
            co2e_grams=self._grams,
            sampling_joules=None if self._phases is None else float(f"{self._sampling:.3g}"),
            started_s=self._started_s,
            devices=brief(self._devices),
            phase_seconds=brief({phase: seconds for phase, seconds in self._seconds.items() if seconds}),
            metrics=brief(metrics),
        )

    def _parts(self, computed: float, recorded: Mapping[str, PhaseRecord]) -> dict[str, float]:
        """Return the energy of each part of the batches in J, as far as it is known of the run so far.

        Args:
            computed: Energy of all of them in J.
            recorded: The parts in the last record.
        """
        since = self.since
        joules = self._by_part(self.until.joules, None if since is None else since.joules)
        times = self._by_part(self.until.totals, None if since is None else since.totals)
        seconds = {part: time / NS_PER_S for part, time in times.items()}
        divided, _ = _divide(joules, seconds, {part: each for part, each in recorded.items() if part in joules})
        whole = sum(divided.values())
        known = (part for part in PARTS if part in divided and part in recorded and recorded[part].joules is not None)
        return {part: computed * divided[part] / whole for part in known} if whole > 0 else {}

    def _by_part(self, until: Sequence[float] | None, since: Sequence[float] | None) -> dict[str, float]:
        """Return the sum of each part of the batches, and of what is left of ``compute``, from sums by bucket."""
        parts: dict[str, float] = {
            part: value_at(until, bucket) - value_at(since, bucket) for part, bucket in self.tally.parts.items()
        }
        return {**parts, "other": self.tally.by_phase(until or (), since)["compute"] - sum(parts.values())}

    @property
    def _started_s(self) -> float:
        """When it begins, in s of the run's time."""
        inside = 0.0 if self.since is None else sum(self.since.totals) - self.since.totals[OUTSIDE]
        return round(inside / NS_PER_S, 3)

    @property
    def _devices(self) -> dict[str, float]:
        """Energy of each device that was read, in J."""
        before = {} if self.since is None else self.since.by_device
        return {
            name: sum(self.tally.by_phase(joules, before.get(name)).values()) for name, joules in self.until.by_device.items()
        }

    @property
    def _sampling(self) -> float:
        """Half-width in J of the energy that devices have not seen, as they see their power for a part of the time only."""
        return float(self.until.sampling * sum(self._seconds.values()) ** 0.5)

    @property
    def _phases(self) -> dict[Phase, float] | None:
        """Energy of each phase in J."""
        joules = self.until.joules
        return None if joules is None else self.tally.by_phase(joules, None if self.since is None else self.since.joules)

    @property
    def _seconds(self) -> dict[Phase, float]:
        """Time of each phase in s."""
        times = self.tally.by_phase(self.until.totals, None if self.since is None else self.since.totals)
        return {phase: time / NS_PER_S for phase, time in times.items()}

    @property
    def _grams(self) -> float | None:
        """Emissions in g CO2e; None if they are unknown at the end or were unknown at the beginning."""
        now, before = self._amounts
        return None if now.grams is None or before.grams is None else sum(self.tally.by_phase(now.grams, before.grams).values())

    @property
    def _cost(self) -> float | None:
        now, before = self._amounts
        return None if now.cost is None else sum(self.tally.by_phase(now.cost, before.cost).values())

    @property
    def _amounts(self) -> tuple[Amounts, Amounts]:
        """Emissions and cost of the energy up to the end, and up to the beginning."""
        before = None if self.since is None else self.since.amounts
        return self.until.amounts or _UNKNOWN, before or _NONE_YET


def _divide(
    joules: Mapping[_Name, float], seconds: Mapping[_Name, float], recorded: Mapping[_Name, PhaseRecord]
) -> tuple[dict[_Name, float], float]:
    """Divide the energy of a part of the run among its phases, by mean powers in the last record x times in the part.

    The powers of the last record are those of the last fit. As it was used, the energy was divided by the fit of that time; in
    the first seconds there was none.

    Args:
        joules: Energy of each phase in the part as it was divided then, in J. Phases without one in the record keep it, and the
            others keep their sum.
        seconds: Their times in the part, in s.
        recorded: The phases in the last record.

    Returns:
        The energy of each phase in J, and by how much these phases used more than that power x time, in J.
    """
    fitted = {
        phase: max(0.0, each.joules) / each.seconds * seconds[phase]
        for phase, each in recorded.items()
        if each.joules is not None and each.seconds
    }
    whole, used = sum(fitted.values()), sum(joules[phase] for phase in fitted)
    if whole <= 0:
        return dict(joules), 0.0
    return {**joules, **{phase: used * energy / whole for phase, energy in fitted.items()}}, used - whole


def _interval(
    recorded: PhaseRecord, seconds: float, whole: float, unexplained: float, error: float
) -> tuple[float, float] | None:
    """Return the 95 % interval in J of a phase in a part of the run, from that in the run so far; None if that is unknown.

    The part has its share of the error of the run. Beside that, parts of a run differ: where their scatter is the error of the
    run, that of a part about the run is larger than its share. What power x time does not explain may be all this phase's, or
    none of it.

    Args:
        recorded: The phase in the last record.
        seconds: Its time in the part.
        whole: Energy of all phases in the part, in J.
        unexplained: By how much they used more than the powers of the last record x their times, in J.
        error: Half-width of the interval of ``whole`` in J, as devices see a part of the time only.
    """
    low, high = recorded.low_joules, recorded.high_joules
    if low is None or high is None or not recorded.seconds:
        return None
    middle = (low + high) / 2 if recorded.joules is None else recorded.joules
    share = seconds / recorded.seconds
    growth = share + max(0.0, share * (1 - share)) ** 0.5
    here = share * middle
    own = error * here / whole if whole > 0 else 0.0
    top = max(0.0, min(whole, here + max(0.0, unexplained) + growth * (high - middle) + own))
    return min(max(0.0, here + min(0.0, unexplained) - growth * (middle - low) - own), top), top


def count(tally: Tally, since: Point | None, counts: Sequence[Counts]) -> Counts:
    """Return the batches and samples of a stage since a point, or since the start, from the present counts of the groups."""
    now = tally.count(counts)
    return now if since is None else now.since(tally.count(since.counts))


def run_figures(
    until: Point,
    ledgers: Mapping[str, Ledger],
    beside: Mapping[str, Ledger],
    rates: Rates,
    earlier: RunRecord | None,
    *,
    measures: bool,
    incomplete: bool,
) -> TotalFigures:
    """Return the figures of a run up to a point, of this process alone, including the run that it resumes.

    Args:
        until: The point.
        ledgers: The devices that are counted, by their ids.
        beside: The devices that are reported separately, by their ids.
        rates: Converts energy to emissions and cost.
        earlier: Record of the run that this one resumes, or None.
        measures: Whether this process measures devices.
        incomplete: Whether the energy of a device that belongs to the run could not be read.
    """
    incomplete = incomplete or any(
        ledger.incomplete_at(until.time_ns, until.totals) or (ledger.published is None and ledger.finder.silent)
        for ledger in ledgers.values()
    )
    joules, amounts = _inside(until.joules), until.amounts
    grams = None if amounts is None else _inside(amounts.grams)
    cost = None if amounts is None else _inside(amounts.cost)
    errors = [(ledgers[name].device.backend, used * ledgers[name].relative_uncertainty) for name, used in until.devices.items()]
    measured = [value for name, value in until.devices.items() if ledgers[name].device.provenance == "measured"]
    if earlier is not None:
        incomplete = incomplete or earlier.lower_bound
        joules = known_sum([earlier.total.joules, joules])
        grams = known_sum([earlier.total.co2e_grams, grams])
        cost = known_sum([earlier.total.cost, cost]) if earlier.total.currency == rates.currency else None
        known = {device.id: device.joules for device in earlier.devices if device.joules is not None}
        errors += [
            (device.backend, (device.joules or 0.0) * (device.relative_uncertainty or 0.0)) for device in earlier.devices
        ]
        measured += [known[device.id] for device in earlier.devices if device.provenance == "measured" and device.id in known]
    return TotalFigures(
        joules=joules,
        co2e_grams=grams,
        cost=cost,
        measured_joules=sum(measured),
        errors=errors_by_backend(errors),
        whole_machine_joules=_whole_machine_joules(until, beside, earlier),
        process_joules=_process(until, earlier),
        intensity_assumed=rates.intensity.assumed,
        measures=measures,
        lower_bound=incomplete,
    )


def _known(ledgers: Mapping[str, Ledger], look: Look) -> dict[str, Sequence[float]]:
    """Return the energy by bucket in J of each device that was read, by its id."""
    published = [(name, ledger.published) for name, ledger in ledgers.items()]
    known = [(name, state.known_at(look.now, look.totals)) for name, state in published if state is not None]
    return {name: joules for name, joules in known if joules is not None}


def _whole_machine_joules(until: Point, beside: Mapping[str, Ledger], earlier: RunRecord | None) -> float | None:
    """Return the machine's energy in J: two plugs feed one machine, but a battery measures the same energy again."""
    parts = [(d.backend, d.joules or 0.0) for d in (earlier.whole_machine if earlier else ())]
    devices = [ledger.device for ledger in beside.values() if ledger.device.whole_machine]
    parts += [(device.backend, until.beside[device.id]) for device in devices if device.id in until.beside]
    return max(add_up([{backend: joules} for backend, joules in parts]).values(), default=None)


def _process(until: Point, earlier: RunRecord | None) -> float | None:
    """Return the job's share in J; None if it is unknown in this run or in the run that it resumes."""
    shares = [joules for name, joules in until.beside.items() if is_share(name)]
    if earlier is None:
        return sum(shares) if shares else None
    before = earlier.process
    return None if before is None or before.joules is None or not shares else before.joules + sum(shares)


def _inside(values: Sequence[float] | None) -> float | None:
    """Return the sum over the buckets inside the run."""
    return None if values is None else sum(values) - values[OUTSIDE]
