"""tox's own plug-in of this project: `tox run --discard` removes each environment when it has ended.

Together they take some 25 GB, one after the other at most 5.
"""

import shutil

from tox.config.cli.parser import ToxParser
from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.runner import RunToxEnv


@impl
def tox_add_option(parser: ToxParser) -> None:
    """Add the option to the command line."""
    parser.add_argument("--discard", action="store_true", help="remove each environment when it has ended")


@impl
def tox_env_teardown(tox_env: ToxEnv) -> None:
    """Remove an environment that has run, and leave the one that builds the package."""
    if tox_env.options.discard and isinstance(tox_env, RunToxEnv):
        shutil.rmtree(tox_env.env_dir, ignore_errors=True)
