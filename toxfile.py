"""tox's own plug-in of this project.

`tox run --discard` removes each environment when it has ended: together those of a full run take some 25 GB. What each
environment's set-up and each of its commands took is added to the file that ``TIMES`` names in the environment of tox, if any.
"""

import os
import shutil
import time
from pathlib import Path

from tox.config.cli.parser import ToxParser
from tox.execute.api import Outcome
from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.runner import RunToxEnv

_STARTED = time.monotonic()
"""Of this process, which has one environment where several run in parallel."""


@impl
def tox_add_option(parser: ToxParser) -> None:
    """Add the option to the command line."""
    parser.add_argument("--discard", action="store_true", help="remove each environment when it has ended")


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    """Note what the set-up took."""
    _note(tox_env.name, time.monotonic() - _STARTED, "set-up")


@impl
def tox_after_run_commands(tox_env: ToxEnv, exit_code: int, outcomes: list[Outcome]) -> None:
    """Note what each command took."""
    del exit_code
    root = f"{tox_env.core['tox_root']}/"
    for outcome in outcomes:
        program, *words = (word.removeprefix(root) for word in outcome.request.cmd)
        what = [word for word in words if word.startswith(("tests/", "lightning", "keras", "transformers"))]
        ended = "" if outcome.exit_code == 0 else f": exit status {outcome.exit_code}"
        _note(tox_env.name, outcome.elapsed, " ".join(what or [Path(program).name, *words[:2]]) + ended)


@impl
def tox_env_teardown(tox_env: ToxEnv) -> None:
    """Remove an environment that has run, and leave the one that builds the package."""
    if tox_env.options.discard and isinstance(tox_env, RunToxEnv):
        shutil.rmtree(tox_env.env_dir, ignore_errors=True)


def _note(environment: str, seconds: float, what: str) -> None:
    if place := os.environ.get("TIMES"):
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(f"{seconds:7.1f} s  {environment:<17} {what}\n")
