"""The environment of the current process: unlike ``os.environ`` itself, it can be pickled for another process."""

import os
from collections.abc import Iterator, Mapping


class Environment(Mapping[str, str]):
    """The present environment variables of the process in which they are read."""

    def __getitem__(self, name: str) -> str:
        """Return a variable's value."""
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the variables' names."""
        return iter(os.environ)

    def __len__(self) -> int:
        """Return the number of variables."""
        return len(os.environ)
