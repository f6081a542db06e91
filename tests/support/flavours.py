"""The project's table of flavours."""

from __future__ import annotations

import yaml
from pipeline.base.records import Flavour

from . import PROJECT

FLAVOURS = tuple(
    Flavour.from_dict(row)
    for row in yaml.safe_load((PROJECT / "inventory/group_vars/all/flavours.yml").read_text())["flavours"]
)
