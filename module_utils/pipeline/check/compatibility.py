"""What fits together: upstream's versions, CUDA, GPUs, gcc, glibc and cargo features.

The facts are data with their sources, inventory/group_vars/all/compatibility.yml; the rules are here. Each check is a
function of measured values. A combination without a row is accepted here; a trial compile decides (trials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.findings import Finding
from ..base.records import Flavour, Record
from ..base.versions import dotted


@dataclass(frozen=True)
class UpstreamCuda(Record):
    """From this version of upstream on, the newest CUDA release that its build scripts accept."""

    upstream: str
    cuda: str
    source: str


@dataclass(frozen=True)
class GpuCompiler(Record):
    """The oldest nvcc, by its own version, without a known defect for a GPU; ``release`` is what NVIDIA calls it."""

    compute_capability: str
    nvcc: str
    release: str
    source: str


@dataclass(frozen=True)
class HostCompiler(Record):
    """The newest major version of gcc that a CUDA release accepts."""

    cuda: str
    gcc: int
    source: str


@dataclass(frozen=True)
class Cutlass(Record):
    """The newest major version of gcc that compiles the headers of CUTLASS at a commit."""

    commit: str
    gcc: int
    source: str


@dataclass(frozen=True)
class Headers(Record):
    """From this glibc on, the headers of CUDA before ``cuda`` do not compile unmended."""

    glibc: str
    cuda: str
    source: str


@dataclass(frozen=True)
class Feature(Record):
    """The needs of a cargo feature: other features, a GPU (one of ``only``, or ``lowest`` and above), a lowest CUDA.

    ``refused`` is the reason why it cannot be built here at all.
    """

    name: str
    source: str
    needs: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    lowest: str = ""
    cuda: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Libraries(Record):
    """The libraries that a feature links, by the linker's names; the feature "" stands for every build."""

    feature: str
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Compatibility(Record):
    """The whole table. ``heavy``: upstream uses the memory that build/limits plans with."""

    upstream_cuda: tuple[UpstreamCuda, ...] = ()
    gpu_compilers: tuple[GpuCompiler, ...] = ()
    host_compilers: tuple[HostCompiler, ...] = ()
    cutlass: tuple[Cutlass, ...] = ()
    headers: tuple[Headers, ...] = ()
    features: tuple[Feature, ...] = ()
    libraries: tuple[Libraries, ...] = ()
    heavy: bool = True

    def linked(self, features: Sequence[str]) -> tuple[str, ...]:
        """The libraries that a build with these features links, each once."""
        rows = [row.libraries for row in self.libraries if row.feature in ("", *features)]
        return tuple(dict.fromkeys(name for row in rows for name in row))


def release(version: str) -> tuple[int, ...]:
    """The release that a CUDA version belongs to: "13.0.88" gives (13, 0)."""
    return dotted(version)[:2]


def check_nvcc(found: str, needed: str, nvcc: str) -> Finding:
    """nvcc's own version ("13.0.88") against the release that the flavour needs ("13.0")."""
    return Finding.of(
        "nvcc",
        f"{found or 'none that runs'}{f' ({nvcc})' if nvcc else ''}",
        needed,
        fits=bool(found) and release(found) == release(needed),
        remedy=f"Install CUDA {needed}, or set cuda_source=wheels",
    )


def check_cuda_limit(cuda: str, version: str, rows: Sequence[UpstreamCuda]) -> Finding:
    """Upstream's build scripts refuse a CUDA newer than they know, after everything else is compiled."""
    reached = [row for row in rows if dotted(row.upstream) <= dotted(version)]
    limit = max(reached, key=lambda row: dotted(row.upstream)).cuda if reached else ""
    return Finding.of(
        "CUDA for this version",
        cuda,
        f"<= {limit}" if limit else "any",
        fits=not limit or release(cuda) <= release(limit),
        remedy=f"Upstream {version} takes at most CUDA {limit}: set the flavour's cuda to that or older",
    )


def check_cuda_defects(cuda: str, flavour: Flavour, rows: Sequence[GpuCompiler]) -> Finding:
    """Refuses compilers that miscompile for the flavour's GPU.

    ``cuda`` is nvcc's own version; where only the release is known yet ("13.1"), the release is compared.
    """
    row = next((row for row in rows if row.compute_capability == flavour.compute_capability), None)
    if row is None:
        return Finding.ok("CUDA for this GPU", cuda, "any")
    return Finding.of(
        "CUDA for this GPU",
        cuda,
        f">= {row.nvcc}",
        fits=dotted(cuda) >= dotted(row.nvcc)[: len(dotted(cuda))],
        remedy=f"nvcc {cuda} miscompiles for {flavour.compute_capability}: set the flavour's cuda to one of "
        f"{row.release} or later ({row.source})",
    )


def check_gcc(found: str, cuda: str, rows: Sequence[HostCompiler]) -> Finding:
    """The host's gcc ("12.2.0") against the newest that the CUDA release accepts."""
    row = next((row for row in rows if release(row.cuda) == release(cuda)), None)
    needed = f"<= {row.gcc}" if row else "any that compiles"
    if not found:
        return Finding.bad("gcc for nvcc", "none", needed, "Install gcc and g++")
    if row is None or dotted(found)[0] <= row.gcc:
        return Finding.ok("gcc for nvcc", found, needed)
    return Finding.bad(
        "gcc for nvcc",
        found,
        needed,
        f"CUDA {row.cuda} takes gcc up to {row.gcc}: put an older one first on the build's PATH (/usr/local/bin), "
        "or take a newer CUDA",
    )


def check_cutlass(gcc: str, commits: Sequence[str], rows: Sequence[Cutlass]) -> list[Finding]:
    """The host's gcc ("15.3.0") against the commits of CUTLASS whose headers the build's kernels include."""
    known = [row for row in rows if row.commit in commits]
    if not gcc or not known:
        return []
    row = min(known, key=lambda row: row.gcc)
    return [
        Finding.of(
            "gcc for CUTLASS",
            gcc,
            f"<= {row.gcc}",
            fits=dotted(gcc)[0] <= row.gcc,
            remedy=f"CUTLASS {row.commit[:12]}, which this version of upstream uses, takes gcc up to {row.gcc} "
            f"({row.source}): put an older one first on the build's PATH (/usr/local/bin)",
        )
    ]


def check_headers(glibc: str, cuda: str, mended: bool, where: str, rows: Sequence[Headers]) -> Finding:
    """CUDA's declarations against those of glibc; ``mended`` means that CUDA's were changed to agree."""
    row = next((row for row in rows if dotted(glibc) >= dotted(row.glibc) and release(cuda) < release(row.cuda)), None)
    needed = "headers that agree with glibc"
    if row is None:
        return Finding.ok("CUDA's headers", f"glibc {glibc}", needed)
    if mended:
        return Finding.ok("CUDA's headers", f"glibc {glibc}, mended", needed)
    return Finding.bad(
        "CUDA's headers",
        f"glibc {glibc}",
        needed,
        f"CUDA {cuda} and glibc {row.glibc} declare rsqrt differently: cuda_source=wheels and dnf mend {where}, "
        f"CUDA {row.cuda} agrees by itself",
    )


def check_features(
    flavour: Flavour, cuda: str, offered: Sequence[str] | None, version: str, rows: Sequence[Feature]
) -> list[Finding]:
    """One finding for all the features if they fit, else one for each that does not.

    ``offered`` are the features of upstream's manifest at this version, None where it could not be read.
    """
    wrong, name_of = [], f"flavour {flavour.name}"
    for name in flavour.features:
        row = next((row for row in rows if row.name == name), Feature(name, ""))
        for needed, remedy in _wrong(row, flavour, cuda, offered, version):
            wrong.append(Finding.bad(f"feature {name}", name_of, needed, remedy))
    for has, what in ((flavour.cuda, "CUDA"), (flavour.compute_capability, "a compute capability")):
        if bool(has) != ("cuda" in flavour.features):
            remedy = f"Correct the flavour's row in flavours.yml: {what} {'is' if has else 'is not'} given"
            wrong.append(Finding.bad("feature cuda", name_of, f"{what} and the feature cuda, or neither", remedy))
    features = ", ".join(flavour.features) or "none"
    return wrong or [Finding.ok("features", features, "those of upstream that fit together")]


def _wrong(
    row: Feature, flavour: Flavour, cuda: str, offered: Sequence[str] | None, version: str
) -> list[tuple[str, str]]:
    """The unmet needs of a feature, each with its remedy."""
    without = f"take {row.name} out of the flavour's features"
    missing = [name for name in row.needs if name not in flavour.features]
    gpu = flavour.compute_capability
    cases = [
        (row.refused != "", "nothing", f"{row.refused}: {without}"),
        (offered is not None and row.name not in offered, f"a feature of {version}",
         f"Upstream {version} has no feature {row.name}: {without}"),
        (bool(missing), " and ".join(missing), f"Add {', '.join(missing)} to the flavour's features, or {without}"),
        (bool(gpu and row.only) and gpu not in row.only, f"compute capability {', '.join(row.only)}",
         f"Its kernels are for {', '.join(row.only)} alone: {without}"),
        (bool(gpu and row.lowest) and dotted(gpu) < dotted(row.lowest), f"compute capability >= {row.lowest}",
         f"Its kernels begin at {row.lowest}: {without}"),
        (bool(cuda and row.cuda) and release(cuda) < release(row.cuda), f"CUDA >= {row.cuda}",
         f"Set the flavour's cuda to {row.cuda} or later, or {without}"),
    ]  # fmt: skip
    return [(needed, remedy) for applies, needed, remedy in cases if applies]
