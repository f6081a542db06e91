"""The trust of a build, and where a builder keeps what builds of each trust share.

Rules:

1. ``release``: a tag for a channel of tags. ``try``: everything else, such as a branch's commit or a developer's.
2. What a build of trust ``try`` wrote is never read by one of trust ``release``. The other way round is fine.
3. Checkout, target directory and compile cache of ``release`` are below the builder's root, those of ``try`` below its
   folder ``try``. The operator may have both share the first ones (``builder_share_trust``).
"""

from __future__ import annotations

from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Source

RELEASE, TRY = "release", "try"
OVERLAY = "overlay"
"""The folder of a trust's state with what its sandboxes wrote on top of the state of releases."""


def state_of(root: Path, trust: str, *, shared: bool = False) -> Path:
    """The folder with ``src``, ``target`` and ``cache`` of builds of this trust."""
    return root if trust == RELEASE or shared else root / TRY


def targets_of(root: Path, trust: str, *, shared: bool = False) -> list[Path]:
    """The target directories that builds of this trust wrote: a try build writes on top of release's."""
    state = state_of(root, trust, shared=shared)
    return [state / "target"] if state == root else [state / "target", state / OVERLAY / "target"]


def refuse_unfit(trust: str, source: Source) -> None:
    """PipelineError unless a build of ``source`` may have this trust: only a tag may be a release."""
    if trust == RELEASE and source.kind != "tag":
        raise PipelineError(
            f"the {source.kind} {source.ref} cannot be built with the trust release",
            source.url,
            "Build it with the trust try: the channel of branches has it (inventory/group_vars/all/channels.yml)",
        )
