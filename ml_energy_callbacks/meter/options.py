"""The options of a meter: their names, types, defaults, documentation and checks; constructors and classes that take them."""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from numbers import Real
from typing import Concatenate, Literal, ParamSpec, TypeVar

from ml_energy_callbacks.carbon import Intensity, check_currency
from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.stage_flops import is_flops_per_sample
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.safe_text import describe

FIGURES = "figures"
"""Metadata of the options by which two runs' figures can differ."""

_Names = ParamSpec("_Names")
_Self = TypeVar("_Self")
_Options = TypeVar("_Options")

_LONGEST_INTERVAL_S = 10.0
_LONGEST_IDLE_S = 3600.0

_ARGS = re.compile(r"\n\nArgs:\n(?P<args>(?:    .*\n?|\n(?=    ))+)")
_ARG = re.compile(r"^    (?P<name>\w+): .*(?:\n     .*)*", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeterOptions:
    """Options of a meter.

    Args:
        devices: ``"auto"`` for all that can be measured here (and an estimate for a kind that cannot), or ids and globs
            such as ``["nvml:*", "rapl:package-0"]``.
        sample_interval: Mean time between two reads of a device, in s.
        location: Where the electricity comes from: a country, a US state, a Canadian or Chinese province (ISO 3166 code or
            English name), a Nordic bidding zone, or a region of AWS, Azure or Google Cloud; ``"auto"`` asks a service on the
            network where this machine is; no other option does.
        carbon_intensity: Takes precedence over ``location``: g CO2e per kWh; a ``CarbonIntensity`` of
            :mod:`ml_energy_callbacks.carbon`, which names its source; or a CSV or Parquet file with the columns ``time`` (ISO
            8601 with an offset) and ``g_per_kwh``, each row of which applies until the next.
        electricity_price: Price of one kWh in ``currency``, or the prices by the time of day (this machine's) from which each
            applies, such as ``{"06:00": 0.32, "22:00": 0.21}``; None leaves the cost unknown.
        currency: Three-letter code.
        pue: Power usage effectiveness of the data centre. Grams and cost include it, joules never do.
        wue: Water usage effectiveness: litres of water for each kWh of IT energy.
        embodied_kg: Emissions of making the machine in kg CO2e; the share of the run's time is reported beside the grams.
        lifetime_years: How long the machine is used; required with ``embodied_kg``.
        offset_grams: Emissions that were compensated, in g CO2e: recorded beside the grams, never subtracted.
        output_dir: Directory for ``energy.json``, or a URL that fsspec reaches, such as ``s3://bucket/run``; None keeps the
            record in memory alone.
        recording: File for the raw marks and readings of the run, such as ``"raw.jsonl"``, from which ``ml-energy replay``
            computes the record again; None for none. In a job of several processes, ``raw.rank<rank>.jsonl`` of each.
        raw_readings: Whether to write such a file beside the record, compressed and hash-chained, by which ``record.verify()``
            and ``ml-energy verify`` find out whether the record is unchanged. It needs an ``output_dir`` on this machine.
        verbose: Whether to log warnings, and to print what the run used at the end of a ``with`` block.
        scope: ``"machine"``, or ``"process"`` to estimate this job's share, too: by CPU time, and by a GPU's own account of who
            uses it. It is reported beside the machine's energy and never in its place.
        idle_seconds: How long to measure the idle power of the devices before the run, so that the energy per sample above idle
            is reported, too; 0 for not at all.
        flops_per_sample: Floating-point operations (FLOPs) of a training sample, forward and backward, or those of a sample in
            each stage, such as ``{"train": 6e9, "predict": 2e9}``, for the energy and the rate of FLOPs; None where not known.
        tags: Your own names and values such as ``{"team": "vision"}``, by which ``ml-energy report`` groups runs.
        backends: Hardware to look for; None for all that is known.
    """

    devices: Literal["auto"] | Sequence[str] = field(default="auto", metadata={FIGURES: True})
    sample_interval: float = 0.05
    location: str | None = field(default=None, metadata={FIGURES: True})
    carbon_intensity: Intensity | None = field(default=None, metadata={FIGURES: True})
    electricity_price: float | Mapping[str, float] | None = field(default=None, metadata={FIGURES: True})
    currency: str = field(default="USD", metadata={FIGURES: True})
    pue: float = field(default=1.0, metadata={FIGURES: True})
    wue: float | None = field(default=None, metadata={FIGURES: True})
    embodied_kg: float | None = field(default=None, metadata={FIGURES: True})
    lifetime_years: float | None = field(default=None, metadata={FIGURES: True})
    offset_grams: float | None = field(default=None, metadata={FIGURES: True})
    output_dir: str | os.PathLike[str] | None = None
    recording: str | os.PathLike[str] | None = None
    raw_readings: bool = False
    verbose: bool = True
    scope: Literal["machine", "process"] = field(default="machine", metadata={FIGURES: True})
    idle_seconds: float = field(default=0.0, metadata={FIGURES: True})
    flops_per_sample: float | Mapping[str, float] | None = field(default=None, metadata={FIGURES: True})
    tags: Mapping[str, str] | None = None
    backends: Sequence[Backend] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the machine.

        Raises:
            ConfigurationError: An option cannot work; the message says what to do.
        """
        interval = plain_number(self.sample_interval)
        if not 0 < interval <= _LONGEST_INTERVAL_S:
            shown = describe(self.sample_interval)
            msg = f"sample_interval is {shown} s; give seconds above 0 and up to {_LONGEST_INTERVAL_S:g}."
            raise ConfigurationError(msg)
        idle = plain_number(self.idle_seconds)
        if not 0 <= idle <= _LONGEST_IDLE_S:
            shown = describe(self.idle_seconds)
            msg = f"idle_seconds is {shown}; give seconds to measure idle power for, such as 3, or 0 for none; at most an hour."
            raise ConfigurationError(msg)
        for name, plain in (("sample_interval", interval), ("idle_seconds", idle)):
            object.__setattr__(self, name, plain)  # as floats of Python, once and for all
        check_currency(self.currency)
        for name, (accepts, advice) in _TYPES.items():
            value = getattr(self, name)
            if not accepts(value):
                msg = f"{name} is {describe(value)}; give {advice}."
                raise ConfigurationError(msg)
        if self.raw_readings and self.recording is not None:
            msg = "raw_readings=True is a recording beside the record; leave out recording, or raw_readings."
            raise ConfigurationError(msg)

    def chosen(self) -> dict[str, str]:
        """Return the options that affect the figures and differ from their defaults, as texts; of an object, its class."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self) if each.metadata.get(FIGURES)}
        return {
            name: describe(value) if isinstance(value, str | Real | Mapping | Sequence) else type(value).__name__
            for name, (value, default) in values.items()
            if value is not default and not (isinstance(value, str | int | float) and value == default)
        }


def is_flag(value: object) -> bool:
    """Return whether a value is true or false, including those of numpy."""
    return type(value).__name__ in {"bool", "bool_"}


def _is_scope(value: object) -> bool:
    return isinstance(value, str) and value in {"machine", "process"}


def _is_place(value: object) -> bool:
    """Return whether a value is a path or a URL; no path has a NUL."""
    try:
        path = "" if value is None else os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return isinstance(path, str) and "\0" not in path


def _is_file(value: object) -> bool:
    """Return whether a value is the path of a file on this machine that is no run's record, or None."""
    path = os.fspath(value) if value is not None and _is_place(value) else ""  # type: ignore[call-overload]
    name = os.path.basename(path)  # noqa: PTH119 - of a/, Path has the name a
    return value is None or (bool(name) and "://" not in path and not _is_record(name))


def _is_record(name: str) -> bool:
    """Return whether a record of a run, or of one of its processes, has this name."""
    return any(fnmatchcase(name, pattern) for pattern in ("energy.json", "energy.rank*.json"))


def _are_tags(value: object) -> bool:
    return value is None or (
        isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    )


def _are_backends(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, Sequence) and all(callable(getattr(backend, "open", None)) for backend in value)


_TYPES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "output_dir": (_is_place, "a directory, or a URL such as 's3://bucket/run'"),
    "recording": (_is_file, "a file on this machine, such as 'raw.jsonl', but not energy.json, which is the run's record"),
    "raw_readings": (is_flag, "True or False"),
    "verbose": (is_flag, "True or False"),
    "scope": (_is_scope, "'machine' or 'process'"),
    "flops_per_sample": (
        is_flops_per_sample,
        "the FLOPs of a training sample, such as 6e9, or of a sample in each stage, such as {'train': 6e9, 'predict': 2e9}",
    ),
    "tags": (_are_tags, "names with texts, such as {'team': 'vision'}"),
    "backends": (_are_backends, "a list of backends, or None for all that are known"),
}
"""Which values an option takes, and the advice for others. Devices, place, intensity, price, currency and the data centre's
numbers are checked where they are read."""


def takes(
    options: Callable[_Names, _Options],
) -> Callable[[Callable[[_Self, _Options], None]], Callable[Concatenate[_Self, _Names], None]]:
    """Return a decorator for a constructor that uses options as one object: callers pass them by name, as to ``options``."""

    def decorate(init: Callable[[_Self, _Options], None]) -> Callable[Concatenate[_Self, _Names], None]:
        signature = inspect.signature(options)

        def __init__(self: _Self, /, *args: _Names.args, **kwargs: _Names.kwargs) -> None:  # noqa: N807 - it becomes that
            signature.bind(*args, **kwargs)  # its errors do not name the class of the options
            init(self, options(*args, **kwargs))

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        __init__.__doc__ = init.__doc__
        __init__.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
        __init__.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
        return __init__

    return decorate


def documents(options: type) -> Callable[[type[_Self]], type[_Self]]:
    """Return a decorator that documents options in a class's docstring; what that says of an option itself stays."""

    def decorate(cls: type[_Self]) -> type[_Self]:
        cls.__doc__ = _documented(cls.__doc__, options.__doc__)
        return cls

    return decorate


def _documented(own: str | None, options: str | None) -> str | None:
    """Return a class's docstring with the options in its section ``Args``."""
    if own is None or options is None:  # as with python -OO
        return own
    own, options = inspect.cleandoc(own) + "\n", inspect.cleandoc(options) + "\n"
    args = {
        arg["name"]: arg[0]
        for text in (options, own)
        for section in _ARGS.finditer(text)
        for arg in _ARG.finditer(section["args"])
    }
    section = "\n\nArgs:\n" + "\n".join(args.values()) + "\n"
    if _ARGS.search(own):
        return _ARGS.sub(lambda _: section, own)
    text, raises, rest = own.partition("\n\nRaises:\n")
    return text.rstrip("\n") + section + ("\nRaises:\n" + rest if raises else "")
