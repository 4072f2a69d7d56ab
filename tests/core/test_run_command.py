"""`ml-energy run`: any command, measured from outside."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import COMMAND, ml_energy, ml_energy_process
from msgspec.structs import replace

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.record.merge import add_records

MEASURES_ITSELF = """
import sys
from ml_energy_callbacks import EnergyMeter
with EnergyMeter(output_dir=sys.argv[1], verbose=False) as meter, meter.stage("train"), meter.batch(8):
    sum(range(100_000))
"""

IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def shell(script: str) -> tuple[str, ...]:
    return ("run", "--", "sh", "-c", script)


def test_input_output_and_status_are_the_commands_own(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4
    command = [*COMMAND, *shell("cat; echo problem >&2; exit 7")]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, data)
    assert done.stderr.startswith((b"problem\n", b"No location"))
    assert b"\nEnergy" in done.stderr
    record = load_record(tmp_path / "energy_logs" / "run")
    assert (record.run.status, record.run.reason, record.run.tags) == ("failed", "exit status 7", {"command": "sh"})
    assert list(record.stages) == ["other"]


def test_json_is_the_last_line_of_stderr(tmp_path: Path) -> None:
    done = ml_energy("run", "--json", "--location", "FRA", "--output-dir", tmp_path, "true")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(done.stderr.splitlines()[-1]) == json.loads((tmp_path / "energy.json").read_text())


def test_options_after_the_program_are_the_programs(tmp_path: Path) -> None:
    done = ml_energy("run", "--output-dir", tmp_path, "sh", "-c", '[ "$1" = --json ]', "sh", "--json")
    assert done.returncode == 0, done.stderr
    assert load_record(tmp_path).run.status == "completed"


def test_the_record_names_the_script_and_no_argument(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text("true")
    assert ml_energy("run", "--output-dir", tmp_path, "--", "sh", script, "--token=secret").returncode == 0
    assert load_record(tmp_path).run.tags == {"command": "train.sh"}
    assert "secret" not in (tmp_path / "energy.json").read_text()


def test_a_missing_command_is_one_sentence_and_status_127(tmp_path: Path) -> None:
    done = ml_energy("run", "--output-dir", tmp_path / "a", "--", "nosuch", "x")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "ml-energy: nosuch cannot be run: no such command.\n"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", ["", "#!/no/such/interpreter\n"])
def test_a_file_that_is_no_program_is_status_126(content: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(0o755 if content else 0o644)
    done = ml_energy("run", "--output-dir", tmp_path / "a", "--", program)
    assert done.returncode == 126
    assert f"ml-energy: {program} cannot be run: " in done.stderr


def test_a_wrong_option_starts_no_command(tmp_path: Path) -> None:
    done = ml_energy("run", "--location", "Atlantis", "--output-dir", tmp_path, "--", "touch", tmp_path / "started")
    assert done.returncode == 2
    assert "Atlantis" in done.stderr
    assert not (tmp_path / "started").exists()


def test_a_command_that_crashes_has_the_status_of_its_signal(tmp_path: Path) -> None:
    done = ml_energy("run", "--output-dir", tmp_path, "--", "sh", "-c", "kill -KILL $$")
    assert done.returncode == 128 + signal.SIGKILL
    assert (load_record(tmp_path).run.status, load_record(tmp_path).run.reason) == ("failed", "SIGKILL")


@contextmanager
def started(*command: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program without a terminal, from the line that it is ready."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert "ready\n" in iter(process.stdout.readline, "")
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_passed_on_and_the_command_ends_itself(name: str, tmp_path: Path) -> None:
    script = f"trap 'echo {name}; exit 3' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    with started(*COMMAND, *shell(script), folder=tmp_path) as process:
        process.send_signal(signal.Signals[name])
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (3, f"{name}\n"), errors
    record = load_record(tmp_path / "energy_logs" / "run")
    assert (record.run.status, record.run.reason) == ("stopped", name)


def test_ctrl_c_in_a_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    script = "trap 'n=x$n' INT; echo ready; while [ -z \"$n\" ]; do sleep 0.05; done; sleep 0.3; echo got $n; exit 5"
    with started(sys.executable, "-c", IN_A_TERMINAL, *COMMAND, *shell(script), folder=tmp_path) as process:
        output, _ = process.communicate("\x03", timeout=60)
    assert "got x\r\n" in output or "got x\n" in output
    assert process.returncode == 5, output


def test_what_the_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    done = ml_energy_process(*shell("sleep 600 > /dev/null 2>&1 & echo $!"), folder=tmp_path)
    os.kill(int(done.stdout), signal.SIGKILL)
    assert load_record(tmp_path / "energy_logs" / "run").total.seconds < 60


def test_a_run_inside_a_measured_command_counts_once(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    script = tmp_path / "train.py"
    script.write_text(MEASURES_ITSELF)
    done = ml_energy("run", "--output-dir", tmp_path / "outer", "--", sys.executable, script, tmp_path / "inner")
    assert done.returncode == 0, done.stderr
    outer, inner = load_record(tmp_path / "outer"), load_record(tmp_path / "inner")
    assert inner.run.within == outer.run.id
    assert inner.total.joules < outer.total.joules
    groups = json.loads(ml_energy("report", tmp_path, "--by", "framework", "--json").stdout)
    assert (groups["included"], groups["total"]["runs"]) == (1, 1)
    assert groups["total"]["kwh"] == pytest.approx(outer.total.kwh)
    table = ml_energy("report", tmp_path, "--by", "framework").stdout
    assert "Included in runs of `ml-energy run`: 1 run, counted once." in table
    alone = json.loads(ml_energy("report", tmp_path / "inner", "--by", "framework", "--json").stdout)
    assert (alone["included"], alone["total"]["runs"]) == (0, 1)


def test_a_resumed_run_is_included_if_all_of_it_is() -> None:
    with EnergyMeter(backends=[], verbose=False) as meter:
        pass
    record = meter.record
    first, second, outside = (replace(record, run=replace(record.run, within=within)) for within in ("a", "b", None))
    assert add_records(first, second).run.within == "b"
    assert add_records(outside, second).run.within is None
    assert add_records(first, outside).run.within is None
