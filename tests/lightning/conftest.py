"""What Lightning itself warns of, and we cannot help."""

import warnings
from collections.abc import Iterator

import pytest

LIGHTNINGS_OWN = (
    ".*does not have many workers.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
    ".*GPU available but not used.*",
    ".*smaller than the logging interval.*",
    ".*Running in `fast_dev_run` mode.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`trainer.init_module`.*",
    ".*Trying to infer the `batch_size`.*",
    ".*You defined a `validation_step` but have no `val_dataloader`.*",
    ".*`..._dataloader` is set to 0.*",
    ".*torch.*deprecated.*",
    ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ".*Detected KeyboardInterrupt.*",
)


@pytest.fixture(autouse=True)
def _lightnings_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in LIGHTNINGS_OWN:
            warnings.filterwarnings("ignore", message)
        yield
