"""Power over the time of a run: series of a device one after another, and of many devices in equal slices; pure."""

from collections.abc import Mapping
from math import ceil

from msgspec.structs import replace

from ml_energy_callbacks.attribution.power_trace import MOST_SLICES, PowerTrace, merge_pairs
from ml_energy_callbacks.record.schema import PowerSeries

MOST_IN_ALL = 10_000
"""Most slices of all devices in a record, 0.2 MB of it."""

_NEARLY = 1 - 1e-9


def power_series(trace: PowerTrace) -> PowerSeries:
    """Return the power of a device over time, from the first slice in which it is known."""
    mean, low, high = trace.slices()
    first = next((place for place, watts in enumerate(mean) if watts is not None), len(mean))
    return PowerSeries(
        slice_s=trace.slice_s, start_s=first * trace.slice_s, mean=mean[first:], low=low[first:], high=high[first:]
    )


def limit_power(power: Mapping[str, PowerSeries], most: int = MOST_IN_ALL) -> dict[str, PowerSeries]:
    """Return the series of all devices in slices of one length, which is doubled until there are few enough.

    Args:
        power: The series by device.
        most: How many slices all of them together may have.
    """
    slice_s = _longest_slice(power)
    while True:
        power = _in_slices(power, slice_s)
        lengths = [len(series.mean) for series in power.values()]
        longest = max(lengths, default=0)
        if longest <= 1 or (longest <= MOST_SLICES and sum(lengths) <= most):
            return power
        slice_s *= 2


def join_power(earlier: Mapping[str, PowerSeries], later: Mapping[str, PowerSeries], seconds: float) -> dict[str, PowerSeries]:
    """Return the series of a run that went on, whose earlier part took so many seconds.

    The later part begins with a slice, up to one slice late, so that no slice holds some of both.
    """
    slice_s = _longest_slice({**earlier, **later})
    before, after = _in_slices(earlier, slice_s), _in_slices(later, slice_s)
    offset = ceil(seconds / slice_s * _NEARLY) * slice_s if slice_s else 0.0
    moved = {name: replace(series, start_s=series.start_s + offset) for name, series in after.items()}
    both = {name: _joined(series, moved[name]) for name, series in before.items() if name in moved}
    return before | moved | both


def _longest_slice(power: Mapping[str, PowerSeries]) -> float:
    return max((series.slice_s for series in power.values()), default=0.0)


def _in_slices(power: Mapping[str, PowerSeries], slice_s: float) -> dict[str, PowerSeries]:
    return {name: _coarser(series, slice_s) for name, series in power.items()}


def _coarser(series: PowerSeries, slice_s: float) -> PowerSeries:
    """Return a series in slices that are at least so long."""
    while series.slice_s < slice_s * _NEARLY:
        first = _first(series)
        ahead = [None] * (first % 2)
        behind = [None] * ((first + len(series.mean)) % 2)
        mean, low, high = merge_pairs(*([*ahead, *watts, *behind] for watts in (series.mean, series.low, series.high)))
        length = 2 * series.slice_s
        series = PowerSeries(slice_s=length, start_s=first // 2 * length, mean=mean, low=low, high=high)
    return series


def _joined(a: PowerSeries, b: PowerSeries) -> PowerSeries:
    gap = [None] * (_first(b) - _first(a) - len(a.mean))
    mean, low, high = ([*one, *gap, *other] for one, other in ((a.mean, b.mean), (a.low, b.low), (a.high, b.high)))
    return replace(a, mean=mean, low=low, high=high)


def _first(series: PowerSeries) -> int:
    """Return the number of slices before the first one."""
    return round(series.start_s / series.slice_s)
