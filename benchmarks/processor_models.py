"""Compare the power model of processors with published measurements of servers (SPECpower_ssj2008), and generate its table.

Each result is predicted without itself, by the package's own model; also without its generation, and as a virtual machine that
has some of its threads and does not know the part. Usage: `python benchmarks/processor_models.py specpower.csv`. `--write`
generates the package's table from the results; `--json` prints the figures as JSON.

The file has a line for each result: processor, year, chips, cores, threads, memory_gb and the watts of the whole server at the
wall, watts_idle, watts_10 ... watts_100.
"""

import argparse
import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from ml_energy_callbacks.backends.cpu_model import find_tdp
from ml_energy_callbacks.backends.processor_power import WATTS_PER_GB, LoadPower, estimate_power
from ml_energy_callbacks.codecarbon_data import DATA, Microarchitecture

LOADS = ("idle", *range(10, 101, 10))
RECENT = 2017
SHARE = 0.9
"""Of the results of a microarchitecture, within its interval in each band of loads."""

BANDS = {"idle": [0], "partial": list(range(1, 10)), "full": [10]}
"""Bands of loads, as indices of LOADS."""

ENOUGH = 10
"""Results of a microarchitecture whose intervals are judged alone; those of all others are judged together."""

IDLE, LOAD = 0.6, 0.4
"""The narrowest intervals that are stated."""

HEIR_IDLE, HEIR_LOAD = 0.7, 0.5
"""The narrowest intervals of a microarchitecture without results."""

INTEL, AMD = "GenuineIntel", "AuthenticAMD"
ALL = (0, 255)


@dataclass(frozen=True)
class Generation:
    """How results name a microarchitecture's parts, and how CPUID numbers them.

    ``raised`` is a factor on the median: where more than a tenth of the results draw more than twice the median, no interval of
    100 % reaches from it to them.
    """

    name: str
    pattern: str
    vendor: str
    family: int
    models: Sequence[int]
    steppings: tuple[int, int] = ALL
    raised: float = 1.0


GENERATIONS = (
    # https://en.wikichip.org/wiki/intel/cpuid and https://en.wikichip.org/wiki/amd/cpuid
    Generation("Core", r"xeon (processor )?(30[47]\d|x32\d\d|5160|[ex]53\d\d|l53\d\d)", INTEL, 6, [15]),
    Generation("Penryn", r"xeon.* ([lx]33\d\d|e31\d\d|[lex]52\d\d|[lex]54\d\d)", INTEL, 6, [23, 29]),
    Generation("Nehalem", r"xeon.* ([lex]55\d\d|[lx]34\d\d)", INTEL, 6, [26, 30]),
    Generation("Nehalem-EX", r"xeon.* [lex]75\d\d", INTEL, 6, [46]),
    Generation("Westmere", r"xeon.* [lex]56\d\d|core i3-5\d\d", INTEL, 6, [44, 37]),
    Generation("Westmere-EX", r"xeon e7-\d{4}\b", INTEL, 6, [47]),
    Generation("Sandy Bridge", r"e3-\d{4}l?(?! ?v)\b", INTEL, 6, [42]),
    Generation("Sandy Bridge-EP", r"e5-\d{4}l?(?! ?v)\b", INTEL, 6, [45]),
    Generation("Ivy Bridge", r"e3-\d{4}l? ?v2", INTEL, 6, [58]),
    Generation("Ivy Bridge-EP", r"e5-\d{4}l? ?v2", INTEL, 6, [62]),
    Generation("Haswell", r"e3-\d{4}l? ?v3|core i\d-4\d\d\d", INTEL, 6, [60]),
    Generation("Haswell-EP", r"e5-\d{4}l? ?v3", INTEL, 6, [63]),
    Generation("Broadwell-EP", r"e5-\d{4}l? ?v4", INTEL, 6, [79]),
    Generation("Skylake", r"e3-\d{4}l? ?v5", INTEL, 6, [94]),
    Generation("Kaby Lake", r"e3-\d{4}l? ?v6", INTEL, 6, [158], (0, 9)),
    Generation("Coffee Lake", r"xeon e-2[12]\d\d", INTEL, 6, [158], (10, 255)),
    Generation("Skylake-SP", r"(platinum|gold|silver|bronze) \d1\d\d", INTEL, 6, [85], (0, 4)),
    Generation("Cascade Lake", r"(platinum|gold|silver|bronze) \d2\d\d", INTEL, 6, [85], (5, 7)),
    Generation("Cooper Lake", r"(platinum|gold) \d3\d\dh", INTEL, 6, [85], (10, 11)),
    Generation("Ice Lake-SP", r"(platinum|gold|silver) \d3\d\d(?!h)", INTEL, 6, [106, 108, 134], raised=1.05),
    Generation("Rocket Lake", r"xeon e-23\d\d", INTEL, 6, [167]),
    Generation("K10", r"opteron.* (2[34]|83|41|61)\d\d", AMD, 16, [2, 4, 8, 9, 10], raised=1.65),
    Generation("Bulldozer", r"opteron.* (43|62|63)\d\d", AMD, 21, [1, 2]),
    Generation("Zen", r"epyc 7\d\d1", AMD, 23, [1]),
    Generation("Zen 2", r"epyc 7\d\d2", AMD, 23, [49]),
    Generation("Zen 3", r"epyc 7\d\d3", AMD, 25, [1]),
)

HEIRS = (
    # A microarchitecture, its predecessor, and the part by which the predecessor's curve is scaled, with its threads.
    (Generation("Sapphire Rapids", "", INTEL, 6, [143]), "Ice Lake-SP", "Intel Xeon Platinum 8480+", 112),
    (Generation("Emerald Rapids", "", INTEL, 6, [207]), "Ice Lake-SP", "Intel Xeon Platinum 8592+", 128),
    (Generation("Granite Rapids", "", INTEL, 6, [173, 174]), "Ice Lake-SP", "Intel Xeon 6972P", 192),
    (Generation("Zen 4", "", AMD, 25, [16, 17, 24]), "Zen 3", "AMD EPYC 9654", 192),
    (Generation("Zen 4c", "", AMD, 25, [160, 161, 162, 163, 164, 165, 166, 167, 168, 169, 170]), "Zen 3", "AMD EPYC 9754", 256),
    (Generation("Zen 5", "", AMD, 26, [0, 1, 2]), "Zen 3", "AMD EPYC 9755", 256),
    (Generation("Zen 5c", "", AMD, 26, [16, 17]), "Zen 3", "AMD EPYC 9965", 384),
)


@dataclass(frozen=True)
class Result:
    """A published result: a whole server's watts at the wall at idle, 10 ... 100 % load."""

    processor: str
    year: int
    chips: int
    threads: int
    gigabytes: float
    watts: Sequence[float]
    generation: str
    part: str
    tdp_watts: float | None


def read_results(path: Path):
    """Return the results of a file, without those of NetBurst, which has four."""
    with path.open(encoding="utf-8", newline="") as file:
        found = [read_result(row) for row in csv.DictReader(file)]
    return [result for result in found if result is not None]


def read_result(row):
    """Return a line's result, or None if its processor belongs to no generation."""
    name = row["processor"].replace("(R)", "").replace("(r)", "")
    generation = next((one.name for one in GENERATIONS if re.search(one.pattern, name.lower())), None)
    if generation is None:
        return None
    part = name_part(name)
    tdp = find_tdp(part)
    watts = [float(row[f"watts_{load}"]) for load in LOADS]
    chips, threads = int(row["chips"]), int(row["threads"])
    tdp_watts = None if tdp is None else tdp[1] * chips
    gigabytes = float(row["memory_gb"])
    return Result(row["processor"], int(row["year"]), chips, threads, gigabytes, watts, generation, part, tdp_watts)


def name_part(name: str):
    """Return a processor's name without clocks and remarks, as the table of processors has it."""
    plain = re.sub(r"\(.*?\)|,.*|@.*|\s\d\.\d+ ?ghz.*", "", name, flags=re.IGNORECASE)
    plain = " ".join(re.sub(r"\b(cpu|processor|quad-core)\b", "", plain, flags=re.IGNORECASE).split())
    return re.sub(r"(e\d-\d{4}l?) ?v(\d)", r"\1 v\2", plain, flags=re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------------------ the table


def fit(generation: Generation, results: Sequence[Result]):
    """Return a microarchitecture's row: the median of its results, each scaled to the median part."""
    known = [result.tdp_watts / result.threads for result in results if result.tdp_watts is not None]
    per_thread = median(known) if known else 1.0
    sizes = [result.threads if result.tdp_watts is None else result.tdp_watts / per_thread for result in results]
    pairs = list(zip(results, sizes, strict=True))
    watts = [
        generation.raised * median(max(0.0, result.watts[i] - WATTS_PER_GB * result.gigabytes) / size for result, size in pairs)
        for i in range(len(LOADS))
    ]
    return Microarchitecture(
        name=generation.name,
        vendor=generation.vendor,
        family=generation.family,
        models=generation.models,
        steppings=generation.steppings,
        origin=f"{len(results)} published results",
        results=len(results),
        tdp_per_thread=round(per_thread, 4),
        gb_per_thread=round(median(result.gigabytes / result.threads for result in results), 4),
        idle_uncertainty=IDLE,
        load_uncertainty=LOAD,
        watts=[round(value, 4) for value in watts],
    )


def inherit(heir: Generation, row: Microarchitecture, part: str, threads: int):
    """Return the row of a microarchitecture without results: its predecessor's, scaled by thermal design power."""
    found = find_tdp(part)
    if found is None:
        msg = f"{part} is not in the table of processors"
        raise SystemExit(msg)
    per_thread = found[1] / threads
    return Microarchitecture(
        name=heir.name,
        vendor=heir.vendor,
        family=heir.family,
        models=heir.models,
        steppings=heir.steppings,
        origin=f"no results; those of {row.name}, by the TDP of the {part}",
        results=0,
        tdp_per_thread=round(per_thread, 4),
        gb_per_thread=row.gb_per_thread,
        idle_uncertainty=max(HEIR_IDLE, row.idle_uncertainty),
        load_uncertainty=max(HEIR_LOAD, row.load_uncertainty),
        watts=[round(watts * per_thread / row.tdp_per_thread, 4) for watts in row.watts],
    )


def fit_typical(results: Sequence[Result]):
    """Return the row of a server of any microarchitecture."""
    recent = [result for result in results if result.year >= RECENT]
    row = fit(Generation(f"servers since {RECENT}", "", "", 0, []), recent)
    return replace_intervals(row, HEIR_IDLE, HEIR_LOAD)


def generation_of(name: str):
    """Return the generation of this name."""
    return next(one for one in GENERATIONS if one.name == name)


def by_generation(results: Iterable[Result]):
    """Return the results of each generation."""
    found = {}
    for result in results:
        found.setdefault(result.generation, []).append(result)
    return found


def make_table(results: Sequence[Result]):
    """Return the rows of the package's table."""
    found = by_generation(results)
    rows = {one.name: fit(one, found[one.name]) for one in GENERATIONS if one.name in found}
    rows = {name: replace_intervals(row, *intervals(found[name])) for name, row in rows.items()}
    heirs = [inherit(heir, rows[before], part, threads) for heir, before, part, threads in HEIRS]
    return [*rows.values(), *heirs, fit_typical(results)]


def intervals(results: Sequence[Result]):
    """Return the narrowest intervals, idle and under load, that hold for most results in each band of loads.

    Each result is predicted without itself. Of fewer than ten results, nine in ten are all of them, at idle and at full load.
    No interval is wider than the power.
    """
    if len(results) == 1:
        return HEIR_IDLE, HEIR_LOAD
    errors = [
        [abs(true / power - 1) for power, true in zip(powers(without(results, result), result), result.watts, strict=True)]
        for result in results
    ]
    idle, partial, full = (
        narrowest([one[i] for one in errors for i in loads], IDLE if 0 in loads else LOAD) for loads in BANDS.values()
    )
    return max(idle, partial, full), max(partial, full)


def narrowest(errors: Sequence[float], least: float):
    """Return the narrowest interval in steps of 0.1 within which most errors are; it is not narrower than ``least``."""
    while least < 1 and fmean(error <= least for error in errors) < SHARE:
        least = round(least + 0.1, 1)
    return least


def replace_intervals(row: Microarchitecture, idle: float, load: float):
    """Return the row with other intervals."""
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return Microarchitecture(**fields | {"idle_uncertainty": idle, "load_uncertainty": load})


def write_table(rows: Sequence[Microarchitecture], results: Sequence[Result]):
    """Write the package's table, a row in each line."""
    head = {
        "title": "Power of servers by the microarchitecture of their processors: for each hardware thread in W, without memory",
        "source": "Standard Performance Evaluation Corporation, published results of SPECpower_ssj2008; our medians",
        "url": "https://www.spec.org/power_ssj2008/results/",
        "years": f"{min(result.year for result in results)} to {max(result.year for result in results)}",
        "licence": "statistics of published results, by SPEC's fair use rules; SPEC and SPECpower_ssj are its trademarks",
        "codecarbon": None,
        "columns": Microarchitecture.__struct_fields__,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    body = ",\n".join(f"    {json.dumps([getattr(row, name) for name in row.__struct_fields__])}" for row in rows)
    text = "{\n" + "".join(lines) + '  "rows": [\n' + body + "\n  ]\n}\n"
    (DATA / "microarchitectures.json").write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- the comparison


def without(results: Sequence[Result], left_out: Result):
    """Return the row of a result's generation, of its other results."""
    peers = [result for result in results if result is not left_out and result.generation == left_out.generation]
    return fit(generation_of(left_out.generation), peers)


def powers(row: Microarchitecture, result: Result, *, part_known: bool = True):
    """Return the predicted watts of a result's server at each load."""
    power = estimate(row, result, part_known=part_known)
    return [power.at(i / 10) for i in range(len(LOADS))]


def estimate(row: Microarchitecture, result: Result, *, part_known: bool = True) -> LoadPower:
    """Return the model of a result's server, by the package's own function."""
    tdp_watts = result.tdp_watts if part_known else None
    return estimate_power(row, threads=result.threads, tdp_watts=tdp_watts, gigabytes=result.gigabytes)


@dataclass(frozen=True)
class Judged:
    """A result beside its prediction: relative errors, and whether the stated intervals hold, at each load."""

    result: Result
    errors: Sequence[float]
    held: Sequence[bool]


def judge(results: Sequence[Result], row_for: Callable[[Result], Microarchitecture], *, part_known: bool = True):
    """Return each result beside its prediction by the row that is chosen for it."""
    judged = []
    for result in results:
        power = estimate(row_for(result), result, part_known=part_known)
        predicted = [power.at(i / 10) for i in range(len(LOADS))]
        held = [
            abs(true / watts - 1) <= power.uncertainty(i / 10)
            for i, (watts, true) in enumerate(zip(predicted, result.watts, strict=True))
        ]
        judged.append(Judged(result, [watts / true - 1 for watts, true in zip(predicted, result.watts, strict=True)], held))
    return judged


def figures(judged: Sequence[Judged]):
    """Return the mean errors and the share of intervals that hold, in percent."""
    errors = [error for one in judged for error in one.errors]
    return {
        "results": len(judged),
        "mape": 100 * fmean(map(abs, errors)),
        "mape_idle": 100 * fmean(abs(one.errors[0]) for one in judged),
        "bias": 100 * fmean(errors),
        "holds": 100 * fmean(held for one in judged for held in one.held),
        **{f"holds_{band}": 100 * fmean(one.held[i] for one in judged for i in loads) for band, loads in BANDS.items()},
    }


def compare(results: Sequence[Result]):
    """Return the figures of all ways to predict the recent results, and by generation."""
    recent = [result for result in results if result.year >= RECENT]
    table = {row.name: row for row in make_table(results)}

    def left_out(result):
        stated = table[result.generation]
        return replace_intervals(without(results, result), stated.idle_uncertainty, stated.load_uncertainty)

    typical = {name: fit_typical([result for result in results if result.generation != name]) for name in by_generation(recent)}

    def of_others(result):
        return typical[result.generation]

    def of_other_parts(result):
        generation = by_generation(results)[result.generation]
        others = [other for other in generation if other.part.lower() != result.part.lower()]
        if not others:
            return typical[result.generation]
        stated = table[result.generation]
        return replace_intervals(fit(generation_of(stated.name), others), stated.idle_uncertainty, stated.load_uncertainty)

    itself = judge(recent, left_out)
    ways = {
        "without itself": itself,
        "without itself, as a virtual machine": judge(recent, left_out, part_known=False),
        "without its part": judge(recent, of_other_parts),
        "without its generation": judge(recent, of_others),
        "without its generation, as a virtual machine": judge(recent, of_others, part_known=False),
    }
    by_name = {name: found for name, found in by_generation(results).items() if len(found) > 1}
    worst = sorted(itself, key=lambda one: fmean(map(abs, one.errors)), reverse=True)[:10]
    return {
        "ways": {name: figures(judged) for name, judged in ways.items()},
        "generations": {one.name: figures(judge(by_name[one.name], left_out)) for one in GENERATIONS if one.name in by_name},
        "by_load": {
            str(load): {
                "mape": 100 * fmean(abs(one.errors[i]) for one in itself),
                "holds": 100 * fmean(one.held[i] for one in itself),
            }
            for i, load in enumerate(LOADS)
        },
        "worst": [
            {
                "processor": one.result.processor,
                "year": one.result.year,
                "chips": one.result.chips,
                "memory_gb": one.result.gigabytes,
                "mape": 100 * fmean(map(abs, one.errors)),
                "bias": 100 * fmean(one.errors),
            }
            for one in worst
        ],
    }


def show(found):
    """Print the comparison as tables in Markdown."""
    head = "| results | mean error | idle | bias | interval holds | idle | partial | full load |"
    for title, rows in ((f"results since {RECENT}", found["ways"]), ("generation, without itself", found["generations"])):
        print(f"| {title} {head}\n|---|---|---|---|---|---|---|---|---|")
        for name, one in rows.items():
            print(
                f"| {name} | {one['results']} | {one['mape']:.1f} % | {one['mape_idle']:.1f} % | {one['bias']:+.1f} % "
                f"| {one['holds']:.1f} % | {one['holds_idle']:.1f} % | {one['holds_partial']:.1f} % "
                f"| {one['holds_full']:.1f} % |"
            )
        print()
    print("| load | mean error | interval holds |\n|---|---|---|")
    for load, one in found["by_load"].items():
        print(f"| {load} | {one['mape']:.1f} % | {one['holds']:.1f} % |")
    print("\n| the ten worst | year | chips | memory | mean error | bias |\n|---|---|---|---|---|---|")
    for one in found["worst"]:
        name = " ".join(one["processor"].split(" (")[0].split())
        size = f"{one['chips']} | {one['memory_gb']:g} GB"
        print(f"| {name} | {one['year']} | {size} | {one['mape']:.0f} % | {one['bias']:+.0f} % |")


def main():
    """Compare, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("file", type=Path, help="the results, such as ../shared/data/specpower.csv")
    options.add_argument("--write", action="store_true", help="generate the package's table")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    results = read_results(chosen.file)
    if chosen.write:
        write_table(make_table(results), results)
    found = compare(results)
    if chosen.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
