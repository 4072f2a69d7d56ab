"""Run as a user other than root, to test files that only root may read, and limits that root does not have."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534
_LIMITED = 65533  # has no other process


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Run the body as a user who may not read files that only root may read."""
    _let_enter(folder)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


def start_no_more_threads(folder: Path) -> None:
    """Be, for the rest of this process, a user who has no thread left and may write into a folder."""
    if os.geteuid() == 0:
        _let_enter(folder)
        folder.chmod(0o777)
        os.setresuid(_LIMITED, _LIMITED, _LIMITED)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def _let_enter(folder: Path) -> None:
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and parent != parent.parent and os.geteuid() == 0:
            parent.chmod(parent.stat().st_mode | 0o055)
