"""What the frameworks themselves warn of, and we cannot help."""

import warnings
from collections.abc import Iterator

import pytest

THEIR_OWN = (
    ".*does not have many workers.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*torch.*deprecated.*",
    ".*You defined a `validation_step` but have no `val_dataloader`.*",
    ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ".*Detected KeyboardInterrupt.*",
    ".*__array__ implementation doesn't accept a copy keyword.*",
    ".*`shuffle=True` was passed, but will be ignored.*",
)


@pytest.fixture(autouse=True)
def _their_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in THEIR_OWN:
            warnings.filterwarnings("ignore", message)
        yield
