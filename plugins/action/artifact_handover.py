"""Brings what a builder hands over to this machine: to a path that the signer chose, and no more than a limit.

Ansible's own fetch has no limit of size, and as another account it passes a file through memory.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.base.records import sha256_file
from pipeline.package.handover import LARGEST, place


class ActionModule(ActionBase):
    """Runs the module of the same name, then copies its file."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        result.update(self._execute_module("artifact_handover", module_args=arguments, task_vars=task_vars))
        if result.get("failed") or not arguments.get("dest") or self._task.check_mode:
            return result
        # No part of these paths comes from the builder.
        source = place(Path(arguments["root"]), str(arguments["name"]))
        target = Path(arguments["dest"])
        if target.is_symlink() or not target.is_file() or sha256_file(target) != result.get("sha256"):
            self._bring(source, target)
            result["changed"] = True
        return result

    def _bring(self, source: Path, target: Path) -> None:
        """Copy the file; at most LARGEST bytes reach the disk."""
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = target.with_name(f".{target.name}.part")
        partial.unlink(missing_ok=True)
        if self._connection.transport == "ssh":
            # Ansible's last resort would pass the file through memory.
            self._connection.set_option("ssh_transfer_method", "sftp")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, before[1]))
        try:
            self._connection.fetch_file(str(source), str(partial))
            partial.replace(target)
        except (AnsibleError, OSError) as error:
            size = partial.stat().st_size if partial.exists() else 0
            what = f"more than {LARGEST:,} bytes" if size >= LARGEST else str(error)
            raise AnsibleError(f"the artifact cannot be brought from the builder: {what}") from error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            partial.unlink(missing_ok=True)
