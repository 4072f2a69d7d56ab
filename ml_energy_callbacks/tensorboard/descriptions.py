"""Descriptions of the energy tags, which TensorBoard shows beside each chart: what the metric means, and its unit."""

from typing import Any

from ml_energy_callbacks.metrics import described

_PREFIX = "energy/"


def add_description(value: Any) -> None:  # noqa: ANN401 - a Summary.Value of tensorboard, torch or tensorboardX
    """Add the description of its metric to a value of a summary, unless it is of another one or has a description."""
    _, found, rest = value.tag.rpartition(_PREFIX)  # Transformers puts a prefix before the name
    if found and "/" in rest and not value.metadata.summary_description:
        value.metadata.summary_description = described(found + rest)


class DescribingWriter:
    """Passes on the events of a user's ``SummaryWriter``, with a description in the first value of each energy tag."""

    def __init__(self, writer: Any) -> None:  # noqa: ANN401 - the event writer of tensorboard or tensorboardX
        self._writer = writer
        self._seen: set[str] = set()

    def add_event(self, event: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the writer takes it
        """Pass on an event."""
        for value in event.summary.value:
            if value.tag not in self._seen and _PREFIX in value.tag:
                self._seen.add(value.tag)
                add_description(value)
        self._writer.add_event(event, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else the writer has
        return getattr(self._writer, name)


def describe_tags(summary_writer: Any) -> None:  # noqa: ANN401 - of torch or tensorboardX
    """Let a ``SummaryWriter`` describe the energy tags; nothing where it is built differently.

    Uses ``_get_file_writer`` and ``event_writer`` (torch/utils/tensorboard/writer.py of torch 2.13; tensorboardX has the same).
    """
    file_writer: Any = getattr(summary_writer, "_get_file_writer", lambda: None)()
    writer = getattr(file_writer, "event_writer", None)
    if writer is not None and not isinstance(writer, DescribingWriter):
        file_writer.event_writer = DescribingWriter(writer)
