"""A repo host is backed up while it is published to, lost, and restored: by the commands of docs/operate.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.engine import Engine
from pipeline.channel.heads import HeadRefused
from pipeline.channel.reader import Repository
from pipeline.channel.retention import Retention
from support.signer_site import STABLE, Site

PROJECT = Path(__file__).resolve().parents[2]
SECTION = "### Back up and restore a repo host"


def commands(title: str) -> list[str]:
    """The lines of the code block below this sentence of the section."""
    text = (PROJECT / "docs/operate.md").read_text().partition(SECTION)[2]
    block = re.search(rf"\*\*{title}\*\*.*?```\n(.*?)```", text, re.DOTALL)
    assert block
    return block[1].splitlines()


def run(site: Site, line: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "BACKUP": str(site.folder / "backup"), "CHANNEL_ROOT": str(site.root)}
    words = ["sh", "-euc", line.replace("chown -R gitea_ci:", "true")]
    subprocess.run(words, cwd=site.root, env=environment, check=True)


def accepting(site: Site, head: str) -> Engine:
    """The engine of a run with -e accept_head=."""
    memory = replace(site.memory, accepted=(head,))
    return replace(site.engine, repository=Repository(site.channel.location, site.signer.trusted_keys, memory))


def test_a_repo_host_is_restored_from_a_backup(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    bad, good, late = site.package("0.9.0"), site.package("0.9.1"), site.package("0.9.2")
    site.publish(bad)
    (site.root / "mistralrs.repo").write_text("[mistralrs]\n")
    saved = site.publish(good).head

    # A release is published in the middle of the backup, a package is yanked after it.
    first, *others = commands("Back up")
    (tmp_path / "backup").mkdir()
    run(site, first)
    site.publish(late)
    for line in others:
        run(site, line)
    known = site.engine.remove([bad.filename], yank=True, reason="a token in its template").head

    shutil.rmtree(site.root)
    site.root.mkdir()
    with pytest.raises(HeadRefused, match=f"the repository is empty, its known head is {known}.*accept_head=empty"):
        site.engine.publish([late])
    for line in commands("Restore"):
        run(site, line)

    # What clients see is the state of the backup's beginning, complete; the signer knows a later one.
    assert Repository(site.channel.location, site.signer.trusted_keys).head() == saved
    assert (site.root / STABLE / "repodata").resolve() == site.root / STABLE / "snapshots" / saved / "repodata"
    assert site.agent.verify("stable")["findings"] == []
    lacks = f"the head {saved} is older than the known head, {known}.*lacks known yanks: {bad.filename}"
    with pytest.raises(HeadRefused, match=f"{lacks}.*accept_head={saved}"):
        site.engine.publish([late])

    # make prune ARGS='-e accept_head=…', then the release that the backup lacks.
    done = accepting(site, saved).prune(Retention())
    assert done.snapshot
    assert done.snapshot.yanked == (bad.filename,)
    assert not site.engine.repository.has(bad.filename)
    site.publish(late)
    assert site.names() == [good.filename, late.filename]
    with pytest.raises(PipelineError, match="was yanked"):
        site.publish(bad)
    assert site.engine.verify().findings == ()
    assert (site.root / "mistralrs.repo").is_file()
