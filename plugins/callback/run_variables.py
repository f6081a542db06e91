"""Refuses a run whose variables are unknown, misspelt or of a wrong value, before its first play."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_variables
type: aggregate
short_description: Check the variables of a run before anything else
description:
  - Ansible ignores a variable that nobody reads, so a misspelt one lets a run do something else. This refuses unknown
    names given by C(-e), with the nearest known one, and values that do not fit, of C(-e) and of the inventory.
  - The values of the table of the command line are plain data; what looks like Jinja in them is text.
  - Applies to the project's own playbooks alone. It is a callback because that is the one place that all of them pass
    before a play, whatever is limited or skipped.
author: mistralrs-rpm
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.parsing.splitter import parse_kv
from ansible.plugins.callback import CallbackBase
from ansible.vars.plugins import get_vars_from_inventory_sources

PROJECT = Path(__file__).resolve().parents[2]
# Ansible puts module_utils on the path of modules only.
sys.path.append(str(PROJECT / "module_utils"))
from pipeline.plan import variables
from project_variables import inventory_names, role_names

WRONG_OPTIONS = 5
"""Ansible's own exit status for wrong options."""


class CallbackModule(CallbackBase):
    """Checks once, when the first playbook starts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "run_variables"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        paths = [Path(path).resolve() for path in context.CLIARGS["args"]]
        targets = [path.stem.replace("_", "-") for path in paths if path.parent == PROJECT / "playbooks"]
        plays = playbook.get_plays()
        if not targets or not plays:
            return
        manager = plays[0].get_variable_manager()
        given = manager.extra_vars
        wrong = [*words(context.CLIARGS["extra_vars"]), *names(given, targets, own_names(manager))]
        wrong = wrong or list(values(given, manager))
        if wrong:
            # An exception would be a warning: callbacks are not to end a run.
            self._display.error(variables.report(wrong), wrap_text=False)
            raise SystemExit(WRONG_OPTIONS)
        given |= {
            name: variables.plain(variables.BY_NAME[name], given[name]) for name in given if name in variables.BY_NAME
        }


def words(options: tuple[str, ...]) -> Iterator[str]:
    """What Ansible's reading of ``-e name=value`` would lose."""
    for option in options:
        if option and option[0] not in "@{[" and (why := variables.lost_words(option, parse_kv(option))):
            yield why


def names(given: Mapping[str, Any], targets: list[str], own: set[str]) -> list[str]:
    """The wrong names of ``-e``, and the misspelt ones of the inventory."""
    asked = [name for name in given if name != "_raw_params"]
    known = inventory_names()
    if own <= known and not variables.wrong_names(asked, targets, known, ()):
        return []  # without reading the specs of all roles
    known |= role_names()
    return [*variables.wrong_names(asked, targets, known, own), *variables.misspelt(own, known)]


def own_names(manager: Any) -> set[str]:
    """The variables of the operator's inventory: of its files, and of the group_vars and host_vars beside them."""
    inventory = manager._inventory  # noqa: SLF001
    entities = [*inventory.groups.values(), *inventory.get_hosts(ignore_limits=True, ignore_restrictions=True)]
    beside = get_vars_from_inventory_sources(manager._loader, inventory._sources, entities, "task")  # noqa: SLF001
    names_of = {name for entity in entities for name in entity.get_vars()} | set(beside)
    return {name for name in names_of if not name.startswith(("ansible_", "inventory_"))}


def values(given: Mapping[str, Any], manager: Any) -> Iterator[str]:
    """The wrong values of the table, as the signer has them. A template of the inventory is its task's to check."""
    hosts = manager._inventory.get_hosts("signer")  # noqa: SLF001
    seen = manager.get_vars(host=hosts[0]) if hosts else dict(given)
    for name, row in variables.BY_NAME.items():
        if name in given or (name in seen and not is_template(seen[name])):
            choices = () if is_template(seen.get(row.among, "{{")) else choices_of(seen[row.among])
            if why := variables.misfit(row, given.get(name, seen.get(name)), choices):
                yield f"{name}: {why}"


def is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def choices_of(table: Any) -> tuple[str, ...]:
    """The values that a table of the inventory allows: the keys of the channels, or the names of the flavours."""
    return tuple(table) if isinstance(table, Mapping) else (*(str(row["name"]) for row in table), "all")
