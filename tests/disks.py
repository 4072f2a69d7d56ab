"""Real disks that are full, have no inodes or are read-only, and an `fsync` or a `write` that is slow or never returns."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
long fsync_ms;
int fsync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    for (long waited = 0; fsync_ms < 0 || waited < fsync_ms; waited += 10) usleep(10000);
    return real(file);
}
"""
"""Takes `fsync_ms` more than the disk itself; if that is negative, it never returns."""


HELD_WRITE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int held;
ssize_t write(int file, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    char link[64], name[4096] = "";
    if (!real) real = dlsym(RTLD_NEXT, "write");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (held && readlink(link, name, sizeof name - 1) > 0 && strstr(name, ".jsonl"))
        while (held) usleep(10000);
    return real(file, data, size);
}
"""
"""Holds what is written to recordings as long as `held` is not 0."""


def slow_fsync(folder: Path) -> Path:
    """Return a library for ``LD_PRELOAD`` whose `fsync_ms` a program sets."""
    return _library(folder / "fsync.so", FSYNC)


def held_write(folder: Path) -> Path:
    """Return a library for ``LD_PRELOAD`` whose `held` a program sets."""
    return _library(folder / "write.so", HELD_WRITE)


def _library(library: Path, source: str) -> Path:
    compiler = ["cc", "-x", "c", "-shared", "-fPIC", "-o", str(library), "-", "-ldl"]
    subprocess.run(compiler, input=source, text=True, check=True)
    return library


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a disk of 256 KiB with these options; the test is skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=256k", *options)), "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"A disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def use_all_inodes(disk: Path) -> None:
    """Leave no inode free."""
    with suppress(OSError):
        for number in range(100_000):
            (disk / f"{number}").touch()


def make_read_only(disk: Path) -> None:
    """Let nothing be written any more."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
