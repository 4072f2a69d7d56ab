"""``sacct --json`` as rows of the table that ``sacct --parsable2`` prints.

The names are those of SLURM's ``data_parser``; its first versions write a number plainly, later ones as an object that says
whether it is set.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from ml_energy_callbacks.carbon.delimited import Row, TextFile

VERSION = "version of SLURM"
"""The cell with that: no column of sacct's."""

_JOBS = re.compile(r'"steps"\s*:')
"""Each job has this key once."""


class _Number(msgspec.Struct):
    set: bool = True
    infinite: bool = False
    number: float | None = None


_Figure = float | _Number | None


class _Time(msgspec.Struct):
    elapsed: _Figure = None
    start: _Figure = None
    end: _Figure = None
    suspended: _Figure = None


class _Resource(msgspec.Struct):
    type: str
    count: float = 0.0


class _Resources(msgspec.Struct):
    allocated: list[_Resource] = []


class _Energy(msgspec.Struct):
    consumed: _Figure = None


class _Statistics(msgspec.Struct):
    energy: _Energy


class _StepId(msgspec.Struct):
    id: str | int


class _Step(msgspec.Struct):
    step: _StepId
    statistics: _Statistics


class _State(msgspec.Struct):
    current: str | list[str]


class _Job(msgspec.Struct):
    job_id: int
    time: _Time
    state: _State
    name: str = ""
    nodes: str = ""
    allocation_nodes: int | None = None
    steps: list[_Step] = []
    tres: _Resources = msgspec.field(default_factory=_Resources)


class _Slurm(msgspec.Struct):
    release: str | None = None


class _Meta(msgspec.Struct):
    slurm: _Slurm | None = None
    Slurm: _Slurm | None = None


class _Dump(msgspec.Struct):
    jobs: list[_Job]
    meta: _Meta = msgspec.field(default_factory=_Meta)


_DUMP = msgspec.json.Decoder(_Dump)


def is_json(head: str) -> bool:
    """Return whether a file with this first line is JSON."""
    return head.startswith("{")


def json_rows(file: TextFile) -> Iterator[Row]:
    """Yield the row of each job, followed by those of its steps; the line is that of the job's steps.

    Raises:
        RecordError: The file is no output of ``sacct --json``, or damaged.
    """
    text = "".join(file.lines())
    try:
        dump = _DUMP.decode(text)
    except (msgspec.DecodeError, ValueError) as error:
        raise file.error(1, f"the JSON is none of sacct ({str(error).rstrip('.')})") from None
    lines = [number for number, line in enumerate(text.splitlines(), 1) for _ in _JOBS.findall(line)]
    slurm = dump.meta.slurm or dump.meta.Slurm
    for place, job in enumerate(dump.jobs):
        line = lines[place] if len(lines) == len(dump.jobs) else 1
        state = job.state.current if isinstance(job.state.current, str) else next(iter(job.state.current), "")
        energy = next((each.count for each in job.tres.allocated if each.type == "energy"), None)
        common = {"Start": _start(job.time), "ElapsedRaw": _text(job.time.elapsed)}
        cells = {
            **common,
            "JobID": str(job.job_id),
            "JobName": job.name,
            "State": state,
            "NNodes": _text(job.allocation_nodes),
            "NodeList": job.nodes,
            "ConsumedEnergyRaw": _text(energy),
            VERSION: (slurm.release if slurm else None) or "",
        }
        yield _row(line, cells)
        for step in job.steps:
            own = str(step.step.id).rpartition(".")[2]
            consumed = _text(step.statistics.energy.consumed)
            yield _row(line, {**common, "JobID": f"{job.job_id}.{own}", "ConsumedEnergyRaw": consumed})


def _row(line: int, cells: dict[str, str]) -> Row:
    return Row(line, cells, comma=False, part=1, ends=True)


def _start(time: _Time) -> str:
    """Return when a job began; as some versions write when it could have begun at ``start``, it is reckoned from its end."""
    start, end, elapsed, suspended = (_number(each) or 0.0 for each in (time.start, time.end, time.elapsed, time.suspended))
    began = end - elapsed - suspended if end else start
    return datetime.fromtimestamp(began, UTC).isoformat() if began > 0 else "Unknown"


def _number(figure: _Figure) -> float | None:
    if isinstance(figure, _Number):
        return figure.number if figure.set and not figure.infinite else None
    return figure


def _text(figure: _Figure) -> str:
    number = _number(figure)
    return "" if number is None else str(number)
