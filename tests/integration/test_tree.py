"""A commit's manifest is read from the repository; the checkout of a build stays as it is."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.source.checkout import bring, current_commit, move
from pipeline.source.manifest import look
from pipeline.source.upstream import resolve


def test_another_commit_is_read_while_one_is_checked_out(upstream: Path, tmp_path: Path) -> None:
    folder = tmp_path / "src"
    old = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.1")
    new = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.2")
    checked_out = move(folder, old, "mistralrs-cli")
    tree = bring(folder, new, "mistralrs-cli", tmp_path / "lock")
    assert (tree.crate_version, tree.rust_version, tree.commit) == ("0.9.2", "1.88", new.commit)
    assert set(tree.features) == {"cuda", "cudnn", "flash-attn", "nccl"}
    assert tree.lock == git("rev-parse", f"{new.commit}:Cargo.lock", repository=folder).strip()
    assert current_commit(folder) == old.commit
    # The checkout reports the same.
    known = look(folder, old.commit, "mistralrs-cli")
    assert (known.crate_version, known.rust_version) == (checked_out.crate_version, checked_out.rust_version)


def test_a_workspace_may_name_its_members_by_a_pattern(upstream: Path, stand_in: ModuleType, tmp_path: Path) -> None:
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["mistralrs-*"]\n[workspace.package]\nversion = "7.0.0"\n',
        "mistralrs-other/Cargo.toml": '[package]\nname = "tool"\nversion.workspace = true\nrust-version = "1.90"\n',
    }
    stand_in.add_commit(upstream, "a pattern", files)
    commit = git("rev-parse", "master", repository=upstream).strip()
    tree = look(upstream, commit, "tool")
    assert (tree.crate_version, tree.rust_version, tree.features) == ("7.0.0", "1.90", ())
    with pytest.raises(PipelineError, match=r"the workspace has no package mistralrs-server .*Set upstream_package"):
        look(upstream, commit, "mistralrs-server")


def test_a_manifest_that_cannot_be_read_is_named(upstream: Path, stand_in: ModuleType) -> None:
    stand_in.add_commit(upstream, "spoil it", {"mistralrs-cli/Cargo.toml": "[package\n"})
    commit = git("rev-parse", "master", repository=upstream).strip()
    with pytest.raises(
        PipelineError, match=f"not a readable cargo manifest: .*mistralrs-cli/Cargo.toml of {commit[:12]}"
    ):
        look(upstream, commit, "mistralrs-cli")
