"""Read and write run records: bytes -> record, record -> bytes."""

import os
import re
from collections.abc import Sequence

import msgspec

from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.record.schema import FILE_NAME, SCHEMA_VERSION, RunRecord
from ml_energy_callbacks.record.storage import as_place, in_one_line, open_file_or_within
from ml_energy_callbacks.record.structure import check_structure
from ml_energy_callbacks.record.utf8 import encode_json
from ml_energy_callbacks.safe_text import json_source

_MOST_WATTS = 1e10
"""More than any job draws: the largest power stations have a few GW."""


class _Head(msgspec.Struct):
    schema_version: int


class _OwnerRun(msgspec.Struct):
    id: str


class _Owner(msgspec.Struct):
    run: _OwnerRun


_NUMBERS = re.compile(r"\[\n[-+.,0-9Eelnu\s]+\]")
"""A list of numbers and nulls with each on a line; the end of a line cannot be in a text."""

_UNREADABLE = (ValueError, RecursionError)
"""What decoding raises: for bytes that are no UTF-8 or no JSON of the wanted form (msgspec's errors), or nested too deeply."""

# Made once, and before any thread: msgspec learns a type when it first decodes it, which two threads must not do at once.
_HEAD, _OWNER, _RECORD = msgspec.json.Decoder(_Head), msgspec.json.Decoder(_Owner), msgspec.json.Decoder(RunRecord)


def dump_json(facts: msgspec.Struct | Sequence[msgspec.Struct]) -> str:
    """Return a record, or any other structures of facts, as indented JSON, with lists of numbers in one line."""
    source = msgspec.json.format(encode_json(facts), indent=1).decode()
    return json_source(_NUMBERS.sub(lambda found: "".join(found[0].split()), source))


def encode_record(record: RunRecord) -> bytes:
    """Return what a record's file holds."""
    return dump_json(record).encode()


def load_record(path: str | os.PathLike[str]) -> RunRecord:
    """Load a run record.

    Args:
        path: The file, or the directory that holds ``energy.json``; or a URL of these such as ``s3://bucket/run``.

    Raises:
        RecordError: There is no such file, or it is not a complete run record of a known version.
        ConfigurationError: The URL needs a package that is missing.
    """
    place = as_place(path)
    try:
        file = open_file_or_within(place, FILE_NAME)
        place = file.place
        data = file.read()
    except FileNotFoundError:
        msg = f"There is no run record at {place}: give an {FILE_NAME} or the directory that contains one."
        raise RecordError(msg) from None
    except OSError as error:
        msg = f"The run record {place} cannot be read: {in_one_line(error)}."
        raise RecordError(msg) from None
    return decode_record(data, str(place))


def run_id(data: bytes) -> str | None:
    """Return the id of the run whose record a file holds, be it of any version; None where it holds none."""
    try:
        found = _OWNER.decode(data).run.id
    except _UNREADABLE:
        return None
    return found if found.isalnum() else None


def decode_record(data: bytes, name: str) -> RunRecord:
    """Return the run record that a file holds.

    Args:
        data: All of the file.
        name: What an error calls it.

    Raises:
        VersionError: It is of an unknown version.
        RecordError: It is no complete run record, or a figure in it is impossible.
    """
    try:
        version = _HEAD.decode(data).schema_version
    except _UNREADABLE:
        msg = (
            f"{name} is not a run record: it is damaged, or was written by another program; ml-energy import reads the logs of "
            "other tools."
        )
        raise RecordError(msg) from None
    if version != SCHEMA_VERSION:
        msg = f"{name} has schema version {version}; this release reads version {SCHEMA_VERSION}: update ml-energy-callbacks."
        raise VersionError(msg)
    try:
        record = _RECORD.decode(data)
        check_structure(record)
    except _UNREADABLE as error:
        msg = f"{name} is not a complete run record: {in_one_line(error)}."
        raise RecordError(msg) from None
    figures = [(record.total.joules, record.total.seconds)]
    figures += [(stage.joules, stage.seconds) for stage in record.stages.values()]
    figures += [(epoch.joules, epoch.seconds) for epoch in record.epochs]
    for joules, seconds in figures:
        if joules is not None and joules > _MOST_WATTS * max(seconds, 1.0):
            msg = f"{name} is not a run record: no run uses {joules:g} J in {seconds:g} s."
            raise RecordError(msg)
    return record
