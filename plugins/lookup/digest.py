"""A digest of files, folders and values."""

from __future__ import annotations

DOCUMENTATION = """
name: digest
author: mistralrs-rpm
short_description: The SHA-256 of files, folders and values
description:
  - Changes whenever one of the inputs does. Of a folder all files below it count, with their names, except bytecode.
  - A missing file or folder is an input too, so the digest changes when it appears.
options:
  _terms:
    description: Paths on the controller.
    required: true
  values:
    description: Other inputs, such as variables; anything that JSON can express.
    type: raw
    default: []
"""
EXAMPLES = """
- name: Show the digest of a role and a variable
  ansible.builtin.debug:
    msg: "{{ lookup('digest', 'roles/publisher', values=[publisher_root]) }}"
"""
RETURN = """
_raw:
  description: One digest, as 64 hexadecimal digits.
  type: list
  elements: str
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase


def files_of(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder, in a fixed order."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    elif path.is_file():
        yield path


def digest(paths: list[str], values: Any) -> str:
    """SHA-256 of the paths, the names and bytes of their files, and the values."""
    found = [
        (path, str(file.relative_to(path)), hashlib.sha256(file.read_bytes()).hexdigest())
        for path in paths
        for file in files_of(Path(path))
    ]
    text = json.dumps([paths, found, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class LookupModule(LookupBase):
    """``lookup('digest', PATH, ..., values=[...])``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        return [digest([str(term) for term in terms], self.get_option("values"))]
