"""Trackers without a network: their settings, a check that nothing leaves the machine, and readers of their files."""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Before they are imported.
OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
os.environ.update(OFFLINE)


@contextlib.contextmanager
def listening_proxy() -> Iterator[tuple[Mapping[str, str], list[bytes]]]:
    """Yield the environment in which every request goes to a local proxy, and the requests that it received."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(1)
                        requests.append(connection.recv(200))

        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield {**OFFLINE, **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)}, requests
        server.shutdown(socket.SHUT_RDWR)


def refuse_the_network() -> None:
    """Make every connection of this process to another machine fail, and every look-up of one."""

    def look(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(args[1], tuple) and not args[1][0].startswith(("127.", "::1", "localhost")):
            sys.stderr.write(f"a connection to {args[1]}\n")
            raise PermissionError(args[1])
        if event == "socket.getaddrinfo" and args[0] not in {None, "localhost", "127.0.0.1", "::1", socket.gethostname()}:
            sys.stderr.write(f"a search for {args[0]}\n")
            raise PermissionError(args[0])

    sys.addaudithook(look)


class WandbRun(NamedTuple):
    """A run of Weights & Biases: its configuration, its rows, and its summary in the table of runs."""

    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]

    def series(self, name: str, axis: str = "trainer/global_step") -> list[tuple[int, float]]:
        """Return a metric's steps and values."""
        return [(row[axis], row[name]) for row in self.history if name in row]


def read_wandb(folder: Path) -> WandbRun:
    """Return the one offline run below a folder.

    Releases of wandb no longer include a reader in Python, only the messages. A ``.wandb`` file is, after seven bytes, a log in
    LevelDB's format.
    """
    from wandb.proto import wandb_internal_pb2 as messages  # noqa: PLC0415 - not every test environment has it

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(600):
        records = [messages.Record.FromString(data) for data in _records(path.read_bytes())]
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)  # wandb's own process writes it, somewhat later on a busy machine
    run = WandbRun({}, [], {})
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind in {"run", "config"}:
            run.config.update(_items((record.run.config if kind == "run" else record.config).update))
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
    return run


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


_BLOCK = 32768
_HEADER = struct.Struct("<IHB")
"""Header of a fragment of a record: checksum, length, and type of the fragment."""
_WHOLE, _LAST = 1, 4


def _records(data: bytes) -> Iterator[bytes]:
    assert data.startswith(b":W&B")
    at, record = 7, b""
    while at + _HEADER.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        _, length, piece = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if at + length > len(data):  # not complete yet
            return
        record += data[at : at + length]
        at += length
        if piece in {_WHOLE, _LAST}:
            yield record
            record = b""


class Row(NamedTuple):
    """A row of the table in TensorBoard's tab HParams."""

    run: str
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]


def read_hparams(folder: Path) -> list[Row]:
    """Return the table that TensorBoard shows in its tab HParams."""
    from tensorboard import context  # noqa: PLC0415 - not every test environment has it
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer  # noqa: PLC0415 - as above
    from tensorboard.plugins import base_plugin  # noqa: PLC0415 - as above
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups  # noqa: PLC0415 - as above

    runs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    board = base_plugin.TBContext(
        logdir=str(folder), multiplexer=runs, data_provider=data_provider.MultiplexerDataProvider(runs, str(folder))
    )
    wanted = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=api_pb2.Status.values())
    found = list_session_groups.Handler(context.RequestContext(), backend_context.Context(board), "", wanted).run()
    return [
        Row(
            group.sessions[0].name,
            {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
            {metric.name.tag: metric.value for metric in group.metric_values},
        )
        for group in found.session_groups
    ]
