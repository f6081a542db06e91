#!/usr/bin/python
"""A Python program on a host, installed and replaced as a whole."""

DOCUMENTATION = r"""
module: python_program
short_description: Install a Python program that may run at any time
description:
  - Installs the modules of a package, with their bytecode, in a folder of their own beside O(path), and a
    launcher at O(path) that runs C(main(argv)) of the package's module C(command_line).
  - Replacing the launcher is one rename. A command that starts meanwhile runs the old version or the new one, whole.
  - A version that fails on C(--help) is not switched to. Older versions are removed.
author: mistralrs-rpm
options:
  path:
    description: Where the launcher is installed. A program there is replaced.
    type: path
    required: true
  package:
    description: The name of the package.
    type: str
    required: true
  files:
    description: The modules of the package, text by file name.
    type: dict
    required: true
attributes:
  check_mode:
    description: Compares with the installed version and changes nothing.
    support: full
  diff_mode:
    description: Shows the changed modules and the launcher.
    support: full
"""

EXAMPLES = r"""
- name: Install the publisher agent
  python_program:
    path: /usr/local/libexec/mistralrs-publisher
    package: publisher_agent
    files: "{{ dict(paths | map('basename') | zip(query('ansible.builtin.file', *paths, rstrip=false))) }}"
"""

RETURN = r"""
folder:
  description: The folder of the installed version.
  returned: success
  type: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.python_program import InstallFailed, Program, host_python
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "path": {"type": "path", "required": True},
    "package": {"type": "str", "required": True},
    "files": {"type": "dict", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    os.umask(0o022)
    p = module.params
    try:
        program = Program(Path(p["path"]), p["package"], p["files"], host_python())
        changed, diff = program.changed(), list(program.differences())
        if changed and not module.check_mode:
            program.install()
    except (InstallFailed, OSError) as error:
        raise PipelineError(
            f"{p['path']} is not installed: {error}", remedy="The version that was installed before is still in use"
        ) from error
    return {"changed": changed, "diff": diff, "folder": str(program.folder)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
