"""The project's group_vars below those of every inventory, wherever it lies."""

from __future__ import annotations

DOCUMENTATION = r"""
name: project_defaults
short_description: The project's group_vars for inventories that lie elsewhere
description:
  - Ansible reads C(group_vars) beside the inventory. An inventory outside of the checkout lacks the project's, without
    which no playbook works.
  - Loads C(inventory/group_vars) of the project for the groups of such an inventory. What is beside that inventory has
    precedence, file by file, so that an operator's file contains only what differs.
author: mistralrs-rpm
"""

from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.vars.host_group_vars import VarsModule as GroupVars

INVENTORY = Path(__file__).resolve().parents[2] / "inventory"


class VarsModule(GroupVars):
    """Reads one folder more."""

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        if not elsewhere(Path(path)):
            return {}
        groups = [entity for entity in (entities if isinstance(entities, list) else [entities]) if is_group(entity)]
        return dict(super().get_vars(loader, str(INVENTORY), groups, cache))


def is_group(entity: Any) -> bool:
    return hasattr(entity, "child_groups")


def elsewhere(path: Path) -> bool:
    """Whether this is the folder of an inventory other than the project's; Ansible asks for the playbooks' too."""
    if path.resolve() == INVENTORY:
        return False
    sources = [Path(source) for source in context.CLIARGS.get("inventory") or () if "," not in source]
    return any(path == (source if source.is_dir() else source.parent) for source in sources)
