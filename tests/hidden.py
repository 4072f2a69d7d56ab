"""Hide installed packages: hidden.py PACKAGE,... SCRIPT ARGUMENT... runs a script as if they were not installed.

One environment has every framework; features that work without some of them are tested in processes that cannot find these.
"""

import runpy
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any


class _Finder:
    """A wrapper of a finder that hides some packages: it finds neither their modules nor their versions."""

    def __init__(self, finder: Any, packages: Iterable[str]) -> None:
        self._finder = finder
        self._packages = set(packages)

    def show(self, packages: Iterable[str]) -> None:
        self._packages.difference_update(packages)

    def find_spec(self, name: str, *args: Any) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self._packages else self._finder.find_spec(name, *args)

    def find_distributions(self, *context: Any) -> Iterator[Distribution]:
        hidden = {name.lower() for name in self._packages}
        find = getattr(self._finder, "find_distributions", lambda *_: ())
        for found in find(*context):
            if found.metadata["Name"].lower().replace("-", "_") not in hidden:
                yield found

    def invalidate_caches(self) -> None:
        PathFinder.invalidate_caches()


def hide(packages: Iterable[str]) -> None:
    """Hide these packages, none of which may have been imported, from this process."""
    packages = list(packages)
    imported = sorted({name.partition(".")[0] for name in sys.modules} & set(packages))
    assert not imported, f"{imported} have been imported already"
    with suppress(ImportError):
        import_module("importlib_metadata")  # it adds its own finder when it is first imported
    for place, finder in enumerate(sys.meta_path):
        if finder is PathFinder or hasattr(finder, "find_distributions"):
            sys.meta_path[place] = _Finder(finder, packages)


def show(packages: Iterable[str]) -> None:
    """Make this process find these packages again."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            finder.show(packages)


def main() -> None:
    """Run the script."""
    packages, *sys.argv[:] = sys.argv[1:]
    hide(packages.split(","))
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
