"""The publisher agent is independent: standard library alone, and each module imports only those before it."""

from __future__ import annotations

import ast
import re
import sys

import publisher_agent
import pytest

FOLDER = publisher_agent.__path__[0]
ORDER = re.search(r"to its left: ([\w,\s]+)\.", publisher_agent.__doc__ or "")
MODULES = re.findall(r"\w+", ORDER[1]) if ORDER else []


def imports(module: str) -> tuple[set[str], set[str]]:
    """The agent's own modules and the foreign modules that a module imports anywhere."""
    own, foreign = set(), set()
    with open(f"{FOLDER}/{module}.py", encoding="utf-8") as file:  # noqa: PTH123
        nodes = list(ast.walk(ast.parse(file.read())))
    for node in nodes:
        if isinstance(node, ast.Import):
            foreign |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module or ""}
        elif isinstance(node, ast.ImportFrom):
            foreign |= {(node.module or "").partition(".")[0]}
    return own, foreign


def test_the_order_names_each_module(project) -> None:
    folder = project / "roles/publisher/files/mistralrs-publisher/publisher_agent"
    assert str(folder) == FOLDER
    assert sorted(MODULES) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_those_before_it(module: str) -> None:
    own, foreign = imports(module)
    assert own <= set(MODULES[: MODULES.index(module)])
    assert foreign <= sys.stdlib_module_names
