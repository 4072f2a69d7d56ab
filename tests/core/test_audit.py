"""`ml-energy audit`: each planted fault is found in each seed, and nothing is found in clean runs."""

import csv
import io
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from command import ml_energy
from msgspec.structs import replace
from run_records import a_record

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.fleet.audit import Audit, Finding, audit
from ml_energy_callbacks.fleet.audit.findings import Check
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import FILE_NAME, EpochRecord, Part, PowerSeries, RunRecord
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.testing import replay

LOGS = Path(__file__).parents[1] / "imported_logs"
KWH = 3.6e6
RAPL = 262_143.328850

CARDS: Mapping[str, float] = {
    "NVIDIA A100-SXM4-80GB": 400,
    "NVIDIA H100 80GB HBM3": 700,
    "Tesla V100-SXM2-32GB": 300,
    "Tesla T4": 70,
    "NVIDIA GeForce RTX 4090": 450,
}
PROCESSORS: Mapping[str, float] = {
    "AMD EPYC 7742 64-Core Processor": 225,
    "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz": 150,
    "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz": 95,
    "AMD Ryzen 9 5950X 16-Core Processor": 105,
}
"""Names and W at full load."""


@dataclass
class Machine:
    """Hardware drawn by chance, and how a run uses it."""

    card: str
    gpus: int
    processor: str
    gpu_watts: list[float]
    cpu_watts: float
    seconds: float
    began: datetime
    load: float
    used: float
    chance: random.Random

    @property
    def devices(self) -> dict[str, tuple[str, str, float]]:
        """Kind, name and power of each device that this package reads."""
        cards = {
            f"nvml:GPU-{self.chance.getrandbits(64):016x}-{i}": ("gpu", self.card, watts)
            for i, watts in enumerate(self.gpu_watts)
        }
        return {**cards, "rapl:package-0": ("cpu", "Processor package-0", self.cpu_watts)}


def a_machine(seed: int, *, gpus: int | None = None, **given: Any) -> Machine:
    """Return a machine at work: cards at 35 to 95 % of their power, a processor at 15 to 90 %, for 2 minutes to 20 hours."""
    chance = random.Random(seed)
    card = chance.choice(list(CARDS))
    processor = chance.choice(list(PROCESSORS))
    gpus = chance.choice([1, 2, 4, 8]) if gpus is None else gpus
    load = chance.uniform(0.35, 0.95)
    facts = {
        "card": card,
        "gpus": gpus,
        "processor": processor,
        "gpu_watts": [CARDS[card] * load * chance.gauss(1, 0.02) for _ in range(gpus)],
        "cpu_watts": PROCESSORS[processor] * chance.uniform(0.15, 0.9),
        "seconds": 120 * 600 ** chance.random(),
        "load": chance.uniform(2, 100),
        "used": chance.uniform(20, 200),
        "began": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=10_000 * chance.random()),
    }
    return Machine(**(facts | given), chance=chance)


def own(machine: Machine, devices: Mapping[str, tuple[str, str, float]] | None = None, **run: Any) -> RunRecord:
    """Return the record of a training on a machine, with its devices' powers over time and by epoch."""
    devices = machine.devices if devices is None else devices
    chance, seconds = machine.chance, machine.seconds
    joules = {name: watts * seconds for name, (_, _, watts) in devices.items()}
    total = math.fsum(joules.values())
    run = {
        "id": f"{chance.getrandbits(128):032x}",
        "started_at": machine.began.isoformat(),
        "ended_at": (machine.began + timedelta(seconds=seconds)).isoformat(),
        "hostnames": [f"node-{chance.getrandbits(32):x}"],
    } | run
    base = a_record(joules=total, seconds=seconds, **run)
    share = {name: energy / total for name, energy in joules.items()}
    epochs = [
        EpochRecord(
            stage="train",
            index=i,
            joules=total * 0.85 / 10,
            seconds=seconds * 0.85 / 10,
            samples=100,
            co2e_grams=None,
            devices={name: energy * 0.85 / 10 * chance.gauss(1, 0.005) for name, energy in joules.items()},
        )
        for i in range(10)
    ]
    stages = {
        name: replace(stage, devices={device: (stage.joules or 0.0) * part for device, part in share.items()})
        for name, stage in base.stages.items()
    }
    return replace(
        base,
        devices=[
            replace(base.devices[0], id=name, kind=kind, name=model, backend=name.partition(":")[0], joules=joules[name])
            for name, (kind, model, _) in devices.items()
        ],
        stages=stages,
        epochs=epochs,
        power={name: _power(watts, seconds, chance) for name, (_, _, watts) in devices.items()},
    )


def _power(watts: float, seconds: float, chance: random.Random) -> PowerSeries:
    mean = [watts * chance.gauss(1, 0.03) for _ in range(50)]
    return PowerSeries(slice_s=seconds / 50, mean=mean, low=[w * 0.9 for w in mean], high=[w * 1.1 for w in mean])


def saved(folder: Path, *records: RunRecord) -> Path:
    """Write records, each in a directory of its own, and return the directory above."""
    for record in records:
        path = folder / record.run.id[:8] / FILE_NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_record(record))
    return folder


HEADER = (LOGS / "codecarbon_3.csv").read_text(encoding="utf-8").splitlines()[0].split(",")


def carbon_row(machine: Machine, **cells: Any) -> dict[str, Any]:
    """Return a row of codecarbon's table about a run, in the form of version 3.3.2, without a PUE."""
    gpu_watts = math.fsum(machine.gpu_watts)
    hours = machine.seconds / 3600
    kwh = {"cpu": machine.cpu_watts * hours / 1e3, "gpu": gpu_watts * hours / 1e3, "ram": 20.0 * hours / 1e3}
    given = {name: float(cells.pop(f"{name}_energy")) for name in kwh if f"{name}_energy" in cells}
    kwh |= given
    total = math.fsum(kwh.values())
    ended = machine.began + timedelta(seconds=machine.seconds)
    number = machine.chance.getrandbits(96)
    row = {
        "timestamp": f"{ended:%Y-%m-%dT%H:%M:%S}",
        "project_name": "resnet",
        "run_id": f"{number:024x}aaaaaaaa",
        "experiment_id": "5b0fa12a-3dd7-45bb-9766-cc326314d9f1",
        "duration": machine.seconds,
        "emissions": total * 0.056,
        "emissions_rate": total * 0.056 / machine.seconds,
        "cpu_power": machine.cpu_watts * machine.chance.gauss(1, 0.03),
        "gpu_power": gpu_watts * machine.chance.gauss(1, 0.03),
        "ram_power": 20.0,
        **{f"{name}_energy": energy for name, energy in kwh.items()},
        "energy_consumed": total,
        "water_consumed": 0.0,
        "country_name": "France",
        "country_iso_code": "FRA",
        "os": "Linux-6.8.0",
        "python_version": "3.11.7",
        "codecarbon_version": "3.3.2",
        "cpu_count": 64,
        "cpu_model": machine.processor,
        "gpu_count": machine.gpus,
        "gpu_model": f"{machine.gpus} x {machine.card}" if machine.gpus else "",
        "ram_total_size": 503.5302734375,
        "tracking_mode": "machine",
        "cpu_utilization_percent": machine.load,
        "gpu_utilization_percent": 91.3,
        "ram_utilization_percent": machine.used / 5.03,
        "ram_used_gb": machine.used,
        "on_cloud": "N",
        "pue": 1.0,
        "wue": 0.0,
    }
    return row | cells


def table(path: Path, *rows: Mapping[str, Any]) -> Path:
    """Write codecarbon's table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def smi(path: Path, machine: Machine, watts: Sequence[float]) -> Path:
    """Write the log of nvidia-smi, of 100 readings of each card."""
    step = machine.seconds / 100
    lines = ["timestamp, index, name, power.draw [W]"]
    for i in range(101):
        at = f"{machine.began + timedelta(seconds=i * step):%Y/%m/%d %H:%M:%S.%f}"[:-3]
        lines += [f"{at}, {n}, {machine.card}, {w * machine.chance.gauss(1, 0.02):.2f} W" for n, w in enumerate(watts)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def carbontracker(folder: Path, watts: Sequence[float], *, pue: float, place: str = "Copenhagen, Denmark") -> Path:
    """Write carbontracker's pair of logs, of a GPU with a mean power in each epoch of 600 s."""
    kwh = sum(watts) * 600 / KWH * pue
    at = "2026-11-05 10:00:00 - "
    epochs = [
        f"{at}Epoch {i}:\n{at}Duration: 0:10:00.00\n{at}Average power usage (W) for gpu: {w}\n" for i, w in enumerate(watts, 1)
    ]
    log = (
        f"{at}carbontracker version 2.4.7\n"
        f"{at}Only predicted and actual consumptions are multiplied by a PUE coefficient of {pue} (Uptime Institute).\n"
        f"{at}The following components were found: GPU with device(s) NVIDIA A100.\n{''.join(epochs)}"
        f"{at}Average carbon intensity during training was 151.00 gCO2eq/kWh at detected location: {place}.\n"
    )
    totals = (
        f"{at}CarbonTracker: \nActual consumption for {len(watts)} epoch(s):\n\tTime:\t1:00:00\n\tEnergy:\t{kwh:.12f} kWh\n"
        f"\tCO2eq:\t{kwh * 151:.12f} g\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run_carbontracker_output.log").write_text(totals, encoding="utf-8")
    path = folder / "run_carbontracker.log"
    path.write_text(log, encoding="utf-8")
    return path


def sacct(path: Path, machine: Machine, joules: Sequence[float]) -> Path:
    """Write SLURM's table of jobs on one node, each with its energy."""
    start = f"{machine.began:%Y-%m-%dT%H:%M:%S}"
    rows = [
        f"{4711 + i}|train|COMPLETED|{start}|{machine.seconds:.0f}|1|node017|{energy:.0f}" for i, energy in enumerate(joules)
    ]
    head = "JobID|JobName|State|Start|ElapsedRaw|NNodes|NodeList|ConsumedEnergyRaw"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return path


def found(audited: Audit, check: str) -> list[Finding]:
    return [finding for finding in audited.findings if finding.check == check]


# -------------------------------------------------------------------------------------------------------------- clean runs


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_found_in_clean_runs(tmp_path: Path, seed: int) -> None:
    """Own runs one after another, a job on several hosts, codecarbon's and nvidia-smi's logs of the same runs and of others."""
    first, second, third = (a_machine(1000 * n + seed) for n in (1, 2, 3))
    records = [own(machine, model=f"model-{i}") for i, machine in enumerate((first, second, third))]
    host = records[0].run.hostnames
    later = a_machine(seed, began=first.began + timedelta(seconds=first.seconds + 60), gpus=first.gpus)
    records.append(own(later, first.devices, hostnames=host, model="model-0"))
    paths = [saved(tmp_path / "runs", *records)]
    audited = audit(*paths)
    assert (audited.runs, audited.findings) == (4, [])

    noise = second.chance.gauss
    nodes = [  # one process of a job on each of several hosts, as alike as such hosts are
        on_another_host(third, cpu=noise(1, 0.05), gpu=noise(1, 0.03)) for _ in range(second.chance.choice([2, 4, 8]))
    ]
    logs = [
        table(tmp_path / "emissions.csv", carbon_row(read_again(second, noise(1, 0.05), noise(1, 0.02)))),
        table(tmp_path / "emissions_job.csv", *(carbon_row(node, project_name="job") for node in nodes)),
        smi(tmp_path / "smi.csv", first, [watts * noise(1, 0.02) for watts in first.gpu_watts]),
        carbontracker(tmp_path, [noise(200, 5) for _ in range(6)], pue=1.0),
    ]
    audited = audit(*paths, *logs)
    assert audited.runs == 4 + 1 + len(nodes) + 1 + 1
    assert {(finding.check, finding.severity) for finding in audited.findings} == {("no-uncertainty", "doubtful")}
    assert len(audited.findings) == audited.runs - 4  # of each log: which is true of them


def on_another_host(machine: Machine, *, cpu: float, gpu: float) -> Machine:
    """Return the same run on a machine that draws other powers; codecarbon's model has one for all processors at a low load."""
    chance = machine.chance
    watts = PROCESSORS[machine.processor] * 0.1 if machine.load < 25 else machine.cpu_watts * cpu
    return Machine(
        **vars(machine)
        | {
            "cpu_watts": watts * chance.gauss(1, 1e-4),
            "gpu_watts": [watts * gpu * chance.gauss(1, 0.01) for watts in machine.gpu_watts],
            "used": machine.used * chance.gauss(1, 0.03),
        }
    )


# ---------------------------------------------------------------------------------------------------------- planted faults
# Each returns what to audit; a fault has several forms, which the seeds take in turn.


def ranks(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed, gpus=8)
    chance = machine.chance
    if seed % 4 == 0:  # of codecarbon, which does not say where they ran
        rows = [carbon_row(read_again(machine, 1 + chance.uniform(-1e-3, 1e-3))) for _ in range(chance.choice([3, 8]))]
        return [table(folder / "emissions.csv", *rows)]
    if seed % 4 == 1:  # of this package, with the host
        devices = machine.devices
        return [saved(folder, *(own(machine, devices, hostnames=["node-a"]) for _ in range(8)))]
    if seed % 4 == 2:  # jobs of SLURM that share a node
        joules = 2000 * machine.seconds
        return [sacct(folder / "sacct.txt", machine, [joules, joules + 1])]
    # Each counts its own GPU, and all of the processor.
    rows = [carbon_row(read_again(machine, 1.0, gpu=chance.gauss(1, 0.03))) for _ in range(8)]
    return [table(folder / "emissions.csv", *rows)]


def read_again(machine: Machine, factor: float, gpu: float | None = None) -> Machine:
    """Return another reading of the same machine."""
    gpu = factor if gpu is None else gpu
    watts = [watts * gpu for watts in machine.gpu_watts]
    used = machine.used * machine.chance.gauss(1, 5e-4)
    return Machine(**vars(machine) | {"cpu_watts": machine.cpu_watts * factor, "gpu_watts": watts, "used": used})


def averaged(folder: Path, seed: int) -> Sequence[Path]:
    if seed % 3 == 0:  # codecarbon's row has 8 GPUs, and the energy of one
        machine = a_machine(seed, gpus=8, card="NVIDIA A100-SXM4-80GB")
        mean = random.Random(seed).uniform(150, 390)
        return [
            table(folder / "emissions.csv", carbon_row(machine, gpu_energy=mean * machine.seconds / KWH, gpu_power=mean * 1.01))
        ]
    machine = a_machine(seed, gpus=random.Random(seed).choice([2, 4, 8]))
    record = own(machine)
    gpus = [device for device in record.devices if device.kind == "gpu"]
    mean = math.fsum(device.joules or 0.0 for device in gpus) / len(gpus)
    if seed % 3 == 1:  # each GPU has the mean of all
        devices = [replace(device, joules=mean) if device.kind == "gpu" else device for device in record.devices]
        return [saved(folder, replace(record, devices=devices))]
    total = mean + math.fsum(device.joules or 0.0 for device in record.devices if device.kind != "gpu")
    return [saved(folder, replace(record, total=replace(record.total, joules=total, kwh=total / KWH)))]


def wrapped(folder: Path, seed: int) -> Sequence[Path]:
    chance = random.Random(seed)
    if seed % 3 == 0:  # one unreadable sample looks like a wrap
        machine = a_machine(seed, seconds=chance.uniform(10, 200))
        energy = machine.cpu_watts * machine.seconds + RAPL
        return [table(folder / "emissions.csv", carbon_row(machine, cpu_energy=energy / KWH))]
    if seed % 3 == 1:  # all wraps of a day are lost
        machine = a_machine(
            seed, seconds=chance.uniform(20, 60) * 3600, processor=chance.choice([*PROCESSORS][:2]), cpu_watts=140.0
        )
        energy = machine.cpu_watts * machine.seconds % RAPL
        return [table(folder / "emissions.csv", carbon_row(machine, cpu_energy=energy / KWH))]
    machine = a_machine(seed, seconds=chance.uniform(2, 12) * 3600, cpu_watts=chance.uniform(40, 250))
    record = own(machine)
    hit = record.epochs[chance.randrange(10)]
    sign = chance.choice([-1, 1])
    epochs = [
        replace(e, devices={**e.devices, "rapl:package-0": e.devices["rapl:package-0"] + sign * RAPL}) if e is hit else e
        for e in record.epochs
    ]
    return [saved(folder, replace(record, epochs=epochs))]


def zero(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    record = own(machine)
    if seed % 3 == 0:  # a device of ours
        index = random.Random(seed).randrange(len(record.devices))
        devices = [replace(device, joules=0.0) if i == index else device for i, device in enumerate(record.devices)]
        return [saved(folder, replace(record, devices=devices))]
    if seed % 3 == 1:  # the whole run
        stages = {name: replace(stage, joules=0.0, devices={}) for name, stage in record.stages.items()}
        return [
            saved(
                folder, replace(record, devices=[], power={}, epochs=[], stages=stages, total=replace(record.total, joules=0.0))
            )
        ]
    return [table(folder / "emissions.csv", carbon_row(machine, cpu_energy=0.0, cpu_power=0.0))]


def constant(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    if seed % 3 == 0:  # codecarbon's constant mode: half of the thermal design power
        watts = 0.5 * PROCESSORS[machine.processor]
        return [table(folder / "emissions.csv", carbon_row(machine, cpu_power=watts, cpu_energy=watts * machine.seconds / KWH))]
    if seed % 3 == 1:  # a power that is the same in each epoch
        return [carbontracker(folder, [round(random.Random(seed).uniform(50, 400), 1)] * 5, pue=1.0)]
    record = own(machine)
    name, watts = record.devices[0].id, machine.gpu_watts[0]
    flat = PowerSeries(slice_s=machine.seconds / 50, mean=[watts] * 50, low=[watts] * 50, high=[watts] * 50)
    return [saved(folder, replace(record, power={**record.power, name: flat}))]


def default_place(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    if seed % 4 == 0:
        record = own(machine)
        carbon = replace(record.carbon, assumed=True, location=None, intensity_g_per_kwh=475.0, assumed_share=1.0)
        return [saved(folder, replace(record, carbon=carbon))]
    nowhere = {"country_iso_code": "", "country_name": ""}
    quebec = {"country_iso_code": "CAN", "country_name": "Canada", "region": "Quebec", "latitude": 46.8, "longitude": -71.2}
    by_address = {"region": "ile-de-france", "latitude": 48.8582, "longitude": 2.3387}
    return [table(folder / "emissions.csv", carbon_row(machine, **(nowhere, quebec, by_address)[seed % 4 - 1]))]


def pue(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    factor = 1 + random.Random(seed).uniform(0.05, 0.8)
    if seed % 4 == 0:  # in a record's total alone
        record = own(machine)
        total = replace(record.total, joules=(record.total.joules or 0.0) * factor)
        return [saved(folder, replace(record, total=total, carbon=replace(record.carbon, pue=factor)))]
    if seed % 4 == 1:
        return [carbontracker(folder, [machine.chance.gauss(200, 5) for _ in range(4)], pue=round(factor, 2))]
    row = carbon_row(machine, pue=factor)
    row["energy_consumed"] *= factor
    if seed % 4 == 2:  # as codecarbon writes it
        row |= {f"{name}_energy": row[f"{name}_energy"] * factor for name in ("cpu", "gpu", "ram")}
    return [table(folder / "emissions.csv", row)]  # else in its total alone


def mixed(folder: Path, seed: int) -> Sequence[Path]:
    records = [own(a_machine(100 * seed + i)) for i in range(3)]
    if seed % 2:
        records[1] = replace(records[1], carbon=replace(records[1].carbon, basis="mixed"))
    else:
        records[2] = replace(records[2], carbon=replace(records[2].carbon, basis="direct", intensity_g_per_kwh=41.0))
    return [saved(folder, *records)]


def gpu_missing(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    if seed % 3 == 0:
        return [table(folder / "emissions.csv", carbon_row(machine, gpu_energy=0.0, gpu_power=0.0))]
    record = own(machine, model="bert")
    if seed % 3 == 1:
        devices = [replace(d, joules=None, missing_s=machine.seconds) if d.kind == "gpu" else d for d in record.devices]
        return [saved(folder, replace(record, devices=devices, total=replace(record.total, lower_bound=True)))]
    later = a_machine(seed + 1, began=machine.began + timedelta(days=9))
    without = {name: facts for name, facts in later.devices.items() if facts[0] != "gpu"}
    return [saved(folder, record, own(later, without, hostnames=record.run.hostnames, model="bert"))]


def disagreeing(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed, gpus=random.Random(seed).choice([1, 2, 4]))
    runs = saved(folder / "runs", own(machine))
    factor = random.Random(seed).choice([0.3, 0.5, 0.7, 1.5, 2.0])
    other = read_again(machine, 1.0, gpu=factor)
    if seed % 3 == 0:  # SLURM's node used less than what is in it
        record = own(machine, hostnames=["node017"])
        runs = saved(folder / "job", record)
        return [runs, sacct(folder / "sacct.txt", machine, [0.6 * (record.total.joules or 0.0)])]
    if seed % 2:
        return [runs, smi(folder / "gpu.csv", machine, other.gpu_watts)]
    hours = 2 if seed % 4 else 0  # codecarbon writes the local time, without its offset
    if hours:
        zone = timezone(timedelta(hours=hours))
        record = own(machine, started_at=machine.began.astimezone(zone).isoformat())
        runs = saved(folder / "local", record)
        other.began += timedelta(hours=hours)
    return [runs, table(folder / "emissions.csv", carbon_row(other))]


def no_uncertainty(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    if seed % 2:
        return [table(folder / "emissions.csv", carbon_row(machine))]
    record = own(machine)
    return [saved(folder, replace(record, total=replace(record.total, relative_uncertainty=None)))]


def impossible(folder: Path, seed: int) -> Sequence[Path]:
    machine = a_machine(seed)
    return [saved(folder, own(read_again(machine, 1.0, gpu=1000.0)))]  # mJ for J


def unusable(folder: Path, seed: int) -> Sequence[Path]:
    fault = {"cpu_energy": -0.07} if seed % 2 else {"duration": "long"}  # a wrap that the tool took for a difference
    return [table(folder / "emissions.csv", carbon_row(a_machine(seed)), carbon_row(a_machine(seed + 100)) | fault)]


FAULTS: Mapping[Check, tuple[Callable[[Path, int], Sequence[Path]], set[str]]] = {
    "counted-several-times": (ranks, {"wrong"}),
    "gpus-averaged": (averaged, {"wrong", "doubtful"}),
    "counter-wrap": (wrapped, {"wrong"}),
    "impossible-power": (impossible, {"wrong"}),
    "zero-joules": (zero, {"wrong"}),
    "constant-power": (constant, {"doubtful"}),
    "default-place": (default_place, {"doubtful"}),
    "pue-inside": (pue, {"wrong", "doubtful"}),
    "mixed-factors": (mixed, {"doubtful"}),
    "gpu-missing": (gpu_missing, {"wrong", "doubtful"}),
    "tools-disagree": (disagreeing, {"wrong"}),
    "no-uncertainty": (no_uncertainty, {"doubtful"}),
    "unusable-lines": (unusable, {"wrong"}),
}
"""What plants each fault, and what an audit calls it."""


def test_each_check_has_a_planted_fault() -> None:
    assert set(FAULTS) == set(get_args(Check))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("check", FAULTS)
def test_each_planted_fault_is_found(tmp_path: Path, check: Check, seed: int) -> None:
    plant, severities = FAULTS[check]
    audited = audit(*plant(tmp_path, seed))
    findings = found(audited, check)
    assert findings, audited.findings
    assert {finding.severity for finding in findings} <= severities
    assert all(any(letter.isdigit() for letter in finding.evidence) and finding.advice for finding in findings)
    others = {finding.check for finding in audited.findings if finding.severity == "wrong"} - {check}
    assert not others, audited.findings  # nothing else is called wrong
    assert audited.wrong == sum(finding.severity == "wrong" for finding in audited.findings)


def test_a_gpu_energy_that_may_be_of_some_is_doubtful_and_a_mean_is_wrong(tmp_path: Path) -> None:
    """In codecarbon the count is of all GPUs, also where `gpu_ids` limits it to some; copies of a mean are only one thing."""
    severities = [audit(*averaged(tmp_path / str(seed), seed)).findings[0].severity for seed in (0, 1, 2)]
    assert severities == ["doubtful", "wrong", "wrong"]


# --------------------------------------------------------------------------------------------------------- what is no fault


def test_a_run_inside_a_measured_command_counts_nothing_twice(tmp_path: Path) -> None:
    machine = a_machine(1)
    devices = machine.devices
    outer = own(machine, devices, hostnames=["node-a"])
    inner = own(machine, devices, hostnames=["node-a"], within=outer.run.id)
    assert audit(saved(tmp_path / "both", outer, inner)).findings == []
    other = own(machine, devices, hostnames=["node-a"])
    assert found(audit(saved(tmp_path / "two", outer, other)), "counted-several-times")


def test_machines_without_a_name_of_their_own_are_not_taken_for_one(tmp_path: Path) -> None:
    machine = a_machine(2, gpus=0)
    records = [own(machine, hostnames=["localhost"]) for _ in range(2)]
    assert audit(saved(tmp_path, *records)).findings == []


def test_two_runs_that_share_a_machine_for_a_while_are_doubtful(tmp_path: Path) -> None:
    machine = a_machine(3)
    devices = machine.devices
    first = own(machine, devices, hostnames=["node-a"])
    machine.began += timedelta(seconds=machine.seconds / 2)
    second = own(machine, devices, hostnames=["node-a"])
    (finding,) = audit(saved(tmp_path, first, second)).findings
    assert (finding.check, finding.severity) == ("counted-several-times", "doubtful")
    assert sorted(finding.runs) == sorted(str(tmp_path / record.run.id[:8] / FILE_NAME) for record in (first, second))


def test_a_run_that_is_there_as_record_and_log_is_one(tmp_path: Path) -> None:
    """A log is looked at itself rather than its imported record, and what was exported of a run is not another tool's."""
    record = own(a_machine(4))
    (tmp_path / "emissions.csv").write_text(export(record, Format.CODECARBON_CSV), encoding="utf-8")
    audited = audit(saved(tmp_path, record))
    assert (audited.runs, audited.findings) == (1, [])
    log = table(tmp_path / "logs" / "emissions.csv", carbon_row(a_machine(5), gpu_energy=0.0))
    assert ml_energy("import", log, "--output", tmp_path / "logs").returncode == 0
    audited = audit(tmp_path / "logs")
    assert audited.runs == 1
    assert {name for finding in audited.findings for name in finding.runs} == {f"{log}:2"}


@pytest.mark.parametrize("kind", ["energy", "power"])
def test_records_of_the_package_itself_have_only_true_doubts(tmp_path: Path, kind: str) -> None:
    """The whole way of a run, from readings to the record; its place is not named."""
    waves = [(i * 0.1, 200 + 150 * math.sin(i) + 30 * math.sin(7.3 * i)) for i in range(600)]
    energy = [(t, sum(w for _, w in waves[:i]) * 0.1) for i, (t, _) in enumerate(waves)]
    marks = [(0.0, "train", "data_wait"), (2.0, "train", "compute"), (59.0, None, None)]
    record = replay(marks=marks, **({"counters": {"gpu0": energy}} if kind == "energy" else {"powers": {"gpu0": waves}}))
    audited = audit(saved(tmp_path, record))
    assert (audited.runs, audited.wrong) == (1, 0)
    assert {finding.check for finding in audited.findings} <= {"default-place", "no-uncertainty"}


def test_other_tools_logs_have_what_is_true_of_them() -> None:
    same = LOGS / "sacct.json"  # the jobs of sacct.txt
    audited = audit(*sorted(path for path in LOGS.iterdir() if path.suffix != ".md" and path != same))
    assert (audited.wrong, audited.unreadable) == (0, [])
    assert audit(same).wrong == 0
    assert audit(same, LOGS / "sacct.txt").wrong == 1
    by_check = {check: {Path(f.runs[0]).name.split(":")[0] for f in found(audited, check)} for check in get_args(Check)}
    carbon_log = next(LOGS.glob("*_carbontracker.log")).name
    assert {check: names for check, names in by_check.items() if names and check != "no-uncertainty"} == {
        "zero-joules": {"sacct.txt"},  # SLURM's 0 J, which are unknown
        "constant-power": {"codecarbon_3.csv", "codecarbon_3_tasks.csv", carbon_log},  # a forced and a simulated power
        "default-place": {carbon_log},
        "pue-inside": {"codecarbon_3.csv", carbon_log},
    }
    assert len(found(audited, "no-uncertainty")) == audited.runs - 1  # of all whose energy is known


# -------------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(("plant", "status"), [(zero, 1), (default_place, 0)])
def test_the_exit_status_holds_what_is_wrong(tmp_path: Path, plant: Callable[[Path, int], Sequence[Path]], status: int) -> None:
    done = ml_energy("audit", *plant(tmp_path, 0))
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines()[-1].strip() == ("1 wrong" if status else "0 wrong") + (
        ", 0 doubtful in 1 run." if status else ", 1 doubtful in 1 run."
    )


def test_json_has_what_the_function_returns(tmp_path: Path) -> None:
    paths = [*ranks(tmp_path / "a", 0), *wrapped(tmp_path / "b", 2)]
    done = ml_energy("audit", *paths, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, msgspec.to_builtins(audit(*paths)))


@pytest.mark.parametrize("columns", [80, 120])
def test_findings_that_say_the_same_are_one_paragraph_that_fits(tmp_path: Path, columns: int) -> None:
    table(tmp_path / "emissions.csv", *(carbon_row(a_machine(seed), gpu_energy=0.0) for seed in range(9)))
    done = ml_energy("audit", "emissions.csv", columns=columns, folder=tmp_path)
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert done.stdout.count("gpu-missing:") == done.stdout.count("no-uncertainty:") == 1
    text = " ".join(done.stdout.split())
    assert text.count("6 more: ") == 2
    assert "emissions.csv:2: codecarbon:gpu is " in text


def test_clean_runs_are_one_line(tmp_path: Path) -> None:
    done = ml_energy("audit", saved(tmp_path, own(a_machine(1))))
    assert (done.returncode, done.stdout) == (0, "Nothing is wrong or doubtful in 1 run.\n")


def test_what_cannot_be_read_is_one_sentence_and_the_others_are_audited(tmp_path: Path) -> None:
    good = saved(tmp_path / "good", own(a_machine(1)))
    (tmp_path / "notes.txt").write_text("nothing of interest\n", encoding="utf-8")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    (tmp_path / FILE_NAME).write_text("{", encoding="utf-8")
    for name, reason in (
        ("notes.txt", ", line 1: this is no log of a known tool"),
        ("empty.csv", " is empty."),
        (FILE_NAME, " is not a run record"),
    ):
        done = ml_energy("audit", tmp_path / name, good)
        assert (done.returncode, done.stdout) == (2, "Nothing is wrong or doubtful in 1 run.\n")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"ml-energy: {tmp_path / name}{reason}")
        alone = ml_energy("audit", tmp_path / name)
        assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", done.stderr)


def test_the_file_of_one_process_is_refused(tmp_path: Path) -> None:
    record = own(a_machine(1))
    path = tmp_path / "energy.rank0.json"
    path.write_bytes(encode_record(replace(record, part=Part(rank=0, host="a", hostname="a", uses=[]))))
    done = ml_energy("audit", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "`ml-energy merge` builds the record of the whole job." in done.stderr


def test_each_run_of_a_line_is_audited(tmp_path: Path) -> None:
    """Zeus's profile has several power limits, and JSON no lines."""
    limits = [{"power_limit": 250 + i, "energy": 1000.0 + i, "time": 10.0} for i in range(3)]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"measurements": limits}), encoding="utf-8")
    audited = audit(path)
    assert (audited.runs, len(found(audited, "no-uncertainty"))) == (3, 3)


def test_a_path_without_a_run_is_refused(tmp_path: Path) -> None:
    done = ml_energy("audit", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ml-energy: There is no run record at {tmp_path} or below it")
    with pytest.raises(RecordError, match="There is no run record"):
        audit(tmp_path / "nowhere")


def test_rows_that_repeat_are_told_and_no_fault(tmp_path: Path) -> None:
    row = carbon_row(a_machine(1))
    log = table(tmp_path / "emissions.csv", row, row)
    done = ml_energy("audit", log)
    assert (done.returncode, done.stderr) == (0, f"{log}: Line 3: repeats an earlier row and counts once.\n")
