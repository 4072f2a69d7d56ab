"""Versions of what a run used, for those who want to repeat it."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_FRAMEWORKS: Final = (
    "accelerate",
    "jax",
    "keras",
    "lightning",
    "numpy",
    "pytorch_lightning",
    "tensorflow",
    "torch",
    "transformers",
)


def used_versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the frameworks that the program has imported."""
    return {"python": platform.python_version(), **dict(_of_package()), **dict(_of_frameworks())}


def _of_package() -> Iterator[tuple[str, str]]:
    try:
        yield "ml-energy-callbacks", version("ml-energy-callbacks")
    except (PackageNotFoundError, OSError):  # as where the process may open no more files
        return


def _of_frameworks() -> Iterator[tuple[str, str]]:
    for name in _FRAMEWORKS:
        found = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(found, str):
            yield name, str(found)  # torch's is of a class of its own
