"""The energy of functions in an earlier session, with that of the reference they were measured beside: a file."""

from pathlib import Path
from typing import Final

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.growth import PartCost
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.storage import LocalFile, in_one_line

_VERSION: Final = 1


class BaselineEntry(msgspec.Struct, kw_only=True):
    """A function in an earlier session.

    Attributes:
        joules: Energy of a call in J.
        ratios: Energy of a call as a share of that of a call of the reference, by round.
        parts: Time and energy of each part of a call, as shares of those of a call of the reference; empty without parts.
        devices: Ids of the devices.
        provenance: How their energy was known.
    """

    joules: float
    ratios: list[float]
    parts: dict[str, PartCost]
    devices: list[str]
    provenance: Provenance


class Baseline(msgspec.Struct, kw_only=True):
    """What a session has measured.

    Attributes:
        tests: Each function, by its test.
        schema_version: Version of the form of this file.
    """

    tests: dict[str, BaselineEntry]
    schema_version: int = _VERSION


_BASELINE = msgspec.json.Decoder(Baseline)


def load_baseline(path: Path) -> Baseline:
    """Load a file that :func:`save_baseline` wrote.

    Raises:
        ConfigurationError: There is none, or it is another file.
    """
    try:
        found = _BASELINE.decode(LocalFile(path).read())
    except OSError as error:
        msg = f"The baseline {path} cannot be read ({in_one_line(error)}); write one with --energy-save."
        raise ConfigurationError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no baseline of energy ({error}); write one with --energy-save."
        raise ConfigurationError(msg) from error
    if found.schema_version != _VERSION:
        msg = f"{path} is a baseline of version {found.schema_version}, and {_VERSION} is needed; write one with --energy-save."
        raise ConfigurationError(msg)
    return found


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    LocalFile(path).write(f"{dump_json(baseline)}\n".encode())
