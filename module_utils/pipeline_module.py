"""What the project's modules share: options that several of them have, and the one way that they run and end.

Rules:

1. An option that several modules have stands here once, as an argument dict, and once in ``plugins/doc_fragments``
   under the same name, as its documentation. A module takes it as ``{**SIGNER, **REPOSITORY, ...}`` and
   ``extends_documentation_fragment: [signer, repository]``; a unit test holds the two against each other.
2. A module is its documentation, ``ARGUMENT_SPEC``, a ``work(module)`` of numbered steps that returns the module's
   result, and a ``main`` that calls ``run(work, ARGUMENT_SPEC)``. Logic lives in ``pipeline``.
3. The umask is the project's from the first line: what a module writes has the same mode whoever runs it.
4. A PipelineError becomes ``fail_json`` with its text and its ``details``; a traceback is always a bug of the project.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.environment import UMASK
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.run import DiskFull

ArgumentSpec = Mapping[str, Mapping[str, Any]]

# Paths of keys and of the passphrase's file are no secrets: no_log would hide them from messages and diffs.
SIGNER: ArgumentSpec = {
    "signer": {
        "type": "dict",
        "required": True,
        "options": {
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            "passphrase_file": {"type": "path", "no_log": False},
            "trusted_keys": {"type": "path", "required": True, "no_log": False},
            "accept_head": {"type": "list", "elements": "str", "default": []},
        },
    },
}
REPOSITORY: ArgumentSpec = {
    "repository": {
        "type": "dict",
        "required": True,
        "options": {
            "channel": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "agent": {
                "type": "dict",
                "options": {
                    "rsh": {"type": "list", "elements": "str", "required": True},
                    "host": {"type": "str", "required": True},
                },
            },
        },
    },
}
BUILDER_ROOT: ArgumentSpec = {"root": {"type": "path", "required": True}}
# Where a build's checkout, target directory and cache lie (pipeline/source/trust).
TRUST: ArgumentSpec = {
    "trust": {"type": "str", "choices": ["release", "try"], "required": True},
    "share_trust": {"type": "bool", "default": False},
}
SANDBOX: ArgumentSpec = {"sandbox": {"type": "str", "choices": ["bubblewrap", "none"], "default": "bubblewrap"}}
# An empty toolkit is that of a flavour without CUDA; without a cache option there is no compile cache.
BUILD: ArgumentSpec = {
    "source": {"type": "dict", "required": True},
    "flavour": {"type": "dict", "required": True},
    "package": {"type": "str", "required": True},
    "toolkit": {"type": "dict", "default": {}},
    "cargo": {"type": "str", "default": ""},
    "rustflags": {"type": "str", "required": True},
    "jobs": {"type": "int", "default": 0},
    "low_memory": {"type": "bool", "default": False},
    "cache": {
        "type": "dict",
        "options": {"program": {"type": "path", "required": True}, "settings": {"type": "path"}},
    },
    "mirrors": {
        "type": "dict",
        "default": {},
        "options": {
            "registry": {"type": "str", "default": ""},
            "cutlass_commits": {"type": "list", "elements": "str", "default": []},
        },
    },
}
PINNED_WHEELS: ArgumentSpec = {
    "pins": {"type": "str", "default": ""},
    "python": {"type": "str", "default": ""},
}


def run(
    work: Callable[[AnsibleModule], Mapping[str, Any]],
    argument_spec: ArgumentSpec,
    **options: Any,
) -> None:
    """Run a module to its end: ``work`` returns what ``exit_json`` takes, ``changed`` at least.

    ``options`` are AnsibleModule's, such as ``required_if``. Check mode is always supported.
    """
    os.umask(UMASK)
    # A copy: Ansible fills the defaults of suboptions in place, and several modules share the options above.
    module = AnsibleModule(argument_spec=copy.deepcopy(dict(argument_spec)), supports_check_mode=True, **options)
    try:
        result = work(module)
    except PipelineError as error:
        module.fail_json(**error.failure())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = DiskFull(f"a file cannot be written: {error.strerror}", error.filename or "the file has no name")
        module.fail_json(**full.failure())
    module.exit_json(**result)


def step(name: str, result: str, *, flavour: str = "", where: object = "") -> dict[str, str]:
    """The row of the run's table that a module returns as ``step``; ``where`` is a path or URL."""
    return {"name": name, "flavour": flavour, "result": result, "where": str(where)}
