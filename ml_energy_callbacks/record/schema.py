"""The run file ``energy.json``: its schema, crash-safe writing, and loading."""

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ml_energy_callbacks.metrics import MOST_COUNT, Basis, ratio
from ml_energy_callbacks.readings import Kind, LatencySource, Method, Provenance, Regularity
from ml_energy_callbacks.record.shown import from_above, shown_by

Launcher = Literal["ray", "torchrun", "torch.distributed", "mpi", "slurm"]


SCHEMA_VERSION = 1
FILE_NAME = "energy.json"


MOST = 1e20
"""In J, about what the world uses as electricity in a year; and more seconds, grams or samples than any run has."""

_ROUNDING = 1e-6
"""Sums of floats may be below zero by so little."""

Amount = Annotated[float, msgspec.Meta(ge=-_ROUNDING, le=MOST)]
"""A quantity that is never negative; a record with another is refused when it is read, as it would spoil every sum."""

Signed = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]
"""A difference of quantities: what was extrapolated at its first instant may be corrected by its second."""

Length = Annotated[float, msgspec.Meta(gt=0, le=MOST)]
"""A time in s that is not 0."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]
"""A number of things."""


Flops = Annotated[float, msgspec.Meta(ge=0, le=1e50)]
"""A number of floating-point operations, or of them in a second: more than any run has."""


Status = Literal["running", "completed", "stopped", "failed"]


class Run(msgspec.Struct, kw_only=True):
    """The run as a whole.

    Attributes:
        id: Random identifier.
        started_at: Wall-clock start, ISO 8601 with offset.
        ended_at: Wall-clock end of the last measured part, or None while it runs.
        status: ``running`` (or killed), ``completed``, ``stopped`` (by the user or a limit) or ``failed`` (by an exception).
        framework: Such as ``pytorch_lightning 2.6.6``, or ``none`` for a plain loop.
        hostnames: Hosts whose devices are counted.
        world_size: Number of processes of the job.
        reason: Why the run stopped or failed, or None.
        model: Name of the model (Lightning: its class; Keras: its name), or None where it is unknown.
        tags: The user's own names and texts, to group runs by.
        launcher: What started the process beside others of its job: ``ray``, ``torchrun``, ``torch.distributed``, ``mpi`` or
            ``slurm``; None where nothing did, or the framework itself.
        job_id: What the scheduler, torchrun or Ray Train calls the job, or None.
        missing_ranks: Processes of the job that reported no data: their energy is not in the record.
        record_path: Path or URL that the record was written to, for a run that resumes this one; None in memory alone, and for
            a URL that may have a password.
        within: Id of the run of ``ml-energy run`` that includes the energy of this one; None outside of it, and for a run that
            began outside of it and was resumed.
        versions: Versions of Python, of this package and of the frameworks that the program had imported, by their names;
            empty in records of earlier releases.
        options: The options that affect the figures and were not the defaults, as texts.
    """

    id: str
    started_at: str
    ended_at: str | None = None
    status: Status
    framework: str
    hostnames: list[str]
    world_size: Count = 1
    reason: str | None = None
    model: str | None = None
    tags: dict[str, str] = {}
    launcher: Launcher | None = None
    job_id: str | None = None
    missing_ranks: list[int] = []
    record_path: str | None = None
    within: str | None = None
    versions: dict[str, str] = {}
    options: dict[str, str] = {}


class DeviceRecord(msgspec.Struct, kw_only=True):
    """A device and its share.

    Attributes:
        relative_uncertainty: Half-width of the 95 % interval of its energy, as a share of it; None where it is unknown, as of a
            run that another tool measured.
        update_period_s: Learned period of the counter's refreshes in s; None where it is unknown.
        joules: Energy in J, None where it was never read.
        missing_s: For how many seconds of the run it could not be read, also before its first reading and after its last one: a
            counter that went on counting has the joules between two readings in ``joules`` all the same, a model or a power
            reading has not. None where it is unknown, as of a run that another tool measured.
        note: How the figure comes about, where that is not plain.
        refresh: What sort of refresh it has.
        refresh_jitter_s: How far a regular refresh strays from its grid, in s.
        cross_check: The counter's energy over the integral of the device's own power, less 1; None without both.
        shared: Whether others may use the device, too.
        idle_watts: Power that was measured before the run began, while nothing of it worked, in W; None where it was not.
        latency_s: How far its readings may have been behind the host's clock, in s, which widens the intervals of phases; None
            in records of earlier releases.
        latency_source: Whether that is assumed or known.
        count: How many devices it is the sum of, where a log of another tool has only their sum.
    """

    id: str
    name: str
    kind: Kind
    backend: str
    method: Method
    provenance: Provenance
    relative_uncertainty: Amount | None
    update_period_s: Amount | None
    joules: Amount | None
    missing_s: Amount | None
    note: str | None = None
    refresh: Regularity = "unknown"
    refresh_jitter_s: Amount | None = None
    cross_check: Signed | None = None
    shared: bool = False
    idle_watts: Amount | None = None
    latency_s: Amount | None = None
    latency_source: LatencySource | None = None
    count: Count = 1


class BesideRecord(DeviceRecord, kw_only=True):
    """A figure that is not part of the totals; ``stages`` holds its joules in each stage."""

    stages: dict[str, Amount]


class ProcessRecord(msgspec.Struct, kw_only=True):
    """This job's share of the machine's energy: estimated, and not part of the totals.

    Attributes:
        joules: Its energy on the devices below in J, or None where no device reports it.
        relative_uncertainty: Half-width of the 95 % interval as a share of ``joules``.
        stages: Joules by stage.
        devices: The share of each device.
        unknown: Why other devices' shares are not known, by their ids.
    """

    joules: Amount | None
    relative_uncertainty: Amount | None
    stages: dict[str, Amount]
    devices: list[BesideRecord]
    unknown: dict[str, str]
    provenance: Provenance = "estimated"


class PhaseRecord(msgspec.Struct, kw_only=True):
    """A phase of a stage.

    Attributes:
        joules: Energy in J, or None where the phases cannot be separated.
        seconds: Time spent in the phase, or None where the framework does not show it.
        relative_uncertainty: Half-width of the 95 % interval of the *split*, as a share of ``joules``; it does not hold
            the devices' own uncertainty. For the only phase of a stage, it is what is not known about the stage's begin and
            end. None where ``joules`` is None or 0.
        reason: Why ``joules`` is None; else None.
        low_joules: Lower end of the 95 % interval of the split in J, also where ``joules`` is None: the phase used at least so
            much. None where no device was read, and in records of earlier releases.
        high_joules: Its upper end.
        parts: Of ``compute``, where they were asked for: ``transfer``, ``forward``, ``backward`` and ``optimizer``, and what is
            left as ``other``, which add up to it. They have no parts.
        parts_reason: Why there are no parts although they were asked for; else None.
    """

    joules: Signed | None
    seconds: Amount | None
    relative_uncertainty: Amount | None
    reason: str | None = None
    low_joules: Signed | None = None
    high_joules: Signed | None = None
    parts: dict[str, "PhaseRecord"] = {}
    parts_reason: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval of the split in J, of earlier releases by its uncertainty; None where unknown."""
        if self.low_joules is not None and self.high_joules is not None:
            return self.low_joules, self.high_joules
        if self.joules is None or self.relative_uncertainty is None:
            return None
        half = abs(self.joules) * self.relative_uncertainty
        return self.joules - half, self.joules + half


class LatencyRecord(msgspec.Struct, kw_only=True):
    """Durations of a stage's batches from start to end, without compilation; to 1 %.

    Attributes:
        batches: Number of batches.
        p50_s: Median in s.
        p95_s: 95th percentile in s.
        p99_s: 99th percentile in s.
    """

    batches: Count
    p50_s: Amount
    p95_s: Amount
    p99_s: Amount


class FlopsRecord(msgspec.Struct, kw_only=True):
    """Floating-point operations (FLOPs) of a stage: those of a sample times its samples.

    Attributes:
        total: Number for all samples; None where the number of samples is not known.
        per_sample: Number for one sample: in training, forward and backward.
        method: How that is known: ``given``, ``torch operators`` (counted in one batch) or ``XLA cost analysis``.
        joules_per_flop: Energy of one in J, excluding compilation as ``joules_per_sample`` does; None where that is None.
        flops_per_second: Number in a second of the stage, waiting included and compilation excluded; None where the number of
            samples is not known.
    """

    total: Flops | None
    per_sample: Flops
    method: str
    joules_per_flop: Amount | None = None
    flops_per_second: Flops | None = None


class StageRecord(msgspec.Struct, kw_only=True):
    """A stage.

    Attributes:
        joules: Energy in J, or None where no device was read.
        seconds: Time spent.
        batches: Number of batches that ended.
        samples: Number of samples, or None where it is not known.
        compile_samples: Samples of the batches that passed while the framework compiled; they are among ``samples``.
        joules_per_sample: Energy of a sample in J, with the phase ``compile`` and its samples left out; None where the
            number of samples is not known, or all of them passed while the framework compiled.
        joules_per_sample_above_idle: The same without the idle power of the devices, in J; None where that was not measured.
        sampled_joules: Energy of ``joules_per_sample`` for all samples, in J; None where no device was read, and in records of
            releases before this field.
        above_idle_joules: The same of ``joules_per_sample_above_idle``.
        tokens: Number of tokens; None where those of a batch are not known, and in records of releases before this field.
        compile_tokens: Tokens of the batches that passed while the framework compiled; they are among ``tokens``.
        joules_per_token: Energy of a token in J, as ``joules_per_sample``.
        latency: Of the stages ``test`` and ``predict``; None where no batch passed, of a run that was resumed, or of several
            processes.
        mean_watts: ``joules / seconds`` or None.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, from the devices' own.
        provenance: ``measured`` where every device was, else ``estimated``; None where no device was read.
        phases: By name.
        devices: Joules by device id; a device that was not read in this stage is absent.
        co2e_grams: Emissions in g CO2e.
        cost: Cost of the electricity in ``total.currency``, or None.
        flops: Its floating-point operations; None where they are not known, and in records of releases before this field.
        substages: The user's own parts of the stage, such as ``prefill`` of ``predict/prefill``, by name: all their figures are
            included in the stage's own. They have no sub-stages.
    """

    joules: Amount | None
    seconds: Amount
    batches: Count
    samples: Count | None
    joules_per_sample: Amount | None
    mean_watts: Amount | None
    relative_uncertainty: Amount | None
    provenance: Provenance | None
    phases: dict[str, PhaseRecord]
    devices: dict[str, Amount]
    co2e_grams: Amount | None
    cost: Amount | None
    compile_samples: Count = 0
    joules_per_sample_above_idle: Signed | None = None
    tokens: Count | None = None
    compile_tokens: Count = 0
    joules_per_token: Amount | None = None
    latency: LatencyRecord | None = None
    sampled_joules: Amount | None = None
    above_idle_joules: Signed | None = None
    flops: FlopsRecord | None = None
    substages: dict[str, "StageRecord"] = {}

    @property
    def tokens_per_joule(self) -> float | None:
        """Tokens that 1 J pays for, with compilation left out; None as ``joules_per_token``."""
        return ratio(1.0, self.joules_per_token)


def every_stage(stages: Mapping[str, StageRecord]) -> Iterator[tuple[str, StageRecord]]:
    """Yield each stage, followed by the sub-stages that it includes as ``<stage>/<name>``."""
    for name, stage in stages.items():
        yield name, stage
        for own, part in stage.substages.items():
            yield f"{name}/{own}", part


class EpochRecord(msgspec.Struct, kw_only=True):
    """One epoch of a stage, or in a long run ``epochs`` of them from ``index`` on; units as in :class:`StageRecord`.

    Attributes:
        sampling_joules: Half-width of the 95 % interval of ``joules`` in J by what devices did not see, as some see their power
            for a part of the time only: 0 where all see all of it. None where ``joules`` is None, and in records of releases
            before this field.
        started_s: When it began, in s of the run's time as in ``total.seconds``; None in records of releases before this field.
        devices: Joules by device id; a device that was not read is absent.
        phases: Joules by phase; a phase that cannot be separated from the others in the run is absent.
        phase_seconds: Seconds in each phase that ran; below 0 where a GPU's end of a phase became known only in a later epoch.
        metrics: What the framework or the loop logged in this stage at the end of the epoch, such as ``val_loss``, by its name;
            of several epochs, the last values.
    """

    stage: str
    index: Count
    joules: Signed | None
    seconds: Amount
    samples: Count | None
    co2e_grams: Signed | None
    epochs: Count = 1
    tokens: Count | None = None
    sampling_joules: Amount | None = None
    started_s: Amount | None = None
    devices: dict[str, Signed] = {}
    phases: dict[str, Signed] = {}
    phase_seconds: dict[str, Signed] = {}
    metrics: dict[str, float] = {}


class PowerSeries(msgspec.Struct, kw_only=True):
    """Power of a device over the run, in equal slices of the run's time; as many of ``mean``, ``low`` and ``high``.

    Attributes:
        slice_s: Length of a slice in s; the last one may end before that.
        start_s: When the first slice begins, in s of the run's time as in ``total.seconds``.
        mean: Mean power of each slice in W, of what is known of it; None where nothing is.
        low: Least power in each slice in W, of stretches of 40 ms, or of a refresh where that is longer; None as ``mean``.
        high: Greatest power in the same way.
    """

    slice_s: Length
    start_s: Amount = 0.0
    mean: list[Signed | None]
    low: list[Signed | None]
    high: list[Signed | None]


class TotalRecord(msgspec.Struct, kw_only=True):
    """The sum of the stages; ``cost`` is in ``currency``, and ``scope`` says whose energy it is.

    ``lower_bound`` is true where energy of the run is missing from the sums: that of a device that was never read or not for
    much of the run, or of a process that reported no data.
    """

    joules: Amount | None
    kwh: Amount | None
    seconds: Amount
    relative_uncertainty: Amount | None
    provenance: Provenance | None
    co2e_grams: Amount | None
    cost: Amount | None
    currency: str
    scope: Literal["machine"] = "machine"
    lower_bound: bool = False


class IntervalRecord(msgspec.Struct, kw_only=True):
    """A time in which one intensity held, or in a long run several, whose mean is weighted by energy.

    Attributes:
        began: ISO 8601 with offset.
        ended: The same.
        joules: Energy of the run in it, in J.
        intensity_g_per_kwh: Grams CO2e for each kWh.
        source: Who publishes the figure.
        fallback: Why it stands in for one that is not known, or None.
    """

    began: str
    ended: str
    joules: Amount
    intensity_g_per_kwh: Amount
    source: str
    fallback: str | None = None


class CarbonRecord(msgspec.Struct, kw_only=True):
    """Where the grams come from.

    Attributes:
        intensity_g_per_kwh: Grams CO2e for each kWh; where it changed, the mean, weighted by energy.
        location: The place as resolved, or None; of several, as of a job's hosts, all of them.
        source: Who publishes the figure.
        data_year: Year that it stands for, or None where the source does not say.
        assumed: True where no location and no intensity was set, for the whole run or a part of it.
        assumed_share: Share of the grams that are by the world's average for that reason.
        fallback_share: Share of the grams that are by a figure that stands in for one that could not be had.
        relative_uncertainty: How far the intensity may be off, as a share of it: that of a table's mean of a year is our
            assumption; 0 where the user gave it, or a service reported it for that time. An assumed intensity has none here.
        pue: Power usage effectiveness of the data centre, where it changed the mean, weighted by energy; it is *not* inside
            any joules of this record, and is inside the grams and the cost.
        basis: What the intensity counts: ``lifecycle``, ``direct`` (what the power stations emit), ``mixed``, or ``unknown``.
        renewable_share: Share of the place's electricity from renewable sources, or None where it is not known.
        low_carbon_share: The same with nuclear power.
        note: How another place's figure was taken for this one's, or None.
        intervals: The times of each intensity, where it changed or one stood in for another.
        wue: Water usage effectiveness of the data centre in litres per kWh of IT energy, or None.
        water_litres: Water used by the run according to ``wue``, or None.
        embodied_grams: The share of the machine's making that falls to the run's time, in g CO2e, or None; it is not part of
            any grams of this record.
        offset_grams: Emissions that were compensated, in g CO2e, or None; they are never subtracted.
    """

    intensity_g_per_kwh: Amount
    location: str | None
    source: str
    data_year: int | None
    assumed: bool
    pue: Amount
    basis: Basis = "unknown"
    renewable_share: Amount | None = None
    low_carbon_share: Amount | None = None
    note: str | None = None
    intervals: list[IntervalRecord] = []
    wue: Amount | None = None
    water_litres: Amount | None = None
    embodied_grams: Amount | None = None
    offset_grams: Amount | None = None
    assumed_share: Amount = 0.0
    fallback_share: Amount = 0.0
    relative_uncertainty: Amount = 0.0


class ForecastRecord(msgspec.Struct, kw_only=True):
    """What a training was expected to take in all once its first epoch had ended; sums up to then included.

    Attributes:
        after_epochs: Epochs that it is based on.
        kwh: Energy in kWh.
        kwh_low: Lower end of its 95 % interval; what the devices themselves are uncertain by is not in it.
        kwh_high: Upper end.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost in ``total.currency``, or None.
        seconds_left: Time to come, in s.
        ends_at: Wall-clock end of the training, ISO 8601 with offset.
        error: By how much ``kwh`` was more than the energy at the end of the training, as a share of that; None before.
    """

    after_epochs: Count
    kwh: Amount
    kwh_low: Amount
    kwh_high: Amount
    co2e_grams: Amount | None
    cost: Amount | None
    seconds_left: Amount
    ends_at: str
    error: Signed | None = None


class StoppingRecord(msgspec.Struct, kw_only=True):
    """Where early stopping by energy stands.

    Attributes:
        monitor: Name of the metric.
        mode: Whether less or more of it is better.
        min_gain_per_kwh: What a kWh has to buy.
        patience: Checks in a row that may be too poor.
        best: The metric's last value that was worth its energy, or None.
        best_kwh: Energy of the run at that check in kWh, or None.
        waited: Checks since then.
    """

    monitor: str
    mode: Literal["min", "max"]
    min_gain_per_kwh: float
    patience: Count
    best: float | None = None
    best_kwh: float | None = None
    waited: Count = 0


class RankRecord(msgspec.Struct, kw_only=True):
    """What one process of a job did, all stages together.

    Attributes:
        rank: Its rank.
        node: Index of its host in ``nodes``.
        status: As of the run; ``running`` of one that was killed, or that had not ended at the last exchange.
        seconds: Time that it measured.
        batches: Number of batches.
        samples: Number of samples, or None where it is not known.
        tokens: Number of tokens, or None where it is not known.
        devices: Ids of the devices that it uses, alone or with others.
        joules: Their energy in J, that of a device which several processes use divided evenly among them, so that the
            processes' energies add up to the job's; None where it is not known.
        compute_seconds: Time in batches; what a process waits there for the others' gradients is among it.
        data_wait_seconds: Time that it waited for data.
        barrier_seconds: Time that it waited for the others at the ends of epochs: the least is the slowest process's.
        barrier_joules: Energy of the devices that it measures in that time, in J, or None.
    """

    rank: int
    node: int
    status: Status
    seconds: Amount
    batches: Count
    samples: Count | None
    devices: list[str]
    joules: Amount | None
    compute_seconds: Amount
    data_wait_seconds: Amount
    barrier_seconds: Amount
    barrier_joules: Signed | None
    tokens: Count | None = None


class NodeRecord(msgspec.Struct, kw_only=True):
    """One host of a job.

    Attributes:
        hostname: Its name.
        ranks: The processes on it.
        devices: Ids of the devices that are measured there.
        joules: Their energy in J, or None where it is not known.
    """

    hostname: str
    ranks: list[int]
    devices: list[str]
    joules: Amount | None


class Part(msgspec.Struct, kw_only=True):
    """What makes a record that of one process of a job: what this one measured itself.

    Attributes:
        rank: Its rank.
        host: Identity of its host; two jobs' or two containers' processes on one machine have the same.
        hostname: The host's name.
        uses: Ids of the devices that it uses, those that another process measures included.
        barrier_seconds: Time that it waited for the others at the ends of epochs.
        barrier_joules: Energy of the devices that it measures in that time, in J, or None.
        earlier: The record of the job that this one resumes, in the part of rank 0.
    """

    rank: int
    host: str
    hostname: str
    uses: list[str]
    barrier_seconds: Amount = 0.0
    barrier_joules: Signed | None = None
    earlier: "RunRecord | None" = None


class ImportRecord(msgspec.Struct, kw_only=True):
    """Where the figures of a run come from that another tool measured.

    Attributes:
        tool: Name of the tool, such as ``codecarbon``.
        version: Its version, or None where its file does not say.
        file: Path of the file.
        line: Number of the line that has the totals, or with which the run begins.
        rows: Number of rows, or lines, of the run.
    """

    tool: str
    version: str | None
    file: str
    line: Count
    rows: Count


class RawReadings(msgspec.Struct, kw_only=True):
    """The raw readings of one process, from which its part of the record can be reckoned anew.

    Attributes:
        file: Name of the file beside the record; None where they were not kept.
        head: SHA-256 of its last chunk, in hexadecimal digits, which depends on all chunks before; None as ``file``.
        chunks: Number of its chunks.
        size: Their length in bytes.
        rank: Rank of the process in its job; None outside of one.
        reason: Why they were not kept, or not up to the end of the run; else None.
    """

    file: str | None = None
    head: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    chunks: Count = 0
    size: Count = 0
    rank: int | None = None
    reason: str | None = None


class RunRecord(msgspec.Struct, kw_only=True):
    """The record of a run.

    ``whole_machine`` holds the meters of the machine as a whole (a plug, a battery): each includes the energy of all devices,
    and more, so that none is added to anything. ``process`` is there with ``scope="process"``, ``forecast`` once an
    epoch of training has ended, and ``early_stopping`` where energy decides about that. ``ranks`` and ``nodes`` are those of
    a job of several processes; of one that was resumed, they are of its last part. ``part`` is there in the record of one
    process of a job, as in its file ``energy.rank<rank>.json``. ``power`` is the power of each device over time, by its id.
    ``imported`` is there where another tool measured the run. ``raw_readings`` has an entry for each process, and for each part
    of a run that was resumed, that kept them.
    """

    schema_version: int = SCHEMA_VERSION
    run: Run
    devices: list[DeviceRecord]
    stages: dict[str, StageRecord]
    epochs: list[EpochRecord]
    total: TotalRecord
    carbon: CarbonRecord
    warnings: list[str] = []
    whole_machine: list[BesideRecord] = []
    process: ProcessRecord | None = None
    forecast: ForecastRecord | None = None
    early_stopping: StoppingRecord | None = None
    ranks: list[RankRecord] = []
    nodes: list[NodeRecord] = []
    part: Part | None = None
    power: dict[str, PowerSeries] = {}
    imported: ImportRecord | None = None
    raw_readings: list[RawReadings] = []

    def summary(self) -> str:
        """Return what the run used, in at most six lines."""
        text: str = shown_by("headline", "summary")(self)
        return text

    def __repr__(self) -> str:
        """Return the first line of the summary with the run's id."""
        text: str = shown_by("headline", "short")(self)
        return f"<RunRecord {self.run.id[:8]}: {text}>"

    def _repr_html_(self) -> str:
        html: str = shown_by("notebook", "record_html")(self)
        return html

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries, lists, texts and numbers, as its file has them."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    def to_frame(self, rows: Literal["stages", "substages", "epochs", "power"] = "stages") -> Any:  # noqa: ANN401
        """Return the stages, their sub-stages, the epochs or the power over time as a data frame of pandas or polars.

        Args:
            rows: What each row is: a stage, a sub-stage, which is part of a stage, an epoch, or a device in a slice of time.

        Raises:
            ConfigurationError: Neither is installed, or ``rows`` is none of these.
        """
        return shown_by("notebook", "record_frame")(self, rows)

    def plot(self) -> Any:  # noqa: ANN401 - report.notebook.Picture, of a layer above
        """Return pictures of the run, which a notebook shows: where the energy went, over time and by epoch."""
        return shown_by("notebook", "plot_record")(self)

    def verify(self, path: str | os.PathLike[str] | None = None) -> Any:  # noqa: ANN401 - of a layer above
        """Reckon the record anew from its raw readings, and return whether it is the same.

        Args:
            path: The record's file or its directory, where the raw readings are; None for where the run wrote it.

        Returns:
            A :class:`ml_energy_callbacks.testing.verifying.Verification`.
        """
        return from_above("testing.verifying", "verify_record")(self, path)

    @property
    def lower_bound(self) -> bool:
        """Whether the total is a lower bound; records of earlier releases show it only by their devices and processes."""
        lacking = any(device.joules is None for device in self.devices)
        return self.total.lower_bound or bool(self.run.missing_ranks) or lacking
