"""The commit to build: can it be fetched, does cargo accept it, and does it hold all that a build reads?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.git import git
from ..base.records import Source
from ..base.run import CommandFailed
from ..base.text import shown
from ..build.failures import RUST, explain
from ..source.build_script import used_commits
from ..source.checkout import bring
from ..source.manifest import LFS, LOCK, SUBMODULE, ManifestRefused, Tree, look, named, remedy_of
from ..source.mirrors import Mirrors
from ..toolchain.rust import Rust

ALWAYS = "always"

# ---------------------------------------------------------------- decisions


def check_files(tree: Tree) -> list[Finding]:
    """Whether the commit itself holds all that a build reads."""
    kinds = ((LFS, tree.lfs), (SUBMODULE, tree.submodules))
    missing = [
        Finding.bad(
            kind,
            named(paths),
            "none that the build reads",
            f"Neither git's checkout nor this project fetches them: {remedy_of(kind)}, or ask upstream to add them",
        )
        for kind, paths in kinds
        if paths
    ]
    beside = f"all; not fetched, and not built: {named(tree.beside)}" if tree.beside else "all"
    return missing or [Finding.ok("files of the commit", beside, "all that the build reads")]


def check_lock(reason: str, locked: str) -> Finding:
    """Whether Cargo.lock fits the manifests; ``reason`` is why it does not, or "". ``locked`` is the channel's."""
    # It may quote the lock.
    needed, reason = "that of the manifests", shown(reason, 600)
    if not reason:
        return Finding.ok(LOCK, "fits", needed)
    if locked == ALWAYS:
        remedy = "Report it upstream; the channel unstable builds without it and records that"
        return Finding.bad(LOCK, reason, needed, remedy)
    return Finding.warn(LOCK, reason, needed, "The build goes on without --locked, and records that")


def check_manifests(error: ManifestRefused) -> Finding:
    """The finding for manifests that cargo refuses: an old cargo does not know new keys."""
    failure = explain(error.output.splitlines())
    remedy = failure.remedy if failure.remedy == RUST else error.remedy
    return Finding.bad("manifests", error.what, "cargo accepts them", remedy)


# ---------------------------------------------------------------- measuring


def included(repository: Path, commit: str) -> set[str]:
    """The headers of CUTLASS that upstream's own kernels include: "cute/tensor.hpp"."""
    pattern = r"^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"](cute|cutlass)/[^>\"]+"
    try:
        found = git("grep", "-hoE", pattern, commit, "--", "*.cu", "*.cuh", "*.h", "*.hpp", repository=repository)
    except CommandFailed:  # git grep ends with 1 where it finds none
        return set()
    return {re.split(r"[<\"]", line, maxsplit=1)[1] for line in found.splitlines()}


def cutlass_commits(repository: Path, tree: Tree, compute_cap: str, mirrors: Mirrors) -> Sequence[str]:
    """The commits of CUTLASS that the operator names, else those that upstream's own build scripts use for this GPU.

    Of upstream's they are found as far as a script's text shows them.
    """
    if mirrors.cutlass_commits:
        return mirrors.cutlass_commits
    texts = {path: git("show", f"{tree.commit}:{path}", repository=repository) for path in tree.scripts}
    used = (used_commits(text, "", compute_cap, tree.scripts[path]) for path, text in texts.items())
    return sorted({commit for commits in used for commit in commits if commit})


def check(
    checkout: Path,
    source: Source,
    package: str,
    rust: Rust | None,
    features: Sequence[str],
    lock: Path,
    *,
    locked: str,
    protected: bool,
) -> tuple[Tree | None, list[Finding]]:
    """Fetch the commit and ask cargo about it. Without a ``rust`` nobody can be asked, which has its own finding.

    ``lock`` is the builder's, which need not be held.
    """

    def read() -> Tree | None:
        if rust is None:
            return None
        return look(checkout, source.commit, package, rust.bin / "cargo", features, protected=protected)

    try:
        tree = bring(checkout, source, lock, read)
        return tree, [*check_files(tree), check_lock(tree.misfit, locked)] if tree else []
    except ManifestRefused as error:
        return None, [check_manifests(error)]
    except PipelineError as error:
        reason, remedy = error.what, error.remedy or f"Delete {checkout / '.git'}: it comes back"
    except OSError as error:
        reason, remedy = f"{error.strerror} ({error.filename})", f"Let the building account own {checkout.parent}"
    return None, [Finding.bad("commit", reason, f"{source.ref} of {source.url}", remedy)]
