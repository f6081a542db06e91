"""Check: what a builder lacks for a build, found before compiling.

Rules:

1. ``check`` makes every finding, whatever the others are, so that the operator can fix all of them in one go.
2. A build that cannot succeed does not start. On a host that passes, no build runs out of memory: the memory that the
   build plans to use at most (build/limits) is there.
3. A warning stops nothing.
4. A check is a function of measured values: those of the host itself are here, combinations of versions in
   compatibility, trial compiles in trials, the commit's files in commit, network requests in downloads and
   cache_levels.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Flavour, Parallel, Source
from ..base.run import run
from ..base.sandbox import plain
from ..base.versions import dotted
from ..build import limits
from ..cache.compile_cache import Cache
from ..source.manifest import Tree
from ..source.mirrors import Mirrors, cutlass_folder, has_cutlass
from ..toolchain.cuda import compiler_version, with_glibc_2_42
from ..toolchain.layout import build_path
from ..toolchain.rust import Rust, find_rust
from ..toolchain.verified import verify_programs
from . import cache_levels, commit, downloads, sandboxes
from .compatibility import (
    Compatibility,
    check_cuda_defects,
    check_cuda_limit,
    check_cutlass,
    check_features,
    check_gcc,
    check_headers,
    check_nvcc,
)
from .trials import (
    Trials,
    check_compiles,
    check_cutlass_compiles,
    check_library,
    compiles,
    compiles_cutlass,
    identity,
    links,
    system_libraries,
    tried_headers,
)

GIB = 1024**3
PROGRAMS = ("git", "gcc", "g++", "readelf")
TEMPORARY_MIB = 256


@dataclass(frozen=True)
class BuildRequest:
    """One flavour of one commit that this host is to build.

    ``toolkit`` is the result of cuda_toolkit; ``toolkit_failure`` the reason why there is none; ``toolkit_planned`` is
    true where check mode has not provided it yet. ``ask`` makes network requests even where nothing must be downloaded.
    ``protected``: the build runs in a sandbox, with ``overlays`` where its state is apart from that of releases.
    ``locked`` is the channel's ("always" or "prefer").
    """

    root: Path
    checkout: Path
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
    ask: bool = False
    protected: bool = True
    overlays: bool = False
    locked: str = commit.ALWAYS

    @property
    def nvcc(self) -> str:
        """The path of the toolkit's nvcc, or ""."""
        return str(self.toolkit.get("nvcc") or "")

    @property
    def library_path(self) -> list[str]:
        """The folders of the toolkit's libraries."""
        found = self.toolkit.get("library_path")
        return [str(folder) for folder in found] if isinstance(found, list | tuple) else []


# ---------------------------------------------------------------- decisions


def check_rust(found: str, needed: str) -> Finding:
    return Finding.of(
        "rustc",
        found or "none",
        f">= {needed}" if needed else "any",
        fits=bool(found) and dotted(found) >= dotted(needed),
        remedy=f"Install Rust {needed} or later (rustup update), or set rust_cargo to one",
    )


def check_toolchain(failure: PipelineError | None) -> Finding:
    """The compilers against the lists that their installation left."""
    found = f"{failure.what} ({failure.where})" if failure else "as installed"
    return Finding.of("toolchain", found, "as installed", fits=not failure, remedy=failure.remedy if failure else "")


def check_rustflags(flags: str) -> Finding:
    return Finding.of(
        "target CPU",
        flags,
        "a named baseline",
        fits="native" not in flags,
        remedy="A package built with target-cpu=native crashes on other CPUs: set rustflags to a baseline",
    )


def check_space(found: int, needed_gib: float, folder: Path) -> Finding:
    return Finding.of(
        "disk space",
        f"{found / GIB:.1f} GiB free",
        f"{needed_gib:g} GiB",
        fits=found >= needed_gib * GIB,
        remedy=f"Free space below {folder} (target/ can be deleted and comes back), or lower build_free_gib",
    )


def check_temporary(folder: str, free: int, asked: str) -> Finding:
    """The folder of temporary files: the check's trials and the modules use it. A build has one below its root.

    ``asked`` is TMPDIR, "" where it is not set.
    """
    needed = f"{TEMPORARY_MIB} MiB"
    if asked and os.path.abspath(asked) != folder:  # noqa: PTH100  a link stays one, as in tempfile
        found = f"TMPDIR={asked}, which is no writable folder"
        return Finding.bad("temporary files", found, needed, "Create it for the account that builds, or unset TMPDIR")
    return Finding.of(
        "temporary files",
        f"{free >> 20} MiB free in {folder}{' (TMPDIR)' if asked else ''}",
        needed,
        fits=free >= TEMPORARY_MIB << 20,
        remedy=f"Free space in {folder}, or set TMPDIR for the account that builds to a folder on a larger disk: in "
        "the shell that runs Ansible for this machine, in /etc/environment of a host that is reached by ssh",
    )


def check_paths(paths: Sequence[Path]) -> Finding:
    """Paths of a build without a sandbox that cargo, compilers and build scripts would split (base/sandbox.plain)."""
    odd = [str(path) for path in paths if plain(path) != path]
    return Finding.of(
        "paths",
        ", ".join(odd) or "plain",
        "without a sandbox: of letters a to z, digits and ._+@~^- alone",
        fits=not odd,
        remedy="Set builder_root and rust_cargo to such paths, or build in the sandbox, which takes any",
    )


def check_program(name: str, path: str | None) -> Finding:
    remedy = f"Install {name}; bindep.txt names its package"
    return Finding.of(name, path or "none", "installed", fits=path is not None, remedy=remedy)


def check_processors(host: limits.Host) -> Finding:
    """How many processors a quota leaves: a build with less than one waits, and is right."""
    left = f"{host.processors.amount} of {host.online}" if host.processors.source else f"{host.online}"
    return Finding.ok("processors", f"{left}{host.processors.by}", "1")


def check_memory(plan: Parallel, found: limits.Bound, lowest: Parallel, *, heavy: bool) -> Finding:
    """The planned memory against the host's, in bytes. Swap does not count: a build that swaps does not end.

    ``lowest`` is the plan of ``low_memory``. An upstream that is not ``heavy`` uses less than planned.
    """
    needed = plan.memory + limits.REST
    smaller = lowest.memory + limits.REST
    remedy = (
        f"Set -e jobs=N to fewer than {plan.jobs}, or -e low_memory=true, which takes {smaller / GIB:.0f} GiB"
        if smaller <= found.amount
        else f"Raise {found.source}: even -e low_memory=true takes {smaller / GIB:.0f} GiB"
        if found.source
        else f"This host is too small: even -e low_memory=true takes {smaller / GIB:.0f} GiB"
    )
    nvcc = f", {plan.nvcc} nvcc" if plan.nvcc else ""
    return Finding.of(
        "memory",
        f"{found.amount / GIB:.1f} GiB{found.by}",
        f"{needed / GIB:.0f} GiB for {plan.jobs} jobs{nvcc} and the host",
        fits=needed <= found.amount or not heavy,
        remedy=remedy,
    )


def check_memory_free(plan: Parallel, found: limits.Bound, *, heavy: bool) -> Finding:
    """The planned memory against the memory that is free now: a warning, since other programs may end."""
    check, needed = "memory at this moment", f"{plan.memory / GIB:.0f} GiB"
    free = f"{found.amount / GIB:.1f} GiB{found.by}"
    if heavy and found.amount < plan.memory:
        remedy = "Other programs hold it: end them before the build, or set -e jobs=N or -e low_memory=true"
        return Finding.warn(check, free, needed, remedy)
    return Finding.ok(check, free, needed)


def check_tasks(plan: Parallel, found: limits.Bound) -> Finding:
    """The processes and threads that the plan starts at a time, against what limits leave."""
    needed, fewest = limits.tasks_needed(plan.jobs, plan.nvcc), limits.tasks_needed(1, min(plan.nvcc, 1))
    raised = f"Raise {found.source} (TasksMax= of a unit, --pids-limit of a container, LimitNPROC= of an account)"
    return Finding.of(
        "processes",
        f"{found.amount} can be started{found.by}" if found.source else "no limit",
        f"{needed} for {plan.jobs} jobs{f', {plan.nvcc} nvcc' if plan.nvcc else ''}",
        fits=needed <= found.amount,
        remedy=f"{raised}, or set -e jobs=N to fewer than {plan.jobs}" if fewest <= found.amount else raised,
    )


# ---------------------------------------------------------------- measuring


def check(request: BuildRequest) -> tuple[list[Finding], Tree | None]:
    """All findings, and the commit's manifest (None where the commit cannot be fetched or read)."""
    flavour, facts = request.flavour, request.facts
    rust = _rust(request.cargo)
    sandbox = sandboxes.check(request.root, protected=request.protected, overlays=request.overlays)
    tree, findings = commit.check(
        # cargo is asked in a sandbox.
        request.checkout, request.source, request.package, rust if all(finding.fits for finding in sandbox) else None,
        flavour.features, request.root / "lock", locked=request.locked, protected=request.protected,
    )  # fmt: skip
    path = build_path(rust.bin if rust else None, Path(request.nvcc).parent if request.nvcc else None)
    findings += [
        *sandbox,
        *(check_program(name, shutil.which(name, path=path if name in ("gcc", "g++") else None)) for name in PROGRAMS),
        check_toolchain(_changed(request)),
        check_rust(rust.version if rust else "", tree.rust_version if tree else ""),
        check_rustflags(request.rustflags),
    ]
    if not request.protected:
        used = [request.root, Path(str(request.toolkit.get("folder") or "/")), rust.bin if rust else Path("/")]
        findings.append(check_paths(used))
    cuda = _cuda_version(request)
    offered = tree.features if tree else None
    findings += check_features(flavour, cuda or flavour.cuda, offered, request.source.version, facts.features)
    trials = Trials(request.root / "cache" / "trials.json")
    if flavour.cuda:
        findings += _cuda(request, cuda, path, trials, tree)
    if not request.toolkit_planned and not request.toolkit_failure:
        findings += _libraries(request, path, trials)
    findings += _resources(request)
    if request.cache:
        findings += cache_levels.check(request.cache, sandboxed=request.protected)
    if tree:
        findings += downloads.check(_needs(request, tree, rust, path), trials)
    return findings, tree


def _changed(request: BuildRequest) -> PipelineError | None:
    """Why a tree of the toolchain that the build uses may not be used. Nothing of it has run yet."""
    named = [request.cargo, request.nvcc, str(request.cache.program) if request.cache else ""]
    programs = [Path(name) for name in named if name and Path(name).is_absolute() and Path(name).exists()]
    try:
        verify_programs(request.root, programs)
    except PipelineError as error:
        return error
    return None


def _rust(cargo: str) -> Rust | None:
    try:
        return find_rust(cargo)
    except (PipelineError, OSError):
        return None


def _cuda_version(request: BuildRequest) -> str:
    """nvcc's own version; the release of a toolkit that is not there yet; "" where no nvcc runs."""
    return request.flavour.cuda if request.toolkit_planned else nvcc_version(request.nvcc)


def _cuda(request: BuildRequest, cuda: str, path: str, trials: Trials, tree: Tree | None) -> list[Finding]:
    flavour, facts, nvcc = request.flavour, request.facts, request.nvcc
    judged = cuda or flavour.cuda
    present = (
        Finding.bad("CUDA toolkit", "none", flavour.cuda, request.toolkit_failure)
        if request.toolkit_failure
        else check_nvcc(cuda, flavour.cuda, nvcc)
    )
    findings = [
        present,
        check_cuda_limit(judged, request.source.version, facts.upstream_cuda),
        check_cuda_defects(judged, flavour, facts.gpu_compilers),
    ]
    if request.toolkit_planned or not cuda:
        return findings
    gcc, glibc = shutil.which("gcc", path=path), glibc_version()
    header = Path(str(request.toolkit["folder"]), "include", "crt", "math_functions.h")
    programs = (gcc, shutil.which("g++", path=path), nvcc, header)
    depends = [path, flavour.arch, cuda, glibc, *map(identity, programs)]
    version = gcc_version(gcc)
    reason = trials.failure(f"nvcc {nvcc} {flavour.arch}", depends, lambda: compiles(nvcc, flavour.arch, path))
    return [
        *findings,
        check_gcc(version, cuda, facts.host_compilers),
        check_headers(glibc, cuda, is_mended(header), str(header), facts.headers),
        check_compiles(reason, version, flavour.arch),
        *(check_with_cutlass(request, tree, version, path, trials, depends) if tree and not reason else []),
    ]


def check_with_cutlass(
    request: BuildRequest, tree: Tree, gcc: str, path: str, trials: Trials, depends: Sequence[object]
) -> list[Finding]:
    """The headers of CUTLASS with this gcc: by the table, else by a trial of each commit that is here already."""
    checkout, arch, home = request.checkout, request.flavour.arch, request.root / "cudaforge"
    commits = commit.cutlass_commits(checkout, tree, request.flavour.compute_cap, request.mirrors)
    known = check_cutlass(gcc, commits, request.facts.cutlass)
    if not all(finding.fits for finding in known):
        return known
    names = commit.included(checkout, tree.commit)
    for one in commits:
        folder = cutlass_folder(home, one)
        if (headers := tried_headers(folder, names)) and has_cutlass(home, one):
            reason = trials.failure(
                f"nvcc {request.nvcc} {arch} CUTLASS {one[:12]}",
                [*depends, one, headers, identity(folder)],
                functools.partial(
                    compiles_cutlass, request.nvcc, arch, path, folder, headers, protected=request.protected
                ),
            )
            known.append(check_cutlass_compiles(reason, gcc, one))
    return known


def _libraries(request: BuildRequest, path: str, trials: Trials) -> list[Finding]:
    """A finding for each library that the build links."""
    facts, flavour, folders = request.facts, request.flavour, request.library_path
    names = facts.linked(flavour.features)
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


def _resources(request: BuildRequest) -> list[Finding]:
    """Processors, memory, processes and disk space."""
    cuda, heavy, host = bool(request.flavour.cuda), request.facts.heavy, limits.this_host()
    plan = limits.of_this_host(cuda=cuda, jobs=request.jobs, low_memory=request.low_memory, host=host)
    lowest = limits.of_this_host(cuda=cuda, low_memory=True, host=host)
    temporary = tempfile.gettempdir()
    return [
        check_processors(host),
        check_memory(plan, host.memory, lowest, heavy=heavy),
        check_memory_free(plan, host.free, heavy=heavy),
        check_tasks(plan, host.tasks),
        check_space(free_bytes(request.root), request.free_gib, request.root),
        check_temporary(temporary, free_bytes(Path(temporary)), os.environ.get("TMPDIR", "")),
    ]


def _needs(request: BuildRequest, tree: Tree, rust: Rust | None, path: str) -> downloads.DownloadNeeds:
    return downloads.DownloadNeeds(
        root=request.root,
        checkout=request.checkout,
        source=request.source,
        package=request.package,
        tree=tree,
        rust=rust,
        path=path,
        mirrors=request.mirrors,
        compute_cap=request.flavour.compute_cap,
        ask=request.ask,
        locked=request.locked,
    )


def nvcc_version(nvcc: str) -> str:
    """nvcc's own version ("13.0.88"), or "" where it does not run."""
    if not nvcc or not os.access(nvcc, os.X_OK):
        return ""
    with suppress(PipelineError, OSError):
        return compiler_version(run([nvcc, "--version"], timeout=30).stdout)
    return ""


def gcc_version(gcc: str | None) -> str:
    """The version that gcc reports ("12.2.0"), or ""."""
    if gcc:
        with suppress(PipelineError, OSError):
            return run([gcc, "-dumpfullversion", "-dumpversion"], timeout=30).stdout.strip()
    return ""


def glibc_version() -> str:
    """This host's C library: "2.36"."""
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")


def is_mended(header: Path) -> bool:
    """Whether CUDA's ``crt/math_functions.h`` agrees with glibc 2.42, or is missing."""
    try:
        text = header.read_text(errors="replace")
    except OSError:
        return True
    return with_glibc_2_42(text) == text


def free_bytes(folder: Path) -> int:
    """The free space of the file system of ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
