"""Event files for TensorBoard, written with the package ``tensorboard`` only.

Its own ``EventFileWriter`` imports TensorFlow if that is installed, which takes seconds.
"""

import itertools
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from ml_energy_callbacks.tensorboard.descriptions import add_description

SUB_RUN = "energy"
"""Name of the energy run, below the user's run."""

_serial = itertools.count()


def sub_run(log_dir: Path) -> Path:
    """Return the folder of the energy run below the user's run."""
    return log_dir / SUB_RUN


class EventFile:
    """A new event file in a folder; it is only open during a write, so it need not be closed.

    TensorBoard reads the files of a folder one after the other, and does not return to an earlier one: what is written in
    turns has to be in one file.
    """

    def __init__(self, folder: Path) -> None:
        """Create the file, and the folder if it is missing.

        Raises:
            OSError: The folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_serial)}.energy"
        self.path = folder / name
        self._lock = threading.Lock()
        self._described: set[str] = set()
        self.add_event(Event(file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        """Append an event, at the current wall-clock time.

        Raises:
            OSError: The file cannot be written.
        """
        event.wall_time = time.time()
        with self._lock, self.path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Append scalars by their tags; raises as :meth:`add_event`."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for value in values:
            if value.tag not in self._described:
                self._described.add(value.tag)
                add_description(value)
        self.add_event(Event(step=step, summary=Summary(value=values)))
