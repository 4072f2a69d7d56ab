"""Energies that a counter or a model gets wrong: a wrap, zero, a constant; pure."""

import statistics
from collections.abc import Iterator, Sequence

from ml_energy_callbacks.backends.cpu_model import find_tdp
from ml_energy_callbacks.fleet.audit.findings import OWN, AuditedRun, Finding
from ml_energy_callbacks.fleet.audit.plausible import COUNTER_RANGES, DIGITS, LONG_S, least_processor_watts, most_watts
from ml_energy_callbacks.record.schema import DeviceRecord
from ml_energy_callbacks.report.quantities import quantity, scaled

_COUNTED = ("cpu", "dram")
_LEAST_S = 1.0
"""In a shorter run, what a counter adds at one refresh may be the energy of a longer time."""

_PARTS = 4
"""Epochs from which on one of them stands out."""

_CLOSE = 0.02
"""How far a deviation may be from a counter's range, and how far the other epochs may scatter, as shares of the range."""

_FAR = 0.2
"""Share of an epoch's energy from which on a deviation is none of its work."""

_SLICES = 20
_FEW = 4
"""Digits of a set power; the mean of measured ones has about 15."""

_SHARES = {1.0: "all", 0.5: "half"}
"""What codecarbon takes of a processor's thermal design power in its constant mode, and what it scales."""

_WRAP = "Do not use the figure; measure again with a tool that reads the counter more often than it wraps."
_UNIT = "Look for a wrong unit (mJ for J, J for Wh, W for kW) or for several machines in one figure; do not use it."


def find_beyond_hardware(run: AuditedRun) -> Iterator[Finding]:
    """Yield energies that the hardware cannot have used: where a counter has lost or gained its range, and others."""
    for device in run.record.devices:
        if not device.joules or run.seconds < _LEAST_S:
            continue
        watts = device.joules / run.seconds
        said = f"{device.id}: {quantity(device.joules)} J in {quantity(run.seconds)} s are {quantity(watts)} W"
        wrap = _by_epochs(run, device) or _by_power(run, device, said) if _is_counted(run, device) else None
        most = most_watts(device)
        if wrap is not None:
            yield run.finding("counter-wrap", "wrong", "The counter of a processor or its memory wrapped unseen.", wrap, _WRAP)
        elif most is not None and watts > most:
            beyond = f"{said}, and {_limit(most)}."
            yield run.finding("impossible-power", "wrong", "A device draws more than its kind can.", beyond, _UNIT)


def _is_counted(run: AuditedRun, device: DeviceRecord) -> bool:
    """Return whether a counter may be behind a device; codecarbon's processors may be read by RAPL, unless of the process."""
    model = run.cells.get("tracking_mode") == "process" or (device.method == "model" and run.tool == OWN)
    return device.kind in _COUNTED and not model


def _by_epochs(run: AuditedRun, device: DeviceRecord) -> str | None:
    """Return how an epoch differs from the others by just a counter's range."""
    for stage in run.record.stages:
        epochs = [e for e in run.record.epochs if e.stage == stage and device.id in e.devices and e.seconds > 0]
        if len(epochs) < _PARTS:
            continue
        watts = statistics.median(e.devices[device.id] / e.seconds for e in epochs)
        off = [e.devices[device.id] - watts * e.seconds for e in epochs]
        scatter = statistics.median(map(abs, off))
        for epoch, joules in zip(epochs, off, strict=True):
            for whole in COUNTER_RANGES:
                just = abs(abs(joules) - whole) < _CLOSE * whole + 2 * scatter
                if just and scatter < _CLOSE * whole and abs(joules) > _FAR * watts * epoch.seconds:
                    return (
                        f"{stage} epoch {epoch.index}: {scaled(epoch.devices[device.id], 'J')}, {quantity(abs(joules))} J "
                        f"{'more' if joules > 0 else 'less'} than the {quantity(watts)} W of the other epochs in its "
                        f"{quantity(epoch.seconds)} s. The range of a counter is {quantity(whole)} J."
                    )
    return None


def _by_power(run: AuditedRun, device: DeviceRecord, said: str) -> str | None:
    """Return how the mean power is beyond what a processor can draw, and is not with some ranges of a counter more or less."""
    joules, seconds = device.joules or 0.0, run.seconds
    watts, least, most = joules / seconds, least_processor_watts(device), most_watts(device)
    if most is not None and watts > most:
        for whole in COUNTER_RANGES:
            reads = range(1, 1 + min(int(joules // whole), int(seconds)))  # a tool reads about once a second
            times = next((n for n in reads if joules - n * whole <= most * seconds), None)
            if times is not None:
                left = quantity((joules - times * whole) / seconds)
                return f"{said}, and {_limit(most)}; without {_ranges(times, whole)}, it is {left} W."
    if most is not None and least is not None and watts < least:
        for whole in COUNTER_RANGES:
            if joules < whole <= most * seconds - joules:
                return (
                    f"{said}, less than an idle one draws ({quantity(least)} W); its counter wraps each {quantity(whole)} J, "
                    f"which at {quantity(most)} W takes {quantity(whole / most)} s."
                )
    return None


def _limit(watts: float) -> str:
    return f"such hardware can draw {quantity(watts)} W at most"


def _ranges(times: int, whole: float) -> str:
    return f"{quantity(whole)} J, a counter's range" if times == 1 else f"{times:,} ranges of a counter of {quantity(whole)} J"


def find_zeros(run: AuditedRun) -> Iterator[Finding]:
    """Yield energies of zero, and runs whose energy is unknown."""
    if run.seconds < LONG_S:
        return
    work = _work(run)
    zeros = [device.id for device in run.record.devices if device.joules == 0 and (device.kind != "gpu" or run.tool == OWN)]
    stages = run.record.stages.items()
    zeros += [f"the stage {name}" for name, stage in stages if stage.joules == 0 and stage.seconds >= LONG_S]
    if run.record.total.joules == 0:
        zeros.append("the run")
    if zeros:
        yield run.finding(
            "zero-joules",
            "wrong",
            "Hardware that is on never uses 0 J.",
            f"0 J in {quantity(run.seconds)} s of {', '.join(zeros)}{work}.",
            "Find out why it could not be read (ml-energy doctor), and take the energy as unknown.",
        )
    elif run.record.total.joules is None:
        yield run.finding(
            "zero-joules",
            "doubtful",
            "The energy is unknown.",
            f"No device was read in {quantity(run.seconds)} s{work}.",
            "Find out why (ml-energy doctor; of a log, its tool's settings); in a sum of runs, this one is missing.",
        )


def _work(run: AuditedRun) -> str:
    batches = sum(stage.batches for stage in run.record.stages.values())
    loads = [
        f"{part.upper()} {value:g} % busy" for part in ("cpu", "gpu") if (value := run.number(f"{part}_utilization_percent"))
    ]
    work = ([f"{batches:,} batches"] if batches else []) + loads
    return f", with {' and '.join(work)}" if work else ""


def find_constants(run: AuditedRun) -> Iterator[Finding]:
    """Yield powers that do not change, as no measured one does."""
    for device in run.record.devices:
        fault = _set_power(run, device) or _same_slices(run, device) or _same_epochs(run, device)
        if fault is not None:
            yield run.finding(
                "constant-power",
                "doubtful",
                "A power was set rather than measured.",
                f"{device.id}: {fault}.",
                "Treat its energy as that of a model: what a change of code saves may not show in it.",
            )


def _set_power(run: AuditedRun, device: DeviceRecord) -> str | None:
    """Return that codecarbon's mean power is a round number, as in its constant mode, or of loads of 0 and 100 % alone."""
    column = f"{device.id.partition(':')[2]}_power"
    watts, pue = run.number(column), run.number("pue") or 1.0
    if device.kind == "dram" or not watts or not (_is_round(watts) or _is_round(watts / pue)):
        return None
    known = find_tdp(device.name) if device.kind == "cpu" else None
    share = None if known is None else watts / pue / known[1]
    tdp = f", {_SHARES[share]} of its thermal design power" if share in _SHARES else ""
    return f"{column} is {run.cells[column]} W, a number without further digits{tdp}"


def _is_round(watts: float) -> bool:
    return abs(watts - float(f"{watts:.{_FEW}g}")) <= DIGITS * watts


def _same_slices(run: AuditedRun, device: DeviceRecord) -> str | None:
    series = run.record.power.get(device.id)
    if series is None or device.provenance != "measured":
        return None
    known = [value for values in (series.mean, series.low, series.high) for value in values if value is not None]
    return _same(known, f"in all {len(series.mean)} slices of the run") if len(known) >= 3 * _SLICES else None


def _same_epochs(run: AuditedRun, device: DeviceRecord) -> str | None:
    if run.tool == OWN:
        return None
    powers = [e.devices[device.id] / e.seconds for e in run.record.epochs if device.id in e.devices and e.seconds > 0]
    return _same(powers, f"in all {len(powers)} epochs") if len(powers) >= 3 else None  # noqa: PLR2004 - two may be alike by chance


def _same(watts: Sequence[float], where: str) -> str | None:
    if min(watts) <= 0 or max(watts) - min(watts) > DIGITS * max(watts):
        return None
    return f"{quantity(watts[0])} W {where}"
