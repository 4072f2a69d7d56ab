"""docs/architecture.md is the source tree, and docs/glossary.md has the words of the code."""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from public_names import PAGE, public

from ml_energy_callbacks.metrics import PHASES, STAGES
from ml_energy_callbacks.readings import Method, Provenance

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ml_energy_callbacks"
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]

SHOWN_TO_USERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.py"))]


def in_the_tree() -> list[str]:
    """Return the package's folders, and its modules but for the ``__init__`` of each folder."""
    found = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".c"} or (path / "__init__.py").is_file()]
    names = [path.relative_to(PACKAGE).as_posix() + ("/" if path.is_dir() else "") for path in found]
    return [name for name in names if not name.endswith("__init__.py")]


def test_each_package_and_module_is_named_once() -> None:
    named = Counter(re.findall(r"`([a-z_]\w*(?:/\w+)*(?:/|\.py|\.c))`", PAGE))
    assert named == Counter(in_the_tree())


def drawn(first: str) -> list[list[str]]:
    """Return the rows of the drawing of layers that begins with this one."""
    drawing = re.search(rf"^```\n({first}\n.*?)```$", PAGE, re.MULTILINE | re.DOTALL)
    assert drawing is not None
    return [sorted(row.split()) for row in drawing[1].splitlines()]


def layers(container: str) -> list[list[str]]:
    """Return the layers that import-linter checks in a package."""
    checked = [contract["layers"] for contract in CONTRACTS if contract.get("containers") == [container]]
    assert len(checked) == 1
    return [sorted(layer.split(" | ")) for layer in checked[0]]


@pytest.mark.parametrize(
    ("first", "container"), [("cli", "ml_energy_callbacks"), ("discovery", "ml_energy_callbacks.backends")]
)
def test_the_layers_drawn_are_those_that_are_checked(first: str, container: str) -> None:
    assert drawn(first) == layers(container)


def test_the_packages_that_import_a_framework_are_those_that_may() -> None:
    forbidden = next(contract for contract in CONTRACTS if contract["type"] == "forbidden")
    core = {name.removeprefix("ml_energy_callbacks.") for name in forbidden["source_modules"]}
    sentence = re.search(r"- Only (.*?) import a framework", PAGE, re.DOTALL)
    assert sentence is not None
    everything = {name for row in drawn("cli") for name in row}
    assert set(re.findall(r"`(\w+)`", sentence[1])) == everything - core - {"cli"}  # which imports the demonstration


@pytest.mark.parametrize(("drawn_with", "name"), [("rich.table", "table"), ("ml_energy_callbacks.report.picture", "plot")])
def test_tables_and_pictures_are_in_the_package_of_the_result(drawn_with: str, name: str) -> None:
    """Those of what the packages below ``report`` hold are in ``report``; the commands draw none."""
    line = re.compile(rf"^from {drawn_with} import (Table|new_figure)", re.MULTILINE)
    found = [path for path in PACKAGE.rglob("*.py") if line.search(path.read_text(encoding="utf-8"))]
    assert found
    assert {path.stem.rpartition("_")[2] for path in found} == {name}
    above = {row: height for height, packages in enumerate(reversed(drawn("cli"))) for row in packages}
    assert {path.parent.name for path in found} <= {room for room, height in above.items() if height >= above["report"]} - {
        "cli"
    }


def source_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def bound_in(source: Path) -> set[str]:
    """Return the names that a module binds at its top level, or lists in ``__all__``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("path", public())
def test_each_public_name_is_there(path: str) -> None:
    names = {name for name in public()[path] if not (PACKAGE / "backends" / f"{name}.py").is_file()}
    assert names <= bound_in(source_of(path)) | {"__version__"}


def imports(text: str) -> Iterator[tuple[str, str]]:
    """Return the package's modules, with the names, that a page or an example imports."""
    for module, names in re.findall(r"^ *from (ml_energy_callbacks[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
        for name in names.split(","):
            yield module, name.strip()


@pytest.mark.parametrize("path", SHOWN_TO_USERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_users_are_shown_is_public(path: Path) -> None:
    known = public()
    for module, name in imports(path.read_text(encoding="utf-8")):
        package, _, kind = module.rpartition(".")
        if package == "ml_energy_callbacks.backends" and kind in known["ml_energy_callbacks.backends.nvml"]:
            assert name.endswith("Backend")
        elif package == "ml_energy_callbacks.testing" and module not in known:
            assert name.startswith("Simulated")
        elif module in {"ml_energy_callbacks.exceptions", "ml_energy_callbacks.testing"}:
            assert name in bound_in(source_of(module))
        else:
            assert name in known.get(module, []), f"{module} is not public, or has no public {name}"


def test_the_glossary_has_the_words_of_the_code() -> None:
    words = set(re.findall(r"`(\w+)`", GLOSSARY))
    assert {*STAGES, *PHASES, *get_args(Method), *get_args(Provenance)} <= words
