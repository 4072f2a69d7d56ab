"""Records in notebooks: as HTML, as data frames, and as pictures."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, get_args
from xml.etree.ElementTree import Element

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.record.schema import RunRecord, StageRecord
from ml_energy_callbacks.report.drawing import node, to_html
from ml_energy_callbacks.report.headline import headline
from ml_energy_callbacks.report.hints import find_hints
from ml_energy_callbacks.report.notes import phases_of, stages_of
from ml_energy_callbacks.report.page.document import part_style
from ml_energy_callbacks.report.page.run import (
    badges,
    device_tables,
    epoch_pictures,
    headline_list,
    phase_table,
    stage_table,
    title_of,
)
from ml_energy_callbacks.report.pictures import energy_line, power_areas, stage_bars
from ml_energy_callbacks.safe_text import describe, in_texts, printable

Rows = Literal["stages", "substages", "epochs", "power"]

_PACKAGES: Final = ("pandas", "polars")


class Picture:
    """Pictures that a notebook shows, and that :meth:`save` writes to a file for a browser."""

    def __init__(self, title: str, figures: Sequence[Element]) -> None:
        """Take the figures, from top to bottom."""
        self._title, self._figures = title, figures

    def __repr__(self) -> str:
        return f"<{len(self._figures)} pictures of {self._title}; a notebook shows them, and save('energy.html') writes them>"

    def _repr_html_(self) -> str:
        return fragment(self._figures)

    def save(self, path: str | Path) -> None:
        """Write the pictures to an HTML file.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        head = node("head", node("meta", charset="utf-8"), node("title", self._title), node("style", part_style()))
        page = node("html", head, node("body", self._figures, class_="mle"), lang="en")
        try:
            Path(path).write_text(f"<!DOCTYPE html>\n{to_html(page)}\n", encoding="utf-8")
        except OSError as error:
            msg = f"The pictures cannot be written to {describe(path)}: {error.strerror}; use a file in a writable folder."
            raise ConfigurationError(msg) from None


def fragment(contents: Sequence[Element]) -> str:
    """Return contents as a part of a notebook, with their style sheet."""
    return to_html(node("div", node("style", part_style()), contents, class_="mle part"))


def record_html(record: RunRecord) -> str:
    """Return a record as a notebook shows it: headline, stages and the best hint; the rest is folded."""
    lines = headline(record)
    record = in_texts(record, printable)
    hint = next(iter(find_hints(record)), None)
    rest = [*phase_table(record), power_areas(record), energy_line(record), *epoch_pictures(record), *device_tables(record)]
    return fragment(
        [
            badges(record),
            headline_list(lines),
            stage_bars(record),
            stage_table(record),
            *([node("p", node("strong", "Hint: "), hint.text)] if hint is not None else []),
            node("details", node("summary", "Phases, power, epochs and devices"), rest),
        ]
    )


def plot_record(record: RunRecord) -> Picture:
    """Return the pictures of a record."""
    record = in_texts(record, printable)
    return Picture(title_of(record), [stage_bars(record), power_areas(record), energy_line(record), *epoch_pictures(record)])


def record_frame(record: RunRecord, rows: Rows) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return parts of a record as a data frame of pandas or polars.

    Raises:
        ConfigurationError: Neither is installed, or there are no such rows.
    """
    tables = {"stages": _stage_rows, "substages": _substage_rows, "epochs": _epoch_rows, "power": _power_rows}
    if rows not in tables:
        msg = f"rows is {describe(rows)}; use {', '.join(get_args(Rows)[:-1])} or {get_args(Rows)[-1]}."
        raise ConfigurationError(msg)
    return frame(list(tables[rows](record)))


def frame(rows: Sequence[Mapping[str, object]]) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return rows as a data frame of the package that the program uses, or else of the one that is installed.

    Raises:
        ConfigurationError: Neither pandas nor polars is installed.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return _frames().DataFrame({name: [row.get(name) for row in rows] for name in names})


def _frames() -> ModuleType:
    used = [name for name in _PACKAGES if sys.modules.get(name) is not None]
    for name in (*used, *_PACKAGES):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    msg = "A data frame requires pandas or polars: pip install pandas, or use to_dict()."
    raise ConfigurationError(msg)


def _stage_rows(record: RunRecord) -> Iterator[dict[str, object]]:
    for name, stage in stages_of(record):
        yield {"stage": name, **_facts_of(stage)}


def _substage_rows(record: RunRecord) -> Iterator[dict[str, object]]:
    """Yield the sub-stages, apart from the stages, whose sums include them."""
    for name, stage in stages_of(record):
        for own, part in stage.substages.items():
            yield {"stage": name, "substage": own, **_facts_of(part)}


def _facts_of(stage: StageRecord) -> dict[str, object]:
    facts = msgspec.structs.asdict(stage)
    _, devices, latency, flops, _ = (facts.pop(part) for part in ("phases", "devices", "latency", "flops", "substages"))
    return (
        facts
        | {"tokens_per_joule": stage.tokens_per_joule}
        | ({} if flops is None else {_FLOPS[part]: value for part, value in msgspec.structs.asdict(flops).items()})
        | {
            f"{name.replace('/', '_')}_{figure}": getattr(each, figure)
            for name, each in phases_of(stage)
            for figure in _OF_PHASES
        }
        | {f"{device}_joules": joules for device, joules in devices.items()}
        | ({} if latency is None else {f"latency_{part}": value for part, value in msgspec.structs.asdict(latency).items()})
    )


_FLOPS: Final = {
    "total": "flops",
    "per_sample": "flops_per_sample",
    "method": "flops_method",
    "joules_per_flop": "joules_per_flop",
    "flops_per_second": "flops_per_second",
}
_OF_PHASES: Final = ("joules", "low_joules", "high_joules", "seconds")


def _epoch_rows(record: RunRecord) -> Iterator[dict[str, object]]:
    for epoch in record.epochs:
        facts = msgspec.structs.asdict(epoch)
        devices, phases, seconds, metrics = (facts.pop(part) for part in ("devices", "phases", "phase_seconds", "metrics"))
        row = (
            facts
            | {
                "joules_per_sample": ratio(epoch.joules, epoch.samples),
                "joules_per_token": ratio(epoch.joules, epoch.tokens),
            }
            | {f"{name}_joules": joules for name, joules in (phases | devices).items()}
            | {f"{name}_seconds": each for name, each in seconds.items()}
        )
        yield row | {f"metric_{name}" if name in row else name: value for name, value in metrics.items()}


def _power_rows(record: RunRecord) -> Iterator[dict[str, object]]:
    for device, series in record.power.items():
        for i, watts in enumerate(zip(series.mean, series.low, series.high, strict=True)):
            start = series.start_s + i * series.slice_s
            yield {
                "device": device,
                "start_s": start,
                **dict(zip(("mean_watts", "low_watts", "high_watts"), watts, strict=True)),
            }
