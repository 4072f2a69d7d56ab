"""The options of a meter: their names, types, defaults and documentation, and what is checked of them."""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal

from ml_energy_callbacks.carbon import Intensity, check_currency
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.readings import Backend

FIGURES = "figures"
"""Metadata of the options by which two runs' figures can differ."""

_LONGEST_INTERVAL_S = 10.0

_ARGS = re.compile(r"\n\nArgs:\n(?P<args>(?:    .*\n?|\n(?=    ))+)")
_ARG = re.compile(r"^    (?P<name>\w+): .*(?:\n     .*)*", re.MULTILINE)


@dataclass(kw_only=True, eq=False, repr=False)
class MeterOptions:
    """Options of a meter; a class that inherits from this accepts these options and documents them.

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
        verbose: Whether to log warnings and notes for the user.
        scope: ``"machine"``, or ``"process"`` to estimate this job's share, too: by CPU time, and by a GPU's own account of who
            uses it. It is reported beside the machine's energy and never in its place.
        idle_seconds: How long to measure the idle power of the devices before the run, so that the energy per sample above idle
            is reported, too; 0 for not at all.
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
    verbose: bool = True
    scope: Literal["machine", "process"] = field(default="machine", metadata={FIGURES: True})
    idle_seconds: float = field(default=0.0, metadata={FIGURES: True})
    tags: Mapping[str, str] | None = None
    backends: Sequence[Backend] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - as of object's
        """Document the options in the class's own docstring; what that says of an option itself stays."""
        super().__init_subclass__(**kwargs)
        inherited = next(base for base in cls.__bases__ if issubclass(base, MeterOptions))
        cls.__doc__ = _documented(cls.__doc__, inherited.__doc__)

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the machine.

        Raises:
            ConfigurationError: An option cannot work; the message says what to do.
        """
        if not (isfinite(self.sample_interval) and 0 < self.sample_interval <= _LONGEST_INTERVAL_S):
            msg = f"sample_interval is {self.sample_interval} s; give seconds above 0 and up to {_LONGEST_INTERVAL_S:g}."
            raise ConfigurationError(msg)
        if self.scope not in {"machine", "process"}:
            msg = f"scope is {self.scope!r}; give 'machine' or 'process'."
            raise ConfigurationError(msg)
        check_currency(self.currency)
        if not (isfinite(self.idle_seconds) and self.idle_seconds >= 0):
            msg = f"idle_seconds is {self.idle_seconds}; give seconds to measure idle power for, such as 3, or 0 for none."
            raise ConfigurationError(msg)
        _check_tags(self.tags)

    @property
    def meter_options(self) -> dict[str, Any]:
        """The options that a meter takes, by name."""
        return {field.name: getattr(self, field.name) for field in fields(MeterOptions)}


def _check_tags(tags: object) -> None:
    if tags is None:
        return
    if not isinstance(tags, Mapping) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        msg = f"tags is {tags!r}; give names with texts, such as {{'team': 'vision'}}."
        raise ConfigurationError(msg)


def _documented(own: str | None, inherited: str | None) -> str | None:
    """Return a class's docstring with the inherited options in its section ``Args``."""
    if own is None or inherited is None:  # as with python -OO
        return own
    own, inherited = inspect.cleandoc(own) + "\n", inspect.cleandoc(inherited) + "\n"
    args = {
        arg["name"]: arg[0]
        for text in (inherited, own)
        for section in _ARGS.finditer(text)
        for arg in _ARG.finditer(section["args"])
    }
    section = "\n\nArgs:\n" + "\n".join(args.values()) + "\n"
    if _ARGS.search(own):
        return _ARGS.sub(lambda _: section, own)
    text, raises, rest = own.partition("\n\nRaises:\n")
    return text.rstrip("\n") + section + ("\nRaises:\n" + rest if raises else "")
