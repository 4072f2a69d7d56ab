"""The details of a run as tables: phases, devices, hosts and processes."""

from collections.abc import Iterator, Sequence

from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.notes import indented, phases_of, rows_of
from ml_energy_callbacks.report.quantities import column, column_with_ranges, quantity, shares, time_column, uncertainty


def detail_tables(record: RunRecord) -> Iterator[FittedTable]:
    """Yield the tables that a run has something for."""
    if any(phase.seconds is not None for _, stage in rows_of(record) for phase in stage.phases.values()):
        yield _phase_table(record)
    if record.devices:
        yield _device_table("Devices", record.devices)
    if record.whole_machine:
        yield _device_table("Whole machine (not part of the total)", record.whole_machine)
    if record.process is not None:
        yield _device_table("Share of this job (part of the total)", record.process.devices)
    if len(record.nodes) > 1:
        yield _node_table(record)
    if record.ranks:
        yield _rank_table(record)


def _phase_table(record: RunRecord) -> FittedTable:
    """Return the phases whose time is known, each with the parts of its batches; the notes give the reason of others."""
    found = [
        (stage_name, name, stage, phase)
        for stage_name, stage in rows_of(record)
        for name, phase in phases_of(stage)
        if phase.seconds is not None
    ]
    phases = [phase for *_, phase in found]
    time_unit, times = time_column([phase.seconds for phase in phases])
    unit, joules, ranges = column_with_ranges([phase.joules for phase in phases], [phase.interval for phase in phases], "J")
    parts = [share for _, _, stage, phase in found for share in shares([phase.joules], stage.joules)]
    return FittedTable(
        [
            Column("stage", [name for name, *_ in found], left=True),
            Column("phase", [indented(name, "  ") for _, name, *_ in found], left=True),
            Column(f"time\n{time_unit}", times, rank=3),
            Column(f"energy\n{unit}", joules),
            Column("share of\nstage", parts, rank=1),
            Column(f"95 % interval\n{unit}", ranges, rank=2),
        ],
        title="Phases",
    )


def _device_table(title: str, devices: Sequence[DeviceRecord]) -> FittedTable:
    unit, joules = column([device.joules for device in devices], "J")
    return FittedTable(
        [
            Column("id", [device.id for device in devices], left=True, narrowest=20),
            Column(f"energy\n{unit}", joules),
            Column("missing\ns", [quantity(device.missing_s) for device in devices], rank=2),
            Column(
                "uncertainty", [uncertainty(device.provenance, device.relative_uncertainty) for device in devices], 1, left=True
            ),
        ],
        title=title,
    )


def _node_table(record: RunRecord) -> FittedTable:
    joules = [node.joules for node in record.nodes]
    unit, texts = column(joules, "J")
    return FittedTable(
        [
            Column("host", [node.hostname for node in record.nodes], left=True, narrowest=20),
            Column("ranks", [", ".join(map(str, node.ranks)) for node in record.nodes], rank=1),
            Column(f"energy\n{unit}", texts),
            Column("share", shares(joules, record.total.joules), rank=2),
        ],
        title="Hosts",
    )


def _rank_table(record: RunRecord) -> FittedTable:
    ranks, count = record.ranks, len(record.ranks)
    unit, joules = column([rank.joules for rank in ranks], "J")
    waiting_unit, waiting = column([rank.barrier_joules for rank in ranks], "J")
    time_unit, times = time_column(
        [
            *(rank.compute_seconds for rank in ranks),
            *(rank.data_wait_seconds for rank in ranks),
            *(rank.barrier_seconds for rank in ranks),
        ]
    )
    ends = [
        Column(f"epoch ends\n{time_unit}", times[2 * count :], rank=2),
        Column(f"epoch ends\n{waiting_unit}", waiting, rank=7),
    ]
    return FittedTable(
        [
            Column("rank", [str(rank.rank) for rank in ranks]),
            Column("host", [record.nodes[rank.node].hostname for rank in ranks], rank=4, left=True),
            Column("samples", [quantity(rank.samples) for rank in ranks], rank=5),
            *(
                [Column("tokens", [quantity(rank.tokens) for rank in ranks], rank=8)]
                if any(rank.tokens for rank in ranks)
                else []
            ),
            Column(f"energy\n{unit}", joules),
            Column("share", shares([rank.joules for rank in ranks], record.total.joules), rank=1),
            Column(f"batches\n{time_unit}", times[:count], rank=6),
            Column(f"data wait\n{time_unit}", times[count : 2 * count], rank=3),
            *(ends if any(rank.barrier_seconds for rank in ranks) else []),
        ],
        title="Processes",
    )
