"""Quantiles of any number of times in bounded memory."""

from collections import Counter

_BITS = 7
"""Binary digits to which a time is stored: a precision of 0.8 %."""


class Quantiles:
    """A histogram whose bins are as wide as a fixed share of their values, after HdrHistogram (G. Tene)."""

    def __init__(self, bins: Counter[int] | None = None) -> None:
        """Begin without a value."""
        self._bins: Counter[int] = bins or Counter()

    def add(self, value: int, times: int = 1) -> None:
        """Add a value from 0 upwards."""
        shift = max(0, value.bit_length() - _BITS)
        self._bins[shift << _BITS | value >> shift] += times

    def copy(self) -> "Quantiles":
        """Return an independent copy."""
        return Quantiles(self._bins.copy())

    def plus(self, other: "Quantiles | None") -> "Quantiles":
        """Return the quantiles of the values of both."""
        return self if other is None else Quantiles(self._bins + other._bins)  # noqa: SLF001 - its own class

    @property
    def count(self) -> int:
        """Number of values."""
        return self._bins.total()

    def at(self, share: float) -> float:
        """Return the value at or below which this share of the values lies, to 0.8 %.

        Raises:
            ValueError: There is no value.
        """
        rank, passed = share * self.count, 0
        for key in sorted(self._bins):
            passed += self._bins[key]
            if passed >= rank:
                shift = key >> _BITS
                return ((key & (1 << _BITS) - 1) << shift) + ((1 << shift) - 1) / 2
        msg = "There is no quantile of no value."
        raise ValueError(msg)
