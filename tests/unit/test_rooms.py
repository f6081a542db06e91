"""The rooms of module_utils/pipeline: imports point one way, and rooms and files stay small."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PIPELINE = Path(__file__).resolve().parents[2] / "module_utils/pipeline"
FILES_A_ROOM = 14
LINES_A_FILE = 450
# The rooms that each room may import beside itself and base; docs/architecture.md draws them.
IMPORTS = {
    "base": set(),
    "source": set(),
    "toolchain": set(),
    "sign": set(),
    "plan": set(),
    "package": set(),
    "report": set(),
    "cache": {"source", "toolchain"},
    "build": {"source", "toolchain", "cache", "report"},
    "check": {"source", "toolchain", "cache", "build"},
    "channel": {"sign", "plan", "package"},
    "prove": {"sign", "package"},
    "hosts": {"sign", "package"},
    "tell": set(),
}
# Libraries from outside Python's own that the logic may use.
LIBRARIES = {"createrepo_c", "gnupg", "jinja2", "requests", "zlib_ng"}


def imports(path: Path) -> tuple[set[Path], set[str]]:
    """The files of the pipeline that a file imports, and the names of other top-level packages."""
    files: set[Path] = set()
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            files |= (
                {folder.with_suffix(".py")}
                if node.module and not folder.is_dir()
                else {folder / f"{alias.name}.py" for alias in node.names}
            )
    return files, packages


def violations(pipeline: Path) -> list[str]:
    """Every breach of the rules of the rooms below ``pipeline``, one line each."""
    found = [f"{path.name} is in no room" for path in pipeline.glob("*.py") if path.name != "__init__.py"]
    rooms = {path.name: sorted(path.rglob("*.py")) for path in pipeline.iterdir() if (path / "__init__.py").is_file()}
    found += [f"{room} has no row in IMPORTS" for room in rooms if room not in IMPORTS]
    graph: dict[str, set[str]] = {}
    for room, files in rooms.items():
        count = sum(path.name != "__init__.py" for path in files)
        if count > FILES_A_ROOM:
            found.append(f"{room} has {count} files, more than {FILES_A_ROOM}")
        for path in files:
            name = str(path.relative_to(pipeline))
            lines = len(path.read_text().splitlines())
            if lines >= LINES_A_FILE:
                found.append(f"{name} has {lines} lines, not below {LINES_A_FILE}")
            theirs, packages = imports(path)
            strange = packages - sys.stdlib_module_names - LIBRARIES
            found += [f"{name} imports {package}" for package in sorted(strange)]
            graph[name] = {str(other.relative_to(pipeline)) for other in theirs if other.is_relative_to(pipeline)}
            allowed = {"base", room, *IMPORTS.get(room, ())}
            used = {other.partition("/")[0] for other in graph[name]}
            found += [f"{name} imports the room {other}" for other in sorted(used - allowed)]
            found += [
                f"{name} imports {other}, which is no file" for other in graph[name] if not (pipeline / other).is_file()
            ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"files import each other: {' <- '.join(error.args[1])}")
    return found


def test_every_rule_holds():
    assert violations(PIPELINE) == []


GOOD = {
    "__init__.py": "",
    "base/__init__.py": "",
    "base/run.py": "import os\n",
    "source/__init__.py": "",
    "source/manifest.py": "from ..base.run import run\n",
    "build/__init__.py": "",
    "build/cargo.py": "from ..source import manifest\nfrom . import limits\n",
    "build/limits.py": "",
}


def planted(folder: Path, files: dict[str, str]) -> list[str]:
    """The violations of the small pipeline above with more files."""
    for name, text in {**GOOD, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return violations(folder)


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        ("source/back.py", "from ..build.limits import x\n", "source/back.py imports the room build"),
        ("source/back.py", "from ..build import limits\n", "source/back.py imports the room build"),
        ("base/step.py", "from ..source import manifest\n", "base/step.py imports the room source"),
        ("base/shell.py", "from ansible.module_utils import basic\n", "base/shell.py imports ansible"),
        ("base/shell.py", "import ansible.errors\n", "base/shell.py imports ansible"),
        ("base/late.py", "def late():\n    import yaml\n", "base/late.py imports yaml"),
        ("base/gone.py", "from .nowhere import x\n", "base/gone.py imports base/nowhere.py, which is no file"),
        ("base/long.py", "x = 1\n" * 450, "base/long.py has 450 lines, not below 450"),
        ("flat.py", "", "flat.py is in no room"),
        ("attic/__init__.py", "", "attic has no row in IMPORTS"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, name, text, violation):
    assert planted(tmp_path, {name: text}) == [violation]


def test_a_full_room_is_found(tmp_path):
    assert planted(tmp_path, {f"base/file_{n}.py": "" for n in range(13)}) == []
    assert planted(tmp_path, {"base/file_13.py": ""}) == ["base has 15 files, more than 14"]


def test_a_cycle_of_files_is_found(tmp_path):
    (found,) = planted(tmp_path, {"build/a.py": "from .b import x\n", "build/b.py": "from . import a\n"})
    assert found.startswith("files import each other: build/")
