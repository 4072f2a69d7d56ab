"""The command `ml-energy`."""

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import COMMAND, ml_energy, ml_energy_process
from msgspec.structs import replace
from typer.main import get_command

from ml_energy_callbacks import EnergyMeter, RunRecord, load_record
from ml_energy_callbacks.cli.commands import app
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import Part

HEAVY = (
    "duckdb",
    "fsspec",
    "grpc",
    "h2",
    "matplotlib",
    "numpy",
    "pandas",
    "psutil",
    "pyarrow",
    "pycountry",
    "pynvml",
    "requests",
    "tensorboard",
    "tensorflow",
    "torch",
    "ml_energy_callbacks.backends",
    "ml_energy_callbacks.meter.meter",
    "ml_energy_callbacks.meter.summary",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with EnergyMeter(output_dir=tmp_path, verbose=False) as meter, meter.stage("train"), meter.batch(1000):
        pass
    return tmp_path


def test_report_shows_the_table(folder: Path) -> None:
    done = ml_energy("report", folder)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert text.startswith("Energy ")
    for word in ("train", "total", "J/sample", "CO2e", "estimated", "No location set: world average"):
        assert word in text
    assert text.count("No location set") == 1
    assert "cpu-model:0" not in text


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_report_shows_details_when_asked(folder: Path, columns: int) -> None:
    done = ml_energy("report", "-v", folder, columns=columns)
    assert max(map(len, done.stdout.splitlines())) <= columns
    for word in ("Phases", "data_wait", "Devices", "cpu-model:0", "Carbon: 475 g"):
        assert word in done.stdout


def test_report_as_json_is_the_record(folder: Path) -> None:
    done = ml_energy("report", folder, "--json")
    assert json.loads(done.stdout) == json.loads((folder / "energy.json").read_text())


def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = ml_energy("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ml-energy: There is no run record at")
    assert len(done.stderr.splitlines()) == 1


def test_version() -> None:
    assert ml_energy("--version").stdout.startswith("ml-energy 0.")


def test_the_demonstration_without_its_packages_names_what_to_install(tmp_path: Path) -> None:
    try:
        import pytorch_lightning  # noqa: F401, PLC0415
    except ImportError:
        done = ml_energy("demo", "--logdir", tmp_path)
        assert done.returncode == 2
        assert "pip install 'ml-energy-callbacks[demo]'" in done.stderr
    else:
        pytest.skip("this environment has the extras; the core environments have not")


def imported(*args: object) -> set[str]:
    """Return the modules that a process of the command has imported at its end."""
    tell = "import atexit, sys; atexit.register(lambda: print(*sys.modules, sep=chr(10), file=sys.stderr))\n"
    command = [*COMMAND[:-1], tell + COMMAND[-1], *map(str, args)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stderr.split())


COMMANDS = ("doctor", "demo", "profile", "compare", "report", "diff", "export", "audit", "merge", "replay", "when", "lifecycle")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_help_has_commands_in_groups(columns: int) -> None:
    done = ml_energy("-h", columns=columns)
    assert done.returncode == 0
    assert done.stdout == ml_energy("--help", columns=columns).stdout
    places = [done.stdout.index(f"─ {group} ") for group in ("Measure", "Read runs", "Plan")]
    assert places == sorted(places)
    assert [done.stdout.index(f" {name} ") for name in COMMANDS] == sorted(done.stdout.index(f" {name} ") for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_examples_that_it_accepts(command: str) -> None:
    text = ml_energy(command, "-h", columns=200).stdout
    examples = re.findall(r"^ *(ml-energy .*?) *$", text.partition("Examples:")[2], re.MULTILINE)
    assert examples
    for example in examples:
        _, name, *args = shlex.split(example)
        assert name == command
        group = get_command(app)
        found = group.commands[name]  # type: ignore[attr-defined]
        found.make_context(name, args)


def test_the_help_needs_nothing_but_the_options() -> None:
    found = imported("--help")
    assert found.isdisjoint((*HEAVY, "msgspec", "ml_energy_callbacks.record.schema"))
    assert "ml_energy_callbacks.cli" in found


def test_a_runs_report_imports_no_package_that_it_does_not_need(folder: Path) -> None:
    found = imported("report", folder)
    assert found.isdisjoint(HEAVY)
    assert "ml_energy_callbacks.record.schema" in found


# ------------------------------------------------------------------------------------------------------------ as a process


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    """What the two processes of a job left."""
    with EnergyMeter(backends=[], verbose=False) as meter:
        pass
    for rank in range(2):
        record = part_of(meter.record, rank)
        (tmp_path / f"energy.rank{rank}.json").write_bytes(encode_record(record))
    return tmp_path


def part_of(record: RunRecord, rank: int) -> RunRecord:
    return replace(record, run=replace(record.run, world_size=2), part=Part(rank=rank, host="a", hostname="a", uses=[]))


def test_merge_builds_the_record_of_a_job(ranks: Path) -> None:
    done = ml_energy_process("merge", ranks, "--json")
    assert (done.returncode, done.stderr) == (0, f"Written to {ranks / 'energy.json'}.\n")
    record = load_record(ranks)
    assert [rank.rank for rank in record.ranks] == [0, 1]
    assert json.loads(done.stdout) == json.loads((ranks / "energy.json").read_text())
    again = ml_energy("merge", ranks, "--json")
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (("--help",), 0),
        (("report", "."), 0),
        (("export", ".", "--format", "sci-json"), 0),
        (("when", "--location", "DE", "--price", "6=cheap"), 2),
        (("lifecycle", "--train", ".", "--predict", "nowhere", "--per-day", "1", "--days", "1"), 2),
        (("doctor", "nothing:7"), 2),
        (("profile", "mine"), 2),
        (("compare", "mine"), 2),
        (("nosuch",), 2),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_process_says_what_the_command_says_in_this_one(folder: Path, args: Sequence[str], status: int) -> None:
    ours, theirs = ml_energy(*args, folder=folder), ml_energy_process(*args, folder=folder)
    assert theirs.returncode == status, theirs.stderr
    assert (theirs.returncode, theirs.stdout, theirs.stderr) == (ours.returncode, ours.stdout, ours.stderr)


def test_the_demonstration_as_a_process_refuses_an_unknown_backend(tmp_path: Path) -> None:
    options = ("demo", "--framework", "keras", "--logdir", tmp_path)
    done = ml_energy_process(*options, environment={"KERAS_BACKEND": "abacus"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ml-energy: KERAS_BACKEND is 'abacus'; the demonstration supports tensorflow, jax, torch.\n"
