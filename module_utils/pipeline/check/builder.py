"""Check: what a builder lacks for a build, found before anything is compiled.

Every finding is made, whatever the others say, so that the operator mends them in one go. A check is a function of
measured values: here those of the host itself, in compatibility.py what fits together, in trials.py what is tried, in
downloads.py and cache_levels.py what is asked over the network. ``examine`` measures and puts them together.

A build that cannot succeed does not begin, and no build is killed for memory on a host that was found fit: what it
plans to take at most (parallel.py) is there. A ``warning`` stops nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Flavour, Source
from ..base.run import CommandFailed, run
from ..base.versions import dotted
from ..build import limits
from ..build.limits import Parallel
from ..cache.compile_cache import Cache
from ..source.checkout import bring
from ..source.manifest import Tree, look
from ..source.mirrors import Mirrors
from ..toolchain.cuda import compiler_version, with_glibc_2_42
from ..toolchain.layout import build_path
from ..toolchain.rust import Rust, find_rust
from . import cache_levels, downloads
from .compatibility import (
    Compatibility,
    check_cuda_defects,
    check_cuda_limit,
    check_features,
    check_gcc,
    check_headers,
    check_nvcc,
)
from .trials import Trials, check_compiles, check_library, compiles, identity, links, system_libraries

GIB = 1024**3
PROGRAMS = ("git", "gcc", "g++", "readelf", "rpmbuild")


@dataclass(frozen=True)
class Question:
    """One flavour of one commit on this host: can it be built?

    ``toolkit`` is what cuda_toolkit gave, ``toolkit_failure`` why it gave none, ``toolkit_planned`` that it is yet to
    come (check mode). ``registry`` is the sparse index that crates come from where no mirror is named. ``ask`` has the
    network asked even where nothing must be downloaded.
    """

    root: Path
    source: Source
    flavour: Flavour
    package: str
    facts: Compatibility
    rustflags: str
    free_gib: float
    toolkit: Mapping[str, object] = field(default_factory=dict)
    toolkit_failure: str = ""
    toolkit_planned: bool = False
    cargo: str = ""
    jobs: int = 0
    low_memory: bool = False
    cache: Cache | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    registry: str = ""
    ask: bool = False


# ---------------------------------------------------------------- decisions


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


def check_memory(plan: Parallel, found: int, lowest: Parallel, *, heavy: bool) -> Finding:
    """The planned memory against the host's (bytes; swap does not count: a build that swaps does not end).

    ``lowest`` is the plan of ``low_memory``. An upstream that is not ``heavy`` takes less than was planned.
    """
    needed = plan.memory + limits.REST
    fits = needed <= found or not heavy
    smaller = lowest.memory + limits.REST
    remedy = (
        f"Set -e jobs=N to fewer than {plan.jobs}, or -e low_memory=true, which takes {smaller / GIB:.0f} GiB"
        if smaller <= found
        else f"This host is too small: even -e low_memory=true takes {smaller / GIB:.0f} GiB"
    )
    nvcc = f", {plan.nvcc} nvcc" if plan.nvcc else ""
    return Finding(
        "memory", f"{found / GIB:.1f} GiB", f"{needed / GIB:.0f} GiB for {plan.jobs} jobs{nvcc} and the host", fits,
        remedy if not fits else "",
    )  # fmt: skip


def check_memory_free(plan: Parallel, found: int, *, heavy: bool) -> Finding:
    """What other programs of the host leave at this moment: they may end, so it is a warning."""
    short = heavy and found < plan.memory
    return Finding(
        "memory at this moment", f"{found / GIB:.1f} GiB", f"{plan.memory / GIB:.0f} GiB", fits=True,
        remedy="Other programs hold it: end them before the build, or set -e jobs=N or -e low_memory=true"
        if short else "", warning=short,
    )  # fmt: skip


# ---------------------------------------------------------------- measuring


def examine(asked: Question) -> tuple[list[Finding], Tree | None]:
    """Every finding, and what the commit says of itself (None where it cannot be had)."""
    flavour, facts = asked.flavour, asked.facts
    heavy = facts.heavy
    tree, findings = _commit(asked)
    rust = _rust(asked.cargo)
    nvcc = str(asked.toolkit.get("nvcc") or "")
    path = build_path(rust.bin if rust else None, Path(nvcc).parent if nvcc else None)
    findings += [
        *(check_program(name, shutil.which(name, path=path if name in ("gcc", "g++") else None)) for name in PROGRAMS),
        check_rust(rust.version if rust else "", tree.rust_version if tree else ""),
        check_rustflags(asked.rustflags),
    ]
    cuda = _cuda_version(asked)
    offered = tree.features if tree else None
    findings += check_features(flavour, cuda or flavour.cuda, offered, asked.source.version, facts.features)
    trials = Trials(asked.root / "cache" / "trials.json")
    if flavour.cuda:
        findings += _cuda(asked, cuda, path, trials)
    if not asked.toolkit_planned and not asked.toolkit_failure:
        findings += _libraries(asked, path, trials)
    plan = limits.of_this_host(cuda=bool(flavour.cuda), jobs=asked.jobs, low_memory=asked.low_memory)
    lowest = limits.of_this_host(cuda=bool(flavour.cuda), low_memory=True)
    findings += [
        check_memory(plan, limits.host_memory(), lowest, heavy=heavy),
        check_memory_free(plan, available_memory(), heavy=heavy),
        check_space(free_bytes(asked.root), asked.free_gib, asked.root),
    ]
    if asked.cache:
        findings += cache_levels.check(asked.cache)
    if tree:
        wanted = downloads.Wanted(
            asked.root, asked.source, asked.package, tree, rust, path, asked.mirrors, asked.registry,
            cuda=bool(flavour.cuda), ask=asked.ask,
        )  # fmt: skip
        findings += downloads.check(wanted, trials)
    return findings, tree


def _commit(asked: Question) -> tuple[Tree | None, list[Finding]]:
    source, folder = asked.source, asked.root / "src"
    try:
        bring(folder, source)
        return look(folder, source.commit, asked.package), []
    except CommandFailed as error:
        reason = next((line for line in error.stderr.splitlines() if line.startswith("fatal:")), error.what)
        remedy = f"See that this host reaches {source.url}, or name a mirror"
    except PipelineError as error:
        reason, remedy = error.what, error.remedy
    except OSError as error:
        reason, remedy = f"{error.strerror} ({error.filename})", f"Let {asked.root} be the building account's own"
    return None, [Finding("commit", reason, f"{source.ref} of {source.url}", fits=False, remedy=remedy)]


def _rust(cargo: str) -> Rust | None:
    try:
        return find_rust(cargo)
    except (PipelineError, OSError):
        return None


def _cuda_version(asked: Question) -> str:
    """nvcc's own version; of a toolkit that is yet to come the release; "" where none runs."""
    if asked.toolkit_planned:
        return asked.flavour.cuda
    return nvcc_version(str(asked.toolkit.get("nvcc") or ""))


def _cuda(asked: Question, cuda: str, path: str, trials: Trials) -> list[Finding]:
    flavour, facts, nvcc = asked.flavour, asked.facts, str(asked.toolkit.get("nvcc") or "")
    judged = cuda or flavour.cuda
    findings = [
        check_nvcc(cuda, flavour.cuda, nvcc),
        check_cuda_limit(judged, asked.source.version, facts.upstream_cuda),
        check_cuda_defects(judged, flavour, facts.gpu_compilers),
    ]
    if asked.toolkit_failure:
        findings[0] = Finding("CUDA toolkit", "none", flavour.cuda, fits=False, remedy=asked.toolkit_failure)
    if asked.toolkit_planned or not cuda:
        return findings
    gcc = shutil.which("gcc", path=path)
    header = Path(str(asked.toolkit["folder"]), "include", "crt", "math_functions.h")
    depends = [
        path,
        flavour.arch,
        cuda,
        glibc_version(),
        *map(identity, (gcc, shutil.which("g++", path=path), nvcc, header)),
    ]
    version = gcc_version(gcc)
    reason = trials.failure(f"nvcc {nvcc} {flavour.arch}", depends, lambda: compiles(nvcc, flavour.arch, path))
    return [
        *findings,
        check_gcc(version, cuda, facts.host_compilers),
        check_headers(glibc_version(), cuda, is_mended(header), str(header), facts.headers),
        check_compiles(reason, version, flavour.arch),
    ]


def _libraries(asked: Question, path: str, trials: Trials) -> list[Finding]:
    """A finding for each library; those that link are told in one."""
    facts, flavour = asked.facts, asked.flavour
    names = facts.linked(flavour.features)
    found = asked.toolkit.get("library_path") or ()
    folders = [str(folder) for folder in found] if isinstance(found, list | tuple) else []
    depends = [path, names, identity(shutil.which("gcc", path=path)), *map(identity, folders), system_libraries()]
    reasons: dict[str, str] = {}

    def attempt() -> str:
        reasons.update(links(names, folders, path))
        return ", ".join(reasons)

    if names:
        trials.failure(f"link {flavour.cuda or 'no CUDA'} {' '.join(flavour.features)}", depends, attempt)
    return [
        check_library(
            name, reasons.get(name, ""), [row.feature for row in facts.libraries if name in row.libraries], folders
        )
        for name in dict.fromkeys([*names, *reasons])
    ]


def nvcc_version(nvcc: str) -> str:
    """nvcc's own version ("13.0.88"), or "" where it does not run."""
    if not nvcc or not os.access(nvcc, os.X_OK):
        return ""
    with suppress(PipelineError, OSError):
        return compiler_version(run([nvcc, "--version"], timeout=30).stdout)
    return ""


def gcc_version(gcc: str | None) -> str:
    """The version that gcc tells of itself ("12.2.0"), or ""."""
    if gcc:
        with suppress(PipelineError, OSError):
            return run([gcc, "-dumpfullversion", "-dumpversion"], timeout=30).stdout.strip()
    return ""


def glibc_version() -> str:
    """This host's C library: "2.36"."""
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")


def is_mended(header: Path) -> bool:
    """Whether CUDA's ``crt/math_functions.h`` agrees with glibc 2.42; one that is not there disagrees with nothing."""
    try:
        text = header.read_text(errors="replace")
    except OSError:
        return True
    return with_glibc_2_42(text) == text


def available_memory() -> int:
    """What this host could give to new programs without swapping, in bytes (MemAvailable, proc_meminfo(5))."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else limits.host_memory()


def free_bytes(folder: Path) -> int:
    """The space left for files below ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
