"""Check: what a builder lacks for a build, found before anything is compiled.

Every finding is made, whatever the others say, so that the operator mends them in one go. A check is
a function of measured values; measuring is apart, at the end of the file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cargo import find_rust
from .checkout import Checkout
from .errors import PipelineError
from .records import Flavour, Record, Source
from .run import run
from .versions import dotted

GIB = 1024**3
PROGRAMS = ("git", "gcc", "g++", "readelf", "rpmbuild")


@dataclass(frozen=True)
class Finding(Record):
    """One check: what was looked at, what is there, what is needed, and what to do where they differ."""

    check: str
    found: str
    needed: str
    fits: bool
    remedy: str = ""


def check_rust(found: str, needed: str) -> Finding:
    fits = bool(found) and dotted(found) >= dotted(needed)
    return Finding(
        "rustc", found or "none", f">= {needed}" if needed else "any", fits,
        f"Install Rust {needed} or later (rustup update), or point rust_cargo at one" if not fits else "",
    )  # fmt: skip


def check_rustflags(flags: str) -> Finding:
    native = "native" in flags
    return Finding(
        "target CPU", flags, "a named baseline", not native,
        "target-cpu=native makes a package that crashes on other CPUs: set rustflags to a baseline" if native else "",
    )  # fmt: skip


def check_nvcc(found: str, needed: str, nvcc: str) -> Finding:
    fits = dotted(found)[:2] == dotted(needed)[:2] if found else False
    return Finding(
        "nvcc", f"{found or 'none'}{f' ({nvcc})' if nvcc else ''}", needed, fits,
        f"Install CUDA {needed}, or let cuda_source=wheels bring it" if not fits else "",
    )  # fmt: skip


def check_cuda_limit(cuda: str, version: str, limits: Mapping[str, str]) -> Finding:
    """Upstream's build scripts refuse a CUDA newer than they know, after everything else is compiled."""
    reached = [first for first in limits if dotted(first) <= dotted(version)]
    limit = limits[max(reached, key=dotted)] if reached else ""
    fits = not limit or dotted(cuda) <= dotted(limit)
    return Finding(
        "CUDA for this version", cuda, f"<= {limit}" if limit else "any", fits,
        f"Upstream {version} takes at most CUDA {limit}: set the flavour's cuda to that or older" if not fits else "",
    )  # fmt: skip


def check_cuda_defects(flavour: Flavour, lowest: Mapping[str, str]) -> Finding:
    """Compilers that are known to make wrong code for a GPU are refused."""
    needed = lowest.get(flavour.compute_capability, "")
    fits = not needed or dotted(flavour.cuda) >= dotted(needed)
    return Finding(
        "CUDA for this GPU", flavour.cuda, f">= {needed}" if needed else "any", fits,
        f"CUDA {flavour.cuda} miscompiles for {flavour.compute_capability}: set the flavour's cuda to {needed} or later"
        if not fits else "",
    )  # fmt: skip


def check_space(found: int, needed_gib: float, folder: Path) -> Finding:
    fits = found >= needed_gib * GIB
    return Finding(
        "disk space", f"{found / GIB:.1f} GiB free", f"{needed_gib:g} GiB", fits,
        f"Free space below {folder} (target/ comes back), or lower build_free_gib" if not fits else "",
    )  # fmt: skip


def check_program(name: str, path: str | None) -> Finding:
    return Finding(
        name, path or "none", "installed", path is not None,
        f"Install {name}; bindep.txt names its package" if path is None else "",
    )  # fmt: skip


def examine(
    root: Path,
    source: Source,
    flavour: Flavour,
    tree: Checkout,
    *,
    toolkit: Mapping[str, str],
    cargo: str,
    rustflags: str,
    free_gib: float,
    cuda_limits: Mapping[str, str],
    cuda_lowest: Mapping[str, str],
    toolkit_planned: bool = False,
) -> list[Finding]:
    """Every finding for one flavour of one commit on this host.

    ``cuda_limits`` maps an upstream version to the newest CUDA that it and later ones accept;
    ``cuda_lowest`` maps a compute capability to the oldest CUDA without a known defect for it.
    """
    findings = [check_program(name, shutil.which(name)) for name in PROGRAMS]
    try:
        rust = find_rust(cargo).version
    except PipelineError:
        rust = ""
    findings += [
        check_rust(rust, tree.rust_version),
        check_rustflags(rustflags),
        check_space(free_bytes(root), free_gib, root),
    ]
    if flavour.cuda:
        nvcc = toolkit.get("nvcc", "")
        # Check mode would still install the toolkit: there is nothing to run yet.
        found = flavour.cuda if toolkit_planned else nvcc_version(nvcc)
        findings += [
            check_nvcc(found, flavour.cuda, nvcc),
            check_cuda_limit(flavour.cuda, source.version, cuda_limits),
            check_cuda_defects(flavour, cuda_lowest),
        ]
    return findings


def refuse(findings: Sequence[Finding], what: str, where: str, remedy: str) -> None:
    """PipelineError naming everything that does not fit, or nothing."""
    bad = [finding for finding in findings if not finding.fits]
    if bad:
        lines = "".join(f"    {f.check}: found {f.found}, needed {f.needed}. {f.remedy}\n" for f in bad)
        raise PipelineError(f"{what}:\n{lines}", where, remedy)


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings as lines of a table for a person."""
    rows = [("check", "found", "needed", "")] + [
        (f.check, f.found, f.needed, "ok" if f.fits else f.remedy) for f in findings
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]


def nvcc_version(nvcc: str) -> str:
    """The release that an nvcc names ("13.0"), or "" where it does not run."""
    if not nvcc or not os.access(nvcc, os.X_OK):
        return ""
    match = re.search(r"release (\d+\.\d+)", run([nvcc, "--version"]).stdout)
    return match[1] if match else ""


def free_bytes(folder: Path) -> int:
    """The space left for files below ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
