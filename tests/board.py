"""A real TensorBoard in this process, on loopback, and log directories with made-up runs."""

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import Seen, opened
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.tensorboard.energy_run import EnergyRun
from ml_energy_callbacks.tensorboard.event_file import EventFile
from ml_energy_callbacks.tensorboard.loader import EnergyLoader
from ml_energy_callbacks.tensorboard.snapshots import PLUGIN, TAG

with warnings.catch_warnings(action="ignore"):  # of what TensorBoard has copied into itself
    import tensorboard.default
    import tensorboard.program


TAB = "data/plugin_entry.html?name=ml_energy"
"""The tab by itself, below the address of a TensorBoard."""


def write_run(folder: Path, record: RunRecord) -> EnergyRun:
    """Write a run as a callback does; return it, for further snapshots."""
    warnings: list[str] = []
    run = EnergyRun(folder, warnings.append, {})
    run.follow(lambda: record, last=True)
    assert warnings == []
    return run


def write_raw(folder: Path, data: bytes) -> None:
    """Write a snapshot that is none."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class=DATA_CLASS_TENSOR)
    tensor = TensorProto(dtype=DT_STRING, string_val=[data], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=TAG, metadata=metadata, tensor=tensor)
    EventFile(folder / "energy").add_event(Event(step=1, summary=Summary(value=[value])))


@contextmanager
def served(logdir: Path) -> Iterator[str]:
    """Serve a log directory in this process, which is read again each second; yield the address."""
    plugins = [*tensorboard.default.get_plugins(), EnergyLoader]
    found = tensorboard.program.TensorBoard(plugins=list(dict.fromkeys(plugins)))
    found.configure(argv=["tensorboard", *_options(logdir), "--load_fast", "false"])
    server = found._make_server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.get_url()
    finally:
        server.shutdown()
        thread.join(10)


@contextmanager
def served_by_command(logdir: Path, *, fast: bool) -> Iterator[str]:
    """Serve a log directory by TensorBoard's own command, which finds the plug-in by its entry point; yield the address.

    Args:
        logdir: The directory.
        fast: Whether TensorBoard's data server in Rust reads it.
    """
    command = [sys.executable, "-m", "tensorboard.main", *_options(logdir), "--load_fast", "true" if fast else "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(word for line in server.stderr for word in line.split() if word.startswith("http://127"))
        finally:
            server.terminate()


@contextmanager
def shown(browser: Any, logdir: Path, *, runs: int, **options: Any) -> Iterator[Seen]:
    """Show the tab by itself, once TensorBoard has read the runs."""
    with served(logdir) as address, opened(browser, f"{address}{TAB}", **options) as seen:
        wait_until(lambda: f"{runs:,} run" in refreshed(seen) or f"of {runs:,} run" in seen.text())
        yield seen


def refreshed(seen: Seen) -> str:
    """Let the tab ask again, which it also does by itself every ten seconds; return its text."""
    form = seen.page.locator("form")
    if form.count():
        form.dispatch_event("submit")
    else:
        seen.page.reload()
    seen.page.wait_for_load_state("networkidle")
    return seen.text()


def _options(logdir: Path) -> list[str]:
    return ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]


def wait_until(true: object, seconds: float = 180.0) -> None:
    """Wait until a function returns a true value."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
