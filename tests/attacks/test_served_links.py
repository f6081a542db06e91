"""Links in the served tree: nginx serves a repository's own two, and no file that another link leads to."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline.hosts.loopback_site import Site, started, stopped
from support.ports import free_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other accounts")

FOLDER = "fedora/43/x86_64"
PUBLISHER = 12345
SECRET = "the signer's key"


@dataclass(frozen=True)
class Host:
    """A repo host: a tree of an account that publishes, and secrets of root's."""

    site: Site
    secrets: Path

    @property
    def channel(self) -> Path:
        return self.site.root / FOLDER

    def link(self, path: str, target: Path | str, owner: int = PUBLISHER) -> None:
        """Put a link into the tree, in the place of whatever is there."""
        link = self.site.root / path
        if link.is_symlink() or link.is_file():
            link.unlink()
        elif link.exists():
            shutil.rmtree(link)
        link.symlink_to(target)
        os.lchown(link, owner, owner)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.site.url}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")


@pytest.fixture(scope="module", params=["root", "nobody"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Served from a folder that only root may enter, where nginx stays root; and from one that is open to all."""
    with tempfile.TemporaryDirectory(prefix="links-") as name:
        folder = Path(name)
        folder.chmod(0o700 if request.param == "root" else 0o755)
        site = Site(folder / "srv", free_port(), folder / "nginx")
        snapshot = site.root / FOLDER / "snapshots/one"
        for path in (snapshot / "repodata/repomd.xml", site.root / FOLDER / "Packages/a.rpm"):
            path.parent.mkdir(parents=True)
            path.write_text("honest")
        (snapshot / "Packages").symlink_to("../../Packages")
        (site.root / FOLDER / "repodata").symlink_to("snapshots/one/repodata")
        for path in [site.root / FOLDER, *(site.root / FOLDER).rglob("*")]:
            os.lchown(path, PUBLISHER, PUBLISHER)
        secrets = folder / "signer"
        secrets.mkdir()
        (secrets / "key").write_text(SECRET)  # readable by all: the rules alone must refuse it
        started(site)
        yield Host(site, secrets)
        stopped(site.state_dir)


def test_a_repositorys_own_links_are_followed(host: Host) -> None:
    for path in ("repodata/repomd.xml", "snapshots/one/repodata/repomd.xml", "Packages/a.rpm",
                 "snapshots/one/Packages/a.rpm"):  # fmt: skip
        assert host.get(f"{FOLDER}/{path}") == (200, "honest"), path


ATTACKS: dict[str, tuple[str, str, Callable[[Host], Path | str]]] = {
    "a link to a secret": ("evil", "evil", lambda host: host.secrets / "key"),
    "a link to the passwords": ("evil", "evil", lambda _: "/etc/shadow"),
    "a link to a folder": ("evil", "evil/key", lambda host: host.secrets),
    "a link to a folder, listed": ("evil", "evil/", lambda host: host.secrets),
    "a package": ("Packages/evil.rpm", "Packages/evil.rpm", lambda host: host.secrets / "key"),
    "a package of a snapshot": ("Packages/evil.rpm", "snapshots/one/Packages/evil.rpm", lambda h: h.secrets / "key"),
    "metadata": ("snapshots/one/repodata/evil", "repodata/evil", lambda host: host.secrets / "key"),
    "the head": ("repodata", "repodata/key", lambda host: host.secrets),
    "the pool of a snapshot": ("snapshots/one/Packages", "snapshots/one/Packages/key", lambda host: host.secrets),
    "the mirrorlist": ("mirrorlist", "mirrorlist", lambda host: host.secrets / "key"),
    "a process's environment": ("evil", "evil", lambda _: "/proc/self/environ"),
    "a relative link": ("evil", "evil", lambda _: "../../../../signer/key"),
    "a link to a file of the account": ("evil", "evil", lambda _: "Packages/a.rpm"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_link_of_the_publishing_account_leads_nowhere(host: Host, name: str) -> None:
    path, request, target = ATTACKS[name]
    where = host.channel / path
    before = where.readlink() if where.is_symlink() else None
    host.link(f"{FOLDER}/{path}", target(host))
    status, body = host.get(f"{FOLDER}/{request}")
    where.unlink()
    if before:
        host.link(f"{FOLDER}/{path}", before)
    assert status in (403, 404), body
    assert SECRET not in body
    assert "root:" not in body


def test_a_link_of_roots_leads_nowhere_outside_the_repositories(host: Host) -> None:
    """A link beside the .repo files belongs to root, like the secret."""
    host.link("mistralrs.repo", host.secrets / "key", owner=0)
    assert host.get("mistralrs.repo")[0] == 403


def test_the_worker_is_no_root_where_others_can_reach_the_folder(host: Host) -> None:
    """A file with root's mode alone is then refused even without a link."""
    private = host.channel / "private"
    private.write_text(SECRET)
    private.chmod(0o600)
    closed = host.site.root.parent.stat().st_mode & 0o777 == 0o700
    assert host.get(f"{FOLDER}/private")[0] == (200 if closed else 403)
