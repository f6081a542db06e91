"""The local site and the real one are two nginx configurations; what they say of freshness and types is the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pipeline.hosts.loopback_site import Site

PROJECT = Path(__file__).resolve().parents[2]
REAL = (PROJECT / "roles/rpm_site/templates/nginx.conf.j2").read_text()
LOCAL = Site(Path("/srv/rpm"), 8643, Path("/run/site")).conf


def rules(conf: str, opening: str) -> list[list[str]]:
    """The words of each line in the block that begins so."""
    found = re.search(rf"^ *{opening} {{\n(.*?)^ *}}", conf, re.MULTILINE | re.DOTALL)
    assert found, opening
    return [line.split() for line in found[1].splitlines()]


@pytest.mark.parametrize("opening", [r"map \$uri \$\w+", "types"])
def test_both_sites_say_the_same(opening: str) -> None:
    assert rules(REAL, opening) == rules(LOCAL, opening)
    assert len(rules(REAL, opening)) > 3
