"""The environment of whichever process looks: unlike ``os.environ`` itself, it can be pickled into another one."""

import os
from collections.abc import Iterator, Mapping


class Environment(Mapping[str, str]):
    """The variables of the process that asks, as they are when it asks."""

    def __getitem__(self, name: str) -> str:
        """Return a variable's text."""
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(os.environ)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(os.environ)
