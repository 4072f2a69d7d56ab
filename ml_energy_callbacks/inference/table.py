"""A profile or a comparison as tables for a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.inference.costs import is_usable
from ml_energy_callbacks.inference.results import Comparison, Cost, Difference, Findings, Interval, ModelCost, Profile
from ml_energy_callbacks.report.quantities import quantity, significant, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable

_ENERGY = ("J/sample", "±", "above idle", "±", "Wh/1000", "repeats", "")
_SPEED = ("samples/s", "p50 ms", "p95 ms", "p99 ms")
_BYTES_PER_MB = 1e6
_TEXTS = {"model", "test", "against", "verdict", "most grown", ""}
_STATES = {"measured": "", "undecided": "undecided", "failed": "failed", "out_of_memory": "out of memory"}


def render_profile(profile: Profile) -> Group:
    """Return the tables of batch sizes, followed by notes."""
    profile = in_texts(profile, printable)
    energy = new_table("Energy of a prediction by batch size", "batch size", *_ENERGY)
    speed = new_table("Throughput and latency of a batch", "batch size", *_SPEED)
    for size in profile.sizes:
        energy.add_row(str(size.batch_size), *_energy_cells(size), state_of(size, rank_of(profile, size.batch_size)))
        speed.add_row(str(size.batch_size), *_speed_cells(size))
    return _group(energy, speed, profile_lines(profile))


def profile_lines(profile: Profile) -> list[str]:
    """Return what a profile found as sentences: the best batch size first, then notes."""
    notes = [f"Batch size {size.batch_size}: {size.note}" for size in profile.sizes if size.note is not None]
    return [*_verdict_lines(profile), *notes, *common_notes(profile)]


def render_comparison(comparison: Comparison) -> Group:
    """Return the tables of models, followed by notes."""
    comparison = in_texts(comparison, printable)
    energy = new_table("Energy of a prediction by model", "model", *_ENERGY)
    rest = new_table("Accuracy, throughput, latency of a batch and size", "model", "accuracy", *_SPEED, "size MB")
    for model in comparison.models:
        energy.add_row(model.name, *_energy_cells(model), state_of(model, front_of(model)))
        accuracy = quantity(None) if model.accuracy is None else f"{model.accuracy:.4g}"
        size = None if model.size_bytes is None else model.size_bytes / _BYTES_PER_MB
        rest.add_row(model.name, accuracy, *_speed_cells(model), quantity(size))
    return _group(energy, rest, comparison_lines(comparison))


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return what a comparison found as sentences: the others compared with the first model, then notes."""
    first = comparison.models[0].name
    differences = [_difference_line(pair) for pair in comparison.differences if pair.a == first]
    notes = [f"{model.name}: {model.note}" for model in comparison.models if model.note is not None]
    if any(front_of(model) == "Pareto?" for model in comparison.models):
        notes.append("Pareto?: undecided, because the energy of another model that is at least as accurate may be lower.")
    return [*differences, *notes, *common_notes(comparison)]


def rank_of(profile: Profile, size: int) -> str:
    """Return whether a batch size is the best one, or may be."""
    if size == profile.best:
        return "best"
    return "no difference" if size in profile.alike else "best?" if size in profile.candidates else ""


def front_of(model: ModelCost) -> str:
    """Return whether a model is on the Pareto front, or may be."""
    if model.pareto is None and is_usable(model) and model.joules_per_sample is not None:
        return "Pareto?"
    return "Pareto" if model.pareto else ""


def _group(energy: Table, rest: Table, lines: Sequence[str]) -> Group:
    return Group(energy, rest, *(Text(line) for line in lines))


def new_table(title: str | None, *columns: str) -> Table:
    """Return an empty table whose texts are on the left, and whose numbers are on the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXTS else "right", overflow="fold")
    return table


def _energy_cells(cost: Cost) -> list[str]:
    return [
        *_interval_cells(cost.joules_per_sample),
        *_interval_cells(cost.joules_per_sample_above_idle),
        quantity(cost.wh_per_1000_samples),
        str(cost.repeats),
    ]


def _speed_cells(cost: Cost) -> list[str]:
    latency = cost.latency
    times = [None] * 3 if latency is None else [1000 * seconds for seconds in (latency.p50_s, latency.p95_s, latency.p99_s)]
    throughput = None if cost.samples_per_second is None else cost.samples_per_second.mean
    return [quantity(value) for value in (throughput, *times)]


def state_of(cost: Cost, mark: str) -> str:
    """Return a mark, and how the measurement ended if it is not ``measured``."""
    return ", ".join(part for part in (mark, _STATES[cost.state]) if part)


def _interval_cells(found: Interval | None) -> tuple[str, str]:
    if found is None:
        return quantity(None), quantity(None)
    share = found.half_width / abs(found.mean) if found.half_width is not None and found.mean else None
    return quantity(found.mean), quantity(None) if share is None else precise_percent(share)


def _difference_line(pair: Difference) -> str:
    found = f"{signed_percent(pair.relative)} ±{precise_percent(pair.half_width)}"
    if pair.verdict in {"no difference", "undecided"}:
        return f"Energy of {pair.b} compared with {pair.a}: {pair.verdict} ({found})."
    size, half = precise_percent(abs(pair.relative)), precise_percent(pair.half_width)
    return f"{pair.b} uses {size} {pair.verdict} energy than {pair.a} (±{half})."


def _verdict_lines(profile: Profile) -> Iterator[str]:
    limit = profile.latency_limit_s
    within = "" if limit is None else f" with a p95 latency of up to {quantity(1000 * limit, 'ms')}"
    if profile.best is not None:
        alike = ", ".join(str(size) for size in profile.alike)
        yield f"Lowest energy per sample{within}: batch size {profile.best}." + (f" No difference: {alike}." if alike else "")
    elif len(profile.candidates) > 1:
        among = ", ".join(str(size) for size in profile.candidates)
        yield (
            f"Lowest energy per sample{within}: undecided between batch sizes {among}; "
            "lower --width and raise --seconds, or reduce other load on the machine."
        )
    elif limit is not None and not profile.candidates and any(size.joules_per_sample is not None for size in profile.sizes):
        yield f"No batch size was measured{within}."


def common_notes(findings: Findings) -> Iterator[str]:
    """Yield what every result says: idle power, how sure the joules are, and warnings."""
    if findings.idle_watts is not None:
        half = findings.idle_watts.half_width
        yield f"Idle power: {quantity(findings.idle_watts.mean, 'W')}" + ("." if half is None else f" ±{quantity(half, 'W')}.")
    if findings.provenance is not None:
        source = uncertainty(findings.provenance, findings.relative_uncertainty)
        yield f"Joules are {source} ({', '.join(findings.devices)}); the intervals above cover only the repeats."
    yield from findings.warnings


def precise_percent(share: float) -> str:
    """Return a share in percent with two significant digits, such as ``4.2 %``."""
    return f"{significant(100 * share, 2)} %"


def signed_percent(share: float) -> str:
    """Return a share in percent with its sign, such as ``+4.2 %``."""
    return f"{'+' if share >= 0 else '-'}{precise_percent(abs(share))}"


def as_text(shown: RenderableType, width: int) -> str:
    """Return what is shown, as a terminal of this width has it."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
