"""The documentation of each module, with its fragments, is that of its ARGUMENT_SPEC."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (PROJECT / "library").glob("*.py"))


def load(folder: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"documented_{name}", PROJECT / folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def documented_options(module: Any) -> dict[str, Any]:
    """The options of a module's documentation and of its fragments."""
    documentation = yaml.safe_load(module.DOCUMENTATION)
    options: dict[str, Any] = {}
    for fragment in documentation.get("extends_documentation_fragment", []):
        text = load("plugins/doc_fragments", fragment).ModuleDocFragment.DOCUMENTATION
        options |= yaml.safe_load(text).get("options", {})
    return options | (documentation.get("options") or {})


def plain(options: Mapping[str, Mapping[str, Any]], sub: str) -> dict[str, Any]:
    """The parts of options that both forms have; ``sub`` is the key of suboptions."""
    return {
        name: {
            "type": row.get("type", "str"),
            "required": bool(row.get("required", False)),
            "default": row.get("default"),
            "choices": list(row.get("choices") or []),
            "elements": row.get("elements"),
            "options": plain(row.get(sub) or {}, sub),
        }
        for name, row in options.items()
    }


def described(options: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(row.get("description") and described(row.get("suboptions") or {}) for row in options.values())


@pytest.mark.parametrize("name", MODULES)
def test_the_documentation_is_that_of_the_argument_spec(name: str) -> None:
    module = load("library", name)
    if not hasattr(module, "main"):
        assert (PROJECT / f"plugins/action/{name}.py").is_file(), "neither a module nor an action"
        return
    assert hasattr(module, "ARGUMENT_SPEC")
    options = documented_options(module)
    assert plain(options, "suboptions") == plain(module.ARGUMENT_SPEC, "options")
    assert described(options)


def test_a_run_leaves_the_shared_options_as_they_are(run_module: Any) -> None:
    """Ansible fills the defaults of suboptions in place."""
    from ansible.module_utils import pipeline_module

    arguments = {"root": "/nonexistent", "source": {}, "flavour": {}, "package": "p", "binary": "b", "rustflags": ""}
    arguments["trust"] = "try"
    assert run_module("cargo_build", arguments)["failed"]
    assert pipeline_module.BUILD["mirrors"]["default"] == {}
