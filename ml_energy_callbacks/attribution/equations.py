"""Rows of a regression -> the sums of its normal equations, in consecutive blocks of constant number; pure.

The scatter between blocks gives the error of the fit (``jackknife``), and blocks may have a mean power of their own. Each new
row is added to the last block; when there are too many blocks, neighbours are merged, so that memory does not grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Self

import numpy as np

from ml_energy_callbacks.attribution.segments import Floats, Indices

MOST_BLOCKS = 30
"""At this number of blocks, neighbours are merged in pairs."""

_FIRST_SIZE = 4
"""Rows of a block at first: a stage of few rows then has some blocks, too."""


@dataclass(frozen=True, slots=True)
class Block:
    """Sums over consecutive rows, each weighted by one over the length of its interval; immutable, as a fit goes on with them.

    The regression is that of joules on features and on the length itself (times the mean power, known only at the end).

    Attributes:
        rows: Number of rows.
        seconds: Sum of their lengths in s.
        normal: Features x features; as it is symmetric, the rows of its lower triangle, one after another.
        joules: Features x joules.
        lengths: Features x lengths.
        features: Features, not weighted.
        squares: Joules x joules, joules x lengths, lengths x lengths.
        sums: Joules and lengths, not weighted.
    """

    rows: int
    seconds: float
    normal: Floats
    joules: Floats
    lengths: Floats
    features: Floats
    squares: Floats
    sums: Floats

    @classmethod
    def of(cls, features: Floats, joules: Floats, lengths: Floats, seconds: Floats) -> Self:
        """Return the sums over rows.

        Args:
            features: Of each row, in s.
            joules: Of each row.
            lengths: Of each row in s: like ``seconds``, but filtered as features and joules are.
            seconds: Length of each row's interval in s.
        """
        weighted = features / seconds[:, None]
        both = np.stack([joules, lengths])
        return cls(
            len(joules),
            float(seconds.sum()),
            (features.T @ weighted)[_triangle(features.shape[1])],
            joules @ weighted,
            lengths @ weighted,
            features.sum(axis=0),
            np.array([both[0] @ (both[0] / seconds), both[0] @ (both[1] / seconds), both[1] @ (both[1] / seconds)]),
            both.sum(axis=1),
        )

    def merged(self, other: "Block") -> "Block":
        """Return the sums over the rows of this block and a later one, which may have columns that this one has not."""
        mine = self.widened(len(other.features))
        return Block(
            mine.rows + other.rows,
            mine.seconds + other.seconds,
            mine.normal + other.normal,
            mine.joules + other.joules,
            mine.lengths + other.lengths,
            mine.features + other.features,
            mine.squares + other.squares,
            mine.sums + other.sums,
        )

    def widened(self, columns: int) -> "Block":
        """Return the block with so many columns; those that it has not were 0 in all rows."""
        more = columns - len(self.features)
        if more <= 0:
            return self
        joules, lengths, features = (np.pad(each, (0, more)) for each in (self.joules, self.lengths, self.features))
        normal = np.pad(self.normal, (0, len(_triangle(columns)[0]) - len(self.normal)))
        return replace(self, normal=normal, joules=joules, lengths=lengths, features=features)


@lru_cache(maxsize=4)
def _triangle(columns: int) -> tuple[Indices, Indices]:
    """Return the rows and columns of the elements of a lower triangle."""
    return np.tril_indices(columns)


class Equations:
    """The normal equations of a stage of one device, in blocks.

    Attributes:
        blocks: The blocks, oldest first.
    """

    def __init__(self) -> None:
        """Start without rows."""
        self.blocks: list[Block] = []
        self._size = _FIRST_SIZE

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return sum(block.rows for block in self.blocks)

    def add(self, features: Floats, joules: Floats, lengths: Floats, seconds: Floats) -> None:
        """Add rows, as in :meth:`Block.of`."""
        done = 0
        while done < len(joules):
            full = not self.blocks or self.blocks[-1].rows >= self._size
            if full and len(self.blocks) == MOST_BLOCKS:
                self._merge_pairs()
            room = self._size - (0 if full else self.blocks[-1].rows)
            some = slice(done, done + room)
            block = Block.of(features[some], joules[some], lengths[some], seconds[some])
            if full:
                self.blocks.append(block)
            else:
                self.blocks[-1] = self.blocks[-1].merged(block)
            done += block.rows

    def _merge_pairs(self) -> None:
        self.blocks = [mine.merged(other) for mine, other in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
        self._size *= 2


@dataclass(frozen=True, slots=True)
class Groups:
    """Blocks in groups of about equally many rows, in units of the mean power.

    Attributes:
        rows: Number of rows in all.
        seconds: Length of each group in s.
        normal: Features x features of each group, in s.
        right: Features x (joules / mean power - length) of each group, in s.
        features: Features of each group, in s.
        squares: Squares of (joules / mean power - length) in all, in s.
        sums: Sum of (joules / mean power - length) of each group, in s.
    """

    rows: int
    seconds: Floats
    normal: Floats
    right: Floats
    features: Floats
    squares: float
    sums: Floats

    @classmethod
    def of(cls, blocks: Sequence[Block], columns: int, count: int, mean: float) -> Self:
        """Return at most ``count`` groups of blocks with this many columns; ``mean`` is the mean power in W."""
        begins = np.unique(np.linspace(0, len(blocks), min(count, len(blocks)), endpoint=False).astype(int)).tolist()
        size = len(begins)
        row, column = _triangle(columns)
        seconds, sums, lower = np.zeros(size), np.zeros(size), np.zeros((size, len(row)))
        right, features = np.zeros((2, size, columns))
        squares = np.zeros(3)
        for i, (begin, end) in enumerate(pairwise([*begins, len(blocks)])):
            for block in blocks[begin:end]:
                own = slice(len(block.features))  # columns that it has not were 0 in all rows
                seconds[i] += block.seconds
                lower[i, : len(block.normal)] += block.normal
                right[i, own] += block.joules / mean - block.lengths
                features[i, own] += block.features
                sums[i] += block.sums[0] / mean - block.sums[1]
                squares += block.squares
        normal = np.empty((size, columns, columns))
        normal[:, row, column] = normal[:, column, row] = lower
        scatter = float(squares[0] / mean**2 - 2 * squares[1] / mean + squares[2])
        return cls(sum(block.rows for block in blocks), seconds, normal, right, features, scatter, sums)
