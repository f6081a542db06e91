"""The variables that the project has, as its files name them. For plugins on the controller."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]


def inventory_names() -> set[str]:
    """The variables of the project's group_vars."""
    texts = [path.read_text(encoding="utf-8") for path in (PROJECT / "inventory/group_vars").rglob("*.yml")]
    return {name for text in texts for name in re.findall(r"^(\w+):", text, re.MULTILINE)}


def role_names() -> set[str]:
    """The inputs of the roles."""
    found: set[str] = set()
    for path in (PROJECT / "roles").glob("*/meta/argument_specs.yml"):
        found |= {name for spec in argument_specs(path).values() for name in spec.get("options") or {}}
    return found


def argument_specs(path: Path) -> dict[str, Any]:
    """The entry points of a role, each with its options."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["argument_specs"])  # noqa: S506
