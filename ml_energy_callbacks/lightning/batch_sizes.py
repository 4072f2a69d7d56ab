"""Batch sizes of a data loader that are known without looking at each batch."""

from math import isfinite
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from ml_energy_callbacks.frameworks.batch_size import first_length
from ml_energy_callbacks.meter.unforeseen import pass_users_error


class LoaderSizes:
    """What is known of the sizes of a loader's batches.

    Args:
        loader: The data loader, or None if it is unknown.

    Attributes:
        expected: Batch size that the loader was set to; None if it is unknown.
        uniform: Whether torch's own sampling and collation give every batch but the last that size, whatever it contains.
        usual: Size of the batches whose first array has that length; None if the length does not show the size.
        sure: Batches with a lower index have the expected size.
    """

    __slots__ = ("expected", "sure", "uniform", "usual")

    def __init__(self, loader: Any) -> None:  # noqa: ANN401 - loaders are of any type
        self.expected: int | None = None
        self.uniform = False
        self.usual: int | None = None
        self.sure = 0
        try:
            size = getattr(loader, "batch_size", None)
            self.expected = size if isinstance(size, int) else None
            self.uniform = (
                self.expected is not None
                and type(loader) is DataLoader
                and type(loader.batch_sampler) is BatchSampler
                and type(loader.sampler).__module__.startswith("torch.utils.data.")
                and loader.collate_fn is default_collate
                and not isinstance(loader.dataset, IterableDataset)
                and not hasattr(loader.dataset, "__getitems__")
            )
        except Exception as error:  # noqa: BLE001 - the user's loader and data set, whose attributes may raise anything
            pass_users_error(error)

    def learn(self, batch: Any, samples: int | None, count: float) -> None:  # noqa: ANN401 - batches are of any type
        """Learn from a batch whose shapes were examined which batches need not be.

        Args:
            batch: The batch.
            samples: Its number of samples, or None if it is unknown.
            count: Number of batches of the loader; infinite if it is unknown.
        """
        self.usual = samples if samples == first_length(batch) else None
        if self.uniform and samples == self.expected and isfinite(count):
            self.sure = int(count) - 1
