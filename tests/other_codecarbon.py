"""Replace the installed codecarbon during a test."""

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
    """Make this folder's codecarbon the installed one, with this release or an unknown one, and yield its data folder."""
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
