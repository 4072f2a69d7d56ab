"""The runs that TensorBoard has read, as records: from snapshots, and from the scalars of logs without any."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.safe_text import in_texts, printable
from ml_energy_callbacks.tensorboard.event_file import SUB_RUN
from ml_energy_callbacks.tensorboard.old_logs import TAGS, record_of
from ml_energy_callbacks.tensorboard.snapshots import PLUGIN, TAG, decode

_MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class TabRun:
    """A run of the tab.

    Attributes:
        name: Name of the user's run in TensorBoard.
        record: Its record, as of the last snapshot; its texts are printable.
        written_at: Wall-clock time of the last data, in s since 1970.
        complete: Whether the record is a snapshot, and not made of the scalars of an earlier release.
    """

    name: str
    record: RunRecord
    written_at: float
    complete: bool = True


def user_run(run: str) -> str:
    """Return the name of the user's run to which an energy run belongs; any other run's own."""
    return "." if run == SUB_RUN else run.removesuffix(f"/{SUB_RUN}")


class Runs:
    """Reads runs through TensorBoard's data provider, each again only once it has new data."""

    def __init__(self, provider: Any) -> None:  # noqa: ANN401 - TensorBoard has no types
        self._provider = provider
        self._known: dict[tuple[str, str, str], TabRun] = {}
        self._lock = threading.Lock()

    def read(self, context: Any, experiment: str) -> tuple[list[TabRun], list[str]]:  # noqa: ANN401 - a RequestContext
        """Return the runs of an experiment in the order of their starts, and what a reader has to know of others."""
        with self._lock:  # a second window waits, and then finds what was read
            notes: list[str] = []
            found = self._from_snapshots(context, experiment, notes)
            names = {run.name for run in found}
            found += [run for run in self._from_scalars(context, experiment, names, notes) if run.name not in names]
            self._known = {(experiment, "snapshot" if run.complete else "scalars", run.name): run for run in found}
        return sorted(found, key=lambda run: (run.record.run.started_at, run.name)), notes

    def has_any(self, context: Any, experiment: str) -> bool:  # noqa: ANN401 - as above
        """Return whether an experiment has scalars of energy."""
        return any(self._list_scalars(context, experiment).values())

    def _list_scalars(self, context: Any, experiment: str) -> Mapping[str, Mapping[str, Any]]:  # noqa: ANN401 - as above
        return (
            self._provider.list_scalars(
                context, experiment_id=experiment, plugin_name=SCALARS, run_tag_filter=RunTagFilter(tags=TAGS)
            )
            or {}
        )

    def _from_snapshots(self, context: Any, experiment: str, notes: list[str]) -> list[TabRun]:  # noqa: ANN401 - as above
        listed = self._provider.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=RunTagFilter(tags=[TAG])
        )
        times = {run: tags[TAG].max_wall_time for run, tags in (listed or {}).items() if TAG in tags}
        found, due = self._split("snapshot", experiment, times)
        if not due:
            return found
        data = self._provider.read_tensors(
            context,
            experiment_id=experiment,
            plugin_name=PLUGIN,
            downsample=1,  # the last one
            run_tag_filter=RunTagFilter(runs=due, tags=[TAG]),
        )
        for run, tags in (data or {}).items():
            for datum in tags.get(TAG, [])[-1:]:
                name = user_run(run)
                try:
                    record = decode(bytes(datum.numpy.item()), f"The snapshot of run {printable(name)}")
                except (RecordError, TypeError, ValueError) as error:
                    notes.append(str(error))
                else:
                    found.append(TabRun(name, in_texts(record, printable), times[run]))
        return found

    def _from_scalars(self, context: Any, experiment: str, known: set[str], notes: list[str]) -> list[TabRun]:  # noqa: ANN401
        listed = self._list_scalars(context, experiment)
        times = {
            run: max(series.max_wall_time for series in tags.values())
            for run, tags in listed.items()
            if tags and user_run(run) not in known
        }
        found, due = self._split("scalars", experiment, times)
        if not due:
            return found
        data = self._provider.read_scalars(
            context,
            experiment_id=experiment,
            plugin_name=SCALARS,
            downsample=_MOST_STEPS,
            run_tag_filter=RunTagFilter(runs=due, tags=TAGS),
        )
        for name, runs in _grouped(data or {}).items():
            record = record_of(name, runs)
            if record is None:
                notes.append(f"Run {printable(name)} has no energy of a whole run in its scalars.")
            else:
                written = max(times[run] for run in due if user_run(run) == name)
                found.append(TabRun(name, in_texts(record, printable), written, complete=False))
        return found

    def _split(self, kind: str, experiment: str, times: Mapping[str, float]) -> tuple[list[TabRun], list[str]]:
        """Return the runs that are known as they are, and the names of those to be read, by the times of their last data."""
        newest: dict[str, float] = {}
        for run, time in times.items():
            newest[user_run(run)] = max(time, newest.get(user_run(run), 0.0))
        known = {name: self._known.get((experiment, kind, name)) for name in newest}
        kept = {name: run for name, run in known.items() if run is not None and run.written_at >= newest[name]}
        return list(kept.values()), [run for run in times if user_run(run) not in kept]


def _grouped(data: Mapping[str, Mapping[str, Iterable[Any]]]) -> dict[str, list[Mapping[str, Iterable[Any]]]]:
    """Return the series of each of the user's runs, which may be in the run and in the energy run below it."""
    groups: dict[str, list[Mapping[str, Iterable[Any]]]] = {}
    for run, series in data.items():
        groups.setdefault(user_run(run), []).append(series)
    return groups
