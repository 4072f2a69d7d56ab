"""Whether a record is what its raw readings say: their chain is sound, and a replay of them has the same figures."""

import os
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ml_energy_callbacks.exceptions import EnergyError, VersionError
from ml_energy_callbacks.metrics import JOULES_PER_KWH, known_sum
from ml_energy_callbacks.record.chain import DamagedChunkError, Seal, read_chunks
from ml_energy_callbacks.record.merge import add_records, merge_records
from ml_energy_callbacks.record.recording import Recording, package_version
from ml_energy_callbacks.record.schema import Part, RawReadings, RunRecord, every_stage
from ml_energy_callbacks.record.storage import as_place, in_one_line
from ml_energy_callbacks.testing.replaying import replay_file

TOLERANCE: Final = 1e-9
"""Share by which a reckoned figure may differ: the linear algebra of another processor rounds otherwise. On the machine that
measured hardly a last digit differs, and by how much any does is reported."""

_ADDED: Final = 1e-12
"""The same of times, which are only added up; in which order depends on which stage was named first."""

_SMALL: Final = 1e-10
"""The same of a figure that is small, in its unit; of an energy, it is the tolerance as a share of the run's."""

_SPLIT: Final = 1e-5
"""The same of the split of a stage into phases and parts, as a share of the half-width of its interval: its equations may be
nearly dependent, which multiplies what is rounded, and widens the interval."""

_ENERGY: Final = re.compile(r"joules$|\.devices\.|\.phases\.[^.]+$|^whole_machine\[\d+\]\.stages\.")
"""Paths of energies in J; a device or phase of an epoch has nothing else."""

_OF_THE_RUN: Final = ("id", "started_at", "status", "framework")
_NOT_RECORDED: Final = frozenset({"note", "cost", "currency", "flops", "parts_reason", "metrics"})
"""Fields that no recording has, as they are the user's, or texts about the machine."""

_MOST_DIFFERENCES: Final = 20

HOW_TO_KEEP: Final = "measure with raw_readings=True and an output_dir"


class Difference(msgspec.Struct, kw_only=True):
    """A field that is not the same.

    Attributes:
        field: Its path in the record, such as ``stages.train.joules``.
        recorded: Its value in the record; None if it is not there.
        reckoned: That by the raw readings.
    """

    field: str
    recorded: float | str | None
    reckoned: float | str | None


class Verification(msgspec.Struct, kw_only=True):
    """Whether a record is what its raw readings say.

    Attributes:
        same: Whether it is; None where that cannot be said.
        reason: Why it is not, or cannot be said; None of one that is.
        differences: Fields that are not the same, the first 20.
        largest_difference: Largest difference of a field that is the same, as a share of it: 0.0 where all are the same to the
            last digit. None where nothing was compared.
        not_compared: What the record has and its raw readings do not, such as ``cost``; empty where nothing was compared.
        seconds: Time of the run in s that the raw readings include; None where they were not read.
        files: The files of the raw readings that are as the record says.
    """

    same: bool | None
    reason: str | None = None
    differences: list[Difference] = []
    largest_difference: float | None = None
    not_compared: list[str] = []
    seconds: float | None = None
    files: list[str] = []


class _Unverifiable(Exception):  # noqa: N818 - it ends a verification without a result
    """Why a record cannot be verified."""


class _Changed(Exception):  # noqa: N818 - as above
    """Why a record or its raw readings are not as they were written."""


def verify_record(record: RunRecord, path: str | os.PathLike[str] | None = None) -> Verification:
    """Return whether a record is what its raw readings say.

    Args:
        record: The record.
        path: Its file, or the directory of the raw readings; None for where the run wrote it.
    """
    sound: list[str] = []
    result: Verification
    try:
        result = _verify(record, _folder(record, path), sound)
    except _Unverifiable as error:
        result = Verification(same=None, reason=str(error))
    except _Changed as error:
        result = Verification(same=False, reason=str(error))
    result.files = sound
    return result


def _verify(record: RunRecord, folder: Path | None, sound: list[str]) -> Verification:
    if not record.raw_readings or folder is None:
        raise _Unverifiable(_why_none(record))
    files, lacking = _sound_files(record, folder, sound), _why_not_compared(record)
    replayed = [_replayed(file, record) for file in files]
    times = [each.total.seconds for each in replayed]
    seconds = None if not times else max(times) if record.ranks else sum(times)
    if lacking is not None:
        covered = (
            ""
            if seconds is None
            else f" The raw readings are sound, and cover {seconds:.6g} s of {record.total.seconds:.6g} s."
        )
        return Verification(same=None, reason=f"{lacking}{covered}", seconds=seconds)
    reckoned = _merged(record, replayed) if record.ranks else reduce(add_records, replayed)
    result = _compared(record, reckoned, alone=len(replayed) == 1)
    result.seconds = seconds
    other = next((release for file in files if (release := Recording(file).first.package) != package_version()), None)
    if result.same is False and other is not None:
        result.same = None
        result.reason = (
            f"Release {package_version()} reckons otherwise; verify with ml-energy-callbacks {other}, which measured."
        )
    return result


def _sound_files(record: RunRecord, folder: Path, sound: list[str]) -> list[Path]:
    """Return the files of the raw readings that have any, and add all that are as the record says to ``sound``."""
    files: list[Path] = []
    for kept in record.raw_readings:
        if kept.file is None:
            continue
        if kept.file in {Path(file).name for file in sound}:
            msg = f"The record names the raw readings {kept.file} twice."
            raise _Changed(msg)
        whole = record.run.status != "running" and kept.reason is None
        file, chunks = _sound_file(folder, kept, whole=whole)
        sound.append(str(file))
        if whole or chunks:  # a run that was killed, or had no space, before its first chunk has none
            files.append(file)
    return files


def _why_not_compared(record: RunRecord) -> str | None:
    """Return why the figures of a record are not those of its raw readings, however sound these are; None if they are."""
    if record.run.status == "running":
        return "The run goes on, or was killed: the figures are those of its last write."
    lacking = next((why for kept in record.raw_readings if (why := _why_lacking(kept)) is not None), None)
    if lacking is not None:
        return lacking
    kept, ranks = len(record.raw_readings), len(record.ranks)
    if kept < ranks:
        return f"The record has raw readings of {kept} of its {ranks} processes."
    if 0 < ranks < kept:
        return "The job was resumed, and the raw readings of its parts are not added up."
    return "Processes of the job reported no data." if record.run.missing_ranks else None


def _folder(record: RunRecord, path: str | os.PathLike[str] | None) -> Path | None:
    place = record.run.record_path if path is None else path
    found = None if place is None else as_place(place)
    if not isinstance(found, Path):
        return None
    return found if found.is_dir() else found.parent


def _why_none(record: RunRecord) -> str:
    if record.imported is not None:
        return f"{record.imported.tool} measured the run, and kept no raw readings."
    if not record.raw_readings:
        return f"The record has no raw readings: {HOW_TO_KEEP}."
    reason = next((why for kept in record.raw_readings if (why := _why_lacking(kept)) is not None), None)
    return reason or "The record does not say where it is: give the directory of its raw readings."


def _why_lacking(kept: RawReadings) -> str | None:
    """Return why raw readings are not those of all of a part of the run; None if they are."""
    return kept.reason or ("No raw readings were kept." if kept.file is None else None)


def _sound_file(folder: Path, kept: RawReadings, *, whole: bool) -> tuple[Path, int]:
    """Return the file of raw readings, whose chain is the one that the record says, and the number of its chunks.

    Args:
        folder: Where it is.
        kept: What the record says of it.
        whole: Whether the record says of all of the file, and not only of its begin.

    Raises:
        _Unverifiable: It cannot be read.
        _Changed: It is not as it was written.
    """
    name = kept.file or ""
    if Path(name).name != name or "\0" in name:
        msg = f"{name!r} is no name of a file beside the record."
        raise _Changed(msg)
    file = folder / name
    said, reached, found = Seal(kept.head or "", kept.chunks, kept.size), kept.chunks == 0, Seal()
    try:
        if not S_ISREG(file.stat().st_mode):  # opening a pipe would wait for what writes it
            msg = f"The raw readings {file} cannot be read: it is not a regular file."
            raise _Unverifiable(msg)
        with file.open("rb") as source:
            for found, _ in read_chunks(source):
                reached = reached or found == said
    except FileNotFoundError:
        msg = f"The raw readings {file} are missing: keep them beside the record."
        raise _Unverifiable(msg) from None
    except OSError as error:
        msg = f"The raw readings {file} cannot be read: {in_one_line(error)}."
        raise _Unverifiable(msg) from None
    except DamagedChunkError as error:
        if whole or not reached:
            msg = f"The raw readings {file} were changed or cut: {error}."
            raise _Changed(msg) from None
    if not reached:
        msg = f"The raw readings {file} are not those of the record: their chain has another head after {kept.chunks} chunks."
        raise _Changed(msg)
    if whole and found != said:
        msg = f"The raw readings {file} go on after the end of the run."
        raise _Changed(msg)
    return file, found.chunks


def _replayed(file: Path, record: RunRecord) -> RunRecord:
    try:
        return replay_file(file, record.carbon.intensity_g_per_kwh, record.carbon.pue)
    except VersionError as error:
        raise _Unverifiable(str(error)) from None
    except EnergyError as error:  # also of an intensity or a PUE that no run has
        raise _Changed(str(error)) from None


def _merged(record: RunRecord, replayed: Sequence[RunRecord]) -> RunRecord:
    """Return the record of a job from those of its processes, which are where the record says."""
    names = {number: node.hostname for number, node in enumerate(record.nodes)}
    hosts = {rank.rank: (rank.node, names[rank.node], rank.devices) for rank in record.ranks if rank.node in names}
    parts = []
    for kept, each in zip(record.raw_readings, replayed, strict=True):
        if kept.rank not in hosts:
            msg = f"The record has raw readings of rank {kept.rank}, and no such rank, or none of its host."
            raise _Changed(msg)
        node, hostname, uses = hosts[kept.rank]
        part = Part(rank=kept.rank, host=str(node), hostname=hostname.partition("#")[0], uses=uses)
        parts.append(replace(each, part=part, run=replace(each.run, world_size=record.run.world_size)))
    return merge_records(parts)


@dataclass(slots=True)
class _Comparison:
    """Differences of two records, field by field.

    Attributes:
        small: Difference of energies in J that is none.
        found: Those that are not the same.
        largest: Largest of the others, as a share.
    """

    small: float
    found: list[Difference] = field(default_factory=list)
    largest: float = 0.0

    def compare(self, name: str, a: Any, b: Any, half: float | None = None) -> None:  # noqa: ANN401 - plain values of a record
        """Compare a value of the record with the reckoned one; ``half`` is the half-width in J of the phase that it is of."""
        if isinstance(a, dict) and isinstance(b, dict):
            low, high = b.get("low_joules"), b.get("high_joules")
            half = None if low is None or high is None else (high - low) / 2
            for key in dict.fromkeys([*a, *b]):
                self.compare(f"{name}.{key}" if name else key, a.get(key), b.get(key), half)
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for i, (one, other) in enumerate(zip(a, b, strict=True)):
                self.compare(f"{name}[{i}]", one, other)
        elif a != b:
            share = self._share(name, a, b, half) if isinstance(a, float) and isinstance(b, float) else None
            if share is None:
                self.found.append(Difference(field=name, recorded=_shown(a), reckoned=_shown(b)))
            else:
                self.largest = max(self.largest, share)

    def _share(self, name: str, a: float, b: float, half: float | None) -> float | None:
        """Return a difference as a share of the value; None if it is more than what arithmetic rounds."""
        off, size = abs(a - b), max(abs(a), abs(b))
        if name.endswith("seconds"):
            most = _ADDED * size
        elif name.endswith("kwh"):
            most = TOLERANCE * size
        elif half is not None and name.endswith("relative_uncertainty"):
            most = _SPLIT * size
        else:
            most = max(TOLERANCE * size, max(self.small, _SPLIT * (half or 0.0)) if _ENERGY.search(name) else _SMALL)
        return off / size if off <= most else None


def _shown(value: Any) -> float | str | None:  # noqa: ANN401 - as above
    return value if value is None or isinstance(value, float | int | str) else f"{len(value)} values"


def _compared(record: RunRecord, reckoned: RunRecord, *, alone: bool) -> Verification:
    """Compare a record with the reckoned one.

    Args:
        record: The record.
        reckoned: The reckoned one.
        alone: Whether it is that of one process which was never resumed. Of others, epochs and power over time are not
            compared: which of them a long run keeps depends on when it was added up.
    """
    comparison = _Comparison(TOLERANCE * (reckoned.total.joules or 0.0))
    constant = alone and not record.carbon.intervals
    left_out = _NOT_RECORDED if constant else _NOT_RECORDED | {"co2e_grams"}
    comparison.compare("", _figures(record, left_out, alone=alone), _figures(reckoned, left_out, alone=alone))
    found = [*comparison.found, *_wrong_grams(record, constant=constant)]
    return Verification(
        same=not found,
        reason="The record has figures that are not what its raw readings say." if found else None,
        differences=found[:_MOST_DIFFERENCES],
        largest_difference=comparison.largest,
        not_compared=[*_not_compared(record, constant=constant, alone=alone)],
    )


def _not_compared(record: RunRecord, *, constant: bool, alone: bool) -> Iterator[str]:
    """Yield what the record has that is not compared; ``constant`` as in :func:`_wrong_grams`, ``alone`` as above."""
    carbon, stages = record.carbon, [stage for _, stage in every_stage(record.stages)]
    found = {
        "intensity and PUE": True,
        "grams of stages": not constant,
        "cost": any(cost is not None for cost in [record.total.cost, *(stage.cost for stage in stages)]),
        "water": carbon.water_litres is not None,
        "embodied emissions": carbon.embodied_grams is not None,
        "offsets": carbon.offset_grams is not None,
        "FLOPs": any(stage.flops is not None for stage in stages),
        "share of the process": record.process,
        "forecast": record.forecast,
        "early stopping": record.early_stopping,
        "metrics": any(epoch.metrics for epoch in record.epochs),
        "epochs": not alone and record.epochs,
        "power over time": not alone and record.power,
        "ranks and nodes": record.ranks,
        "texts such as names": True,
    }
    yield from (name for name, there in found.items() if there)


def _figures(record: RunRecord, left_out: AbstractSet[str], *, alone: bool) -> Any:  # noqa: ANN401 - plain values
    """Return the figures of a record that are compared, as plain values."""
    figures: dict[str, Any] = {
        "devices": record.devices,
        "whole_machine": [replace(meter, id="", name="") for meter in record.whole_machine],  # may be an address
        "stages": record.stages,
        "total": record.total,
    }
    if alone:
        figures["epochs"] = [replace(epoch, co2e_grams=None) for epoch in record.epochs]
        figures["power"] = record.power
        figures["run"] = {name: getattr(record.run, name) for name in _OF_THE_RUN}
    return _without(msgspec.to_builtins(figures), left_out)


def _without(value: Any, left_out: AbstractSet[str]) -> Any:  # noqa: ANN401 - plain values
    if isinstance(value, dict):
        return {key: _without(each, left_out) for key, each in value.items() if key not in left_out}
    return [_without(each, left_out) for each in value] if isinstance(value, list) else value


def _wrong_grams(record: RunRecord, *, constant: bool) -> Iterator[Difference]:
    """Yield the grams that are not the energy times the intensity and the PUE, where a replay does not have them.

    Args:
        record: The record.
        constant: Whether these are the same all the time; else the record has their means for the total.
    """
    carbon, total = record.carbon, record.total
    factor = carbon.intensity_g_per_kwh * carbon.pue / JOULES_PER_KWH

    def grams(joules: float | None) -> float | None:
        return None if joules is None else joules * factor

    pairs = [(f"epochs[{i}].co2e_grams", each.co2e_grams, grams(each.joules)) for i, each in enumerate(record.epochs)]
    if not constant:
        stages = known_sum([stage.co2e_grams for stage in record.stages.values()])
        pairs = [("total.co2e_grams", total.co2e_grams, each) for each in (grams(total.joules), stages)]
    small = TOLERANCE * (total.co2e_grams or 0.0)
    for name, recorded, reckoned in pairs:
        if recorded != reckoned and (recorded is None or reckoned is None or abs(recorded - reckoned) > small):
            yield Difference(field=name, recorded=recorded, reckoned=reckoned)
