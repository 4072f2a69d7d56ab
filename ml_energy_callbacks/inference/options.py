"""Options of the measurements, their checks, and their meter."""

from collections.abc import Iterable, Sequence
from functools import partial
from numbers import Integral
from typing import Literal

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.engine import MeterBench
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import is_positive
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.safe_text import describe


def check_measurement(relative_width: float, max_seconds: float, progress: object) -> None:
    """Check the requested width of the intervals, the time limit, and what is to be called with the results so far.

    Raises:
        ConfigurationError: A value is invalid.
    """
    if not is_positive(relative_width) or relative_width >= 1:
        msg = f"relative_width is {describe(relative_width)}; give a fraction between 0 and 1, such as 0.05 for ±5 %."
        raise ConfigurationError(msg)
    if not is_positive(max_seconds):
        msg = f"max_seconds is {describe(max_seconds)}; give seconds above 0, such as 120."
        raise ConfigurationError(msg)
    if progress is not None and not callable(progress):
        msg = f"progress is {describe(progress)}; give a function of the results so far, or None."
        raise ConfigurationError(msg)


def check_latency_limit(latency_limit: float | None) -> None:
    """Check the requested limit of the latency.

    Raises:
        ConfigurationError: The value is invalid.
    """
    if latency_limit is not None and not is_positive(latency_limit):
        msg = f"latency_limit is {describe(latency_limit)}; give seconds above 0, or None for no limit."
        raise ConfigurationError(msg)


def check_whole_numbers(name: str, values: object, one: str, example: Sequence[int]) -> list[int]:
    """Return whole numbers that the user gave, such as batch sizes.

    Args:
        name: Name of the option.
        values: Its value.
        one: What one of them is called.
        example: What the option may be.

    Raises:
        ConfigurationError: The value is invalid.
    """
    if not isinstance(values, Iterable):
        msg = f"{name} is {describe(values)}; give whole numbers, such as {tuple(example)}."
        raise ConfigurationError(msg)
    found = list(values)
    if not found:
        msg = f"There is no {one} to measure; give some, such as {tuple(example)}."
        raise ConfigurationError(msg)
    wrong = [value for value in found if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1]
    if wrong or len(set(found)) < len(found):
        msg = f"{name} are {describe(tuple(found))}; give whole numbers from 1 upwards, each once."
        raise ConfigurationError(msg)
    return [int(value) for value in found]


def _slowest_refresh_s(meter: EnergyMeter) -> float:
    """Return the refresh period in s of the slowest device that is part of the total, as far as it is known."""
    learned = [device.update_period_s or 0.0 for device in meter.record.devices]
    devices = [source.device for source in meter.discovery.sources]
    return max([0.0, *learned, *(device.min_interval_s for device in devices if not device.whole_machine)])


def quiet_meter(devices: Literal["auto"] | Sequence[str], backends: Sequence[Backend] | None) -> EnergyMeter:
    """Return a meter for joules only; the intensity of 0 prevents it from looking one up."""
    return EnergyMeter(devices=devices, carbon_intensity=0.0, verbose=False, backends=backends)


def bench_of(meter: EnergyMeter) -> MeterBench:
    """Return what measures blocks of calls with a meter, by the refresh period of its slowest device."""
    return MeterBench(meter, partial(_slowest_refresh_s, meter))
