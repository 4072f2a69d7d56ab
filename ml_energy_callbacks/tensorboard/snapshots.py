"""Snapshots of the run's record, which the tab Energy shows: written while the run goes on, and at its end.

They are data of the plug-in, so that TensorBoard finds them in any log directory that it can read. A snapshot has at most
60 kB before it is compressed, and the time between two of them grows with the run: a week takes some ten megabytes at most.
"""

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.deadline.calls import LateError, in_background, within
from ml_energy_callbacks.record.load import decode_record
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.page.embedded import embed
from ml_energy_callbacks.tensorboard.event_file import EventFile

if TYPE_CHECKING:
    from concurrent.futures import Future

PLUGIN = "ml_energy"
"""Name of the plug-in that the snapshots belong to."""

TAG = "energy/record"

_MOST_JSON = 60_000
_MOST_BYTES = 16 << 20
_PAUSE_SHARE, _LONGEST_PAUSE_S = 0.01, 1800.0
_LAST_WRITE_S = 5.0


def pause_after(seconds: float) -> float:
    """Return the least time between two snapshots of a run that has taken so many seconds, in s."""
    return min(_PAUSE_SHARE * seconds, _LONGEST_PAUSE_S)


class Snapshots:
    """Writes snapshots of one run's record into an event file."""

    def __init__(self, file: EventFile, warn: Callable[[str], None]) -> None:
        """Write nothing yet; ``warn`` is called with each warning."""
        self._file = file
        self._warn = warn
        self._began = self._last = monotonic_clock()
        self._writing: Future[None] | None = None

    def follow(self, build: Callable[[], RunRecord], *, last: bool) -> None:
        """Write the record if a snapshot is due and the one before is written; called in a thread of the meter's.

        Args:
            build: Returns the record as of now.
            last: Whether the run has ended; the write is then waited for, for some seconds.
        """
        now = monotonic_clock()
        due = last or (now - self._last) / NS_PER_S >= pause_after((now - self._began) / NS_PER_S)
        if not due or (self._writing is not None and not last and not self._writing.done()):
            return
        self._last = now
        record = build()
        self._writing = in_background(lambda: self._write(record))
        if last:
            try:
                within(_LAST_WRITE_S, self._writing)
            except LateError:
                self._warn("The snapshots for TensorBoard's Energy tab could not be written (no answer).")

    def _write(self, record: RunRecord) -> None:
        value = Summary.Value(
            tag=TAG,
            metadata=SummaryMetadata(
                plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN),
                summary_description="The run's energy record, as the tab Energy shows it.",
                data_class=DATA_CLASS_TENSOR,
            ),
            tensor=TensorProto(dtype=DT_STRING, string_val=[encode(record)], tensor_shape=TensorShapeProto()),
        )
        try:
            self._file.add_event(Event(step=int(record.total.seconds), summary=Summary(value=[value])))
        except OSError as error:
            self._warn(f"The snapshots for TensorBoard's Energy tab could not be written ({error.strerror}).")


def encode(record: RunRecord) -> bytes:
    """Return a snapshot of a record, in which epochs and slices of power are merged where there are many."""
    json, _ = embed(replace(record, part=None), _MOST_JSON)
    return zlib.compress(json.encode())


def decode(data: bytes, name: str) -> RunRecord:
    """Return the record of a snapshot.

    Args:
        data: The snapshot.
        name: What an error calls it.

    Raises:
        RecordError: It is no record of a known version.
    """
    try:
        text = zlib.decompressobj().decompress(data, _MOST_BYTES)
    except zlib.error:
        text = b""
    return decode_record(text, name)
