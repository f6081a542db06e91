"""The local site and the real one have the same cache lifetimes, content types and rules for links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template
from pipeline.hosts import nginx_rules
from pipeline.hosts.loopback_site import Site

PROJECT = Path(__file__).resolve().parents[2]
ROLE = PROJECT / "roles/rpm_site/templates/nginx.conf.j2"
BLOCKS = (nginx_rules.CACHE_CONTROL, nginx_rules.TYPES, nginx_rules.LINKS)


@pytest.fixture(scope="module")
def rendered() -> str:
    """The lines of the role's template that use the plugin, rendered by Ansible."""
    lookup_loader.add_directory(str(PROJECT / "plugins/lookup"))
    lines = "\n".join(line for line in ROLE.read_text().splitlines() if "lookup('nginx_rules'" in line)
    return str(Templar(DataLoader()).template(trust_as_template(lines)))


def words(conf: str) -> str:
    return " ".join(conf.split())


@pytest.mark.parametrize("block", BLOCKS)
def test_both_sites_have_each_block(rendered: str, block: str) -> None:
    local = Site(Path("/srv/rpm"), 8643, Path("/run/site")).conf
    assert words(block) in words(local)
    assert words(block) in words(rendered)


@pytest.mark.parametrize("path", [ROLE, PROJECT / "module_utils/pipeline/hosts/loopback_site.py"])
def test_no_site_has_rules_of_its_own(path: Path) -> None:
    assert not re.search(r"^ *(map|types|disable_symlinks) ?.*\{$|immutable", path.read_text(), re.MULTILINE)


def test_an_unknown_block_is_named() -> None:
    lookup_loader.add_directory(str(PROJECT / "plugins/lookup"))
    with pytest.raises(AnsibleLookupError, match="nginx_rules has no OTHER. It has: CACHE_CONTROL, TYPES, LINKS"):
        lookup_loader.get("nginx_rules").run(["OTHER"])
