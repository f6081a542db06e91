"""Fixtures of the tests of repository hosts."""

from __future__ import annotations

import pytest
from repo_site import ACCOUNT, LAY_OUT, ROOT, STABLE, Site


@pytest.fixture
def site(host, state) -> Site:
    facts = host.ansible.get_variables()
    return Site(facts["site_name"], facts["ansible_host"], state / "bundle.pem")


@pytest.fixture
def snapshot(host, site) -> str:
    """The path of a published snapshot."""
    if not host.file(f"{ROOT}{STABLE}/mirrorlist").exists:
        host.check_output(f"runuser -u {ACCOUNT} -- sh -c %s sh {site.url}", LAY_OUT)
    return site.get(f"{STABLE}/mirrorlist").body.strip().removeprefix(site.url)
