"""Which flavour runs on a GPU: the rule for hosts of the inventory and for the package that users ask.

1. The flavour for a GPU is the one built for its compute capability. If the table has none, it is the nearest lower one
   of the same major number below 9: code for 8.6 runs on 8.9 too (CUDA's programming guide, binary compatibility).
2. From 9.0 on upstream builds for exactly one capability (the "a" in sm_120a).
3. The driver's translation of PTX to another generation never counts: only part of the binary has PTX, and nobody tests
   it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .records import Flavour

CAPABILITIES = tuple(f"{major}.{minor}" for major in range(1, 30) for minor in range(10))
"""More than NVIDIA has numbered."""


def fitting(capability: str, flavours: Iterable[Flavour]) -> Flavour | None:
    """The flavour for a GPU of this compute capability, or None."""
    wanted = number(capability)
    found = None
    for flavour in flavours:
        own = number(flavour.compute_capability)
        if wanted is None or own is None:
            continue
        if own == wanted:
            return flavour
        compatible = own[0] == wanted[0] < 9 and own < wanted
        if compatible and (found is None or own > (number(found.compute_capability) or own)):
            found = flavour
    return found


def table(flavours: Iterable[Flavour]) -> str:
    """The published flavours for mistralrs-which-flavour: a line for each capability that one fits, the rule applied.

    Its words are capability, package, lowest driver and, to the end of the line, the GPUs. A flavour without a GPU has
    the capability "-".
    """
    return "".join(f"{c} {f.package_name} {f.driver} {f.summary}\n" for c, f in _rows([*flavours]))


def _rows(flavours: list[Flavour]) -> Iterator[tuple[str, Flavour]]:
    published = [flavour for flavour in flavours if flavour.published]
    for capability in CAPABILITIES:
        if flavour := fitting(capability, published):
            yield capability, flavour
    for flavour in published:
        if not flavour.compute_capability:
            yield "-", flavour


def number(capability: str) -> tuple[int, int] | None:
    """(8, 9) for "8.9"; None for anything else."""
    major, dot, minor = capability.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None
