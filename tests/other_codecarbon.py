"""Another codecarbon than the one of the environment, for as long as a test runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_energy_callbacks import codecarbon_data
from ml_energy_callbacks.backends import cpu_model
from ml_energy_callbacks.carbon import places


@contextmanager
def installed(site: Path, release: str | None) -> Iterator[Path]:
    """Have the codecarbon of this folder be the installed one, of a release or of an unknown one, and give its data."""
    if release is not None:
        metadata = site / f"codecarbon-{release}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: codecarbon\nVersion: {release}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.delitem(sys.modules, "codecarbon", raising=False)
        _forget()
        yield site / "codecarbon" / "data"
    _forget()


def _forget() -> None:
    for module in (codecarbon_data, places, cpu_model):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
