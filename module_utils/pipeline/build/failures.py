r"""Why a build failed: its first real error, the crate it is in, and for a known cause what to do about it.

Rules:

1. The first error counts; cargo lets other jobs end, and what they say afterwards is mostly noise. A block begins at a
   line ``error…`` and ends where cargo or rustc begin to speak of something else.
2. A build script's block holds all that it and its compilers printed. What names an error in it is shown, with the
   source line that a compiler points at; commands (``#$ …``), cargo's instructions and settings are not.
3. ``CAUSES`` is one table, read from the top: the first row that fits the block, or what the compilers said shortly
   before it, tells the cause and the remedy. A name in braces is what the pattern's group of that name found.
4. What fits no row is told by what sort of error it is; the lines themselves are always shown.
5. The sources are at fault only where a row says that they are, and no line tells of what the system refused or ended:
   what is not known may be the builder's fault.

Facts behind rows: sccache says "Compiler killed by signal N" for whatever exit status N nvcc's front end ends with, so
only signal 9 is a killed process; a linker whose output file has no room ends with SIGBUS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError

SHOWN = 25
"""Lines of an error that are shown."""

WIDTH = 300
"""Longer lines are shown with a gap: cargo repeats a compiler's whole command and tells at its end how it ended."""

AGAIN = "After a fix, run again: what was compiled stays"


@dataclass(frozen=True)
class Failure:
    """``crate`` is "name 1.2.3", "name", or empty; ``lines`` the error's own; cause and remedy lack the full stop.

    ``upstreams`` says that the sources are known to be at fault, and not the builder.
    """

    crate: str
    lines: tuple[str, ...]
    cause: str
    remedy: str
    upstreams: bool = False

    @property
    def what(self) -> str:
        """The failure in one line."""
        return f"{self.crate}: {self.cause}" if self.crate else self.cause


class CompileFailed(PipelineError):
    """The compile ended with an error: its cause, its own lines, and what to do."""

    def __init__(self, failure: Failure, log: str) -> None:
        lines = "".join(f"    {line}\n" for line in failure.lines)
        super().__init__(f"the build failed: {failure.what}\n{lines}", log, failure.remedy)
        self.upstreams = failure.upstreams

    def failure(self) -> dict[str, Any]:
        return {**super().failure(), "upstreams": self.upstreams}


@dataclass(frozen=True)
class Cause:
    """A row of the table; ``upstreams`` where it is known to be the sources' fault."""

    pattern: str
    cause: str
    remedy: str
    upstreams: bool = False


_MEMORY = "Run again with -e low_memory=true, or with a lower -e jobs=; dmesg on the builder names the process"
_SPACE = "Free space on the builder: target/ and cache/ below its root come back by themselves"
_NETWORK = (
    "Check the builder's network and proxy, then run again; without a way there, git_mirrors and cargo_registry_mirror"
)
_STALE = "Delete target/ below the builder's root and run again: everything is compiled anew"
_INSTALL = "Install it on the builder"
_RUST = "Take a newer Rust: rust_version, or rustup update where rust_source is system"

CAUSES = (
    # What the host lacks
    Cause(r"No space left on device|os error 28\b|database or disk is full|[Dd]isk quota exceeded",
          "the disk is full", f"{_SPACE}. build_free_gib is what the check asks for"),
    Cause(r"signal 7 \[Bus error\]|SIGBUS|\(signal: 7",
          "a process lost the file that it was writing; most often the disk is full", _SPACE),
    Cause(r"signal: 9\b|(?:killed by|died due to|terminated with) signal 9\b|^\s*Killed$"
          r"|Killed signal terminated program|memory allocation of \d+ bytes failed|error: out of memory"
          r"|LLVM ERROR: out of memory|Cannot allocate memory|os error 12\b",
          "a compiler was killed or got no memory: the builder has too little for so much at once", _MEMORY),
    # The CUDA toolkit
    Cause(r"Unsupported gpu architecture '(?P<arch>[^']+)'",
          "this nvcc does not know {arch}", "Set a cuda in the flavour's row that has its compute_capability"),
    Cause(r"unsupported GNU version! gcc versions later than (?P<gcc>[\d.]+)",
          "this nvcc takes gcc {gcc} at most, and the builder's is newer",
          "Set a newer cuda in the flavour's row, or build where gcc is {gcc} or older"),
    Cause(r"Unsupported cuda toolkit version: `(?P<cuda>[^`]+)`",
          "upstream's build script does not know CUDA {cuda}",
          "Set an older cuda in the flavour's row, and add the limit to upstream_cuda: the check then finds it first"),
    Cause(r"exception specification is incompatible .*\"(?P<function>rsqrt|rsqrtf|sinpif?|cospif?)\b",
          "this glibc and CUDA's headers both declare {function}, and differ",
          "Take the toolkit from cuda_source=wheels, where the headers are mended, or CUDA 13.2 or later"),
    Cause(r"cannot execute binary file|Exec format error",
          "a program is for another processor", "Look at rust_cargo and the toolkit: both are for x86_64"),
    Cause(r"cannot run `[^`]*nvcc`|nvcc not found|Failed to execute `nvcc`|nvcc: (?:command )?not found",
          "nvcc does not run", "make doctor shows what is wrong with the toolkit; cuda_source=wheels brings one"),
    Cause(r"fatal error: (?P<header>[\w./+-]+): No such file or directory"
          r"|cannot open source file \"(?P<other>[^\"]+)\"",
          "the header {header} is missing",
          "cuda_toolkit_components=full brings CUDA's; another is in some -devel package of the builder's system"),
    # The linker
    Cause(r"(?:unable to find library|cannot find) -l(?P<library>[\w.+-]+)",
          "the linker finds no lib{library}",
          "cuda_toolkit_components=full brings CUDA's libraries, cuDNN and NCCL; another is in some -devel package"),
    Cause(r"is incompatible with elf64-x86-64|file in wrong format|compiled by an incompatible version of rustc"
          r"|found possibly newer version of crate",
          "something from another compiler or for another processor is left in the target directory", _STALE),
    Cause(r"undefined (?:symbol:|reference to) [`']?(?P<symbol>[\w:]+)",
          "the linker finds no {symbol}",
          f"A library is older than what upstream was written for, or something stale is linked. {_STALE}; if that "
          "does not help, compare the flavour's cuda and features with upstream's"),
    # Rust, and what it is asked to build
    Cause(r"requires rustc (?P<needed>[\d.]+)", "upstream needs Rust {needed}", _RUST),
    Cause(r"is not supported by the following package|older than the `\d+` edition|error\[E0658\]"
          r"|feature `[^`]+` is required", "upstream needs a newer Rust", _RUST),
    Cause(r"cannot update the lock file|lock file .* needs to be updated but --locked",
          "Cargo.lock does not fit upstream's manifests",
          "Report it upstream; the channel unstable goes on without it, and says so", upstreams=True),
    Cause(r"failed to verify the checksum of",
          "it came with other bytes than Cargo.lock names",
          "Find out why before you trust that registry or mirror again; then delete cargo/registry on the builder"),
    # The network. A host that is not found is told before what could not be had from it.
    Cause(r"--offline|offline mode",
          "something is not on the builder, and the compile has no network",
          "Delete cargo/registry and cargo/git below the builder's root and run again: they are fetched anew"),
    Cause(r"Could not resolve host(?:name)?:? ?\(?(?:Could not resolve host: )?(?P<host>[\w.-]+)",
          "the name {host} cannot be resolved", _NETWORK),
    Cause(r"authenticated registries require|got 40[13]\b|returned error: 40[13]\b|HTTP 40[13]\b",
          "the registry or mirror refused",
          "See that the builder may read it: the mirror's address, its credentials, the proxy"),
    Cause(r"SSL certificate|SSL peer certificate|certificate verify failed|\[60\] ",
          "the certificate of the registry or mirror is not trusted",
          "Trust its authority on the builder, or point SSL_CERT_FILE and GIT_SSL_CAINFO at it"),
    Cause(r"Timeout was reached|[Tt]imed out|Operation too slow",
          "the registry or mirror answers too slowly", _NETWORK),
    Cause(r"failed to clone into|failed to fetch into|Could not read from remote repository|GitOperationFailed"
          r"|fatal: unable to access '(?P<url>[^']+)'|couldn't find remote ref",
          "a git dependency cannot be fetched", _NETWORK),
    Cause(r"Could not connect|Connection (?:refused|reset)|got 5\d\d\b|failed to download|config\.json not found",
          "the registry or mirror cannot be reached", _NETWORK),
    # Programs that build scripts call
    Cause(r"is `(?P<program>[\w.+-]+)` not installed\?|Command '(?P<other>[\w.+-]+)' not found"
          r"|error occurred in cc-rs: failed to find tool \"(?P<third>[^\"]+)\"|linker `(?P<fourth>[^`]+)` not found"
          r"|Could not find `(?P<fifth>protoc)`", "{program} is missing", _INSTALL),
    Cause(r"Unable to find (?P<program>libclang)", "{program} is missing", f"{_INSTALL}: libclang-dev, or clang-devel"),
    # What crashed
    Cause(r"signal: 4, SIGILL|Illegal instruction",
          "a program was compiled for another CPU than the builder's",
          f"See that rustflags names a baseline. {_STALE}"),
    Cause(r"signal: 11, SIGSEGV|signal 11\b|Segmentation fault|internal compiler error"
          r"|the compiler unexpectedly panicked",
          "the compiler itself crashed",
          "Run again. If it crashes at the same place, take another version of it, else test the builder's memory"),
)  # fmt: skip

_NVCC = f"Compare the flavour's cuda with what upstream's own builds use. {AGAIN}"
_RUSTC = f"Compare Rust's version with what upstream's own builds use, or build another version. {AGAIN}"
_SORTS = (
    Cause(r"linking with `[^`]+` failed", "the linker failed", f"Its own words are above. {AGAIN}"),
    # A toolkit's header or the system's may fit none of this builder's compilers.
    Cause(r"^\s*(?:\S*/include/\S+\.\w+\(\d+\): |\S+\(\d+\): catastrophic )error", "nvcc refuses a header", _NVCC),
    Cause(r"^\s*\S+\.(?:cu|cuh|h|hpp|hxx)\(\d+\): error", "nvcc refuses a source", _NVCC, upstreams=True),
    Cause(r"^error\[E(?:0460|0461|0462|0463|0464|0786)\]|^error: extern location for",
          "rustc cannot use a crate that was compiled before", _STALE),
    Cause(r"^error\[E\d+\]|^error: .*\n\s*--> \S+:\d+:\d+$", "rustc refuses the code", _RUSTC, upstreams=True),
    Cause(r"failed to run custom build command", "its build script failed", f"Its own words are above. {AGAIN}"),
    Cause(r"", "the build failed", f"The whole log says more. {AGAIN}"),
)  # fmt: skip
# What the system refused, or a process that it ended: Rust's, C's and Python's words for it.
_SYSTEMS = re.compile(
    r"os error \d+|Os \{ code: \d+|\[Errno \d+\]|signal:? \d+|Input/output error|Permission denied|Too many open files"
    r"|Read-only file system|cannot open shared object file"
)

_ERROR = re.compile(r"error(\[E\d+\])?:")
_STARTS_ANEW = re.compile(
    r"(error|warning)(\[\w+\])?:|\s*(Compiling|Finished|Running|Building|Downloading|Downloaded|Updating|Fresh) "
    r"|Some errors have|For more information"
)
# What a compiler, git or the compile cache says of itself, apart from cargo's error and on another stream at times.
_ASIDE = re.compile(
    r"sccache: Compiler killed by signal 9\b|memory allocation of|(rustc-)?LLVM ERROR|Killed$|fatal( runtime error)?: "
)
_NEAR = 60
"""Lines of other crates that may lie between the two."""

_CRATE = re.compile(
    r"(?:custom build command for|checksum of|could not compile|failed to get) `([\w-]+)(?: v([\w.+-]+))?"
    r"|^\s*([\w-]+)@([\w.+-]+) requires rustc|failed to download from `\S*/([\w-]+)/(\d[\w.+-]*)/download`"
)
# What build scripts and compilers print around their own errors.
_TELLS = re.compile(
    r"(?i)(\berror\b|fatal|panicked|undefined (reference|symbol)|cannot |not found|missing|refused|unable to"
    r"|unsupported|killed|terminated|no such file|no space|not installed)"
)
_POINTS = re.compile(r"\s*\^[\s~^]*$")
_NOISE = re.compile(
    r"\s*(#\$ |# --error|cargo:(?!warning)|[\w-]+ = |running: |note: (run with|To improve|Some details)"
    r"|stack backtrace:|\d+:\s+(0x[0-9a-f]+ - )?\S+$|= note: +\"\S+\" |= note: some arguments are omitted"
    r"|--- std(out|err)|warning: |\d+ errors? detected|compilation terminated|cargo:warning=Compiler family"
    r"|sccache: Compiler killed by signal (?!9\b))"
)


def explain(lines: Iterable[str]) -> Failure:
    """The failure that a build's output tells of."""
    log = [line for line in lines if line.strip()]
    start = next((at for at, line in enumerate(log) if _ERROR.match(line)), None)
    if start is None:
        return _told("", log[-SHOWN:])
    block = _essence(_block(log, start))
    aside: list[str] = []
    if block[0].startswith(("error: could not compile", "error: failed to")):
        aside = [line for line in log[max(0, start - _NEAR) :] if _ASIDE.match(line)]
    return _told(_crate(block, log), [*dict.fromkeys(aside), *(line for line in block if line not in aside)])


def first_error(lines: Iterable[str], limit: int = SHOWN) -> list[str]:
    """The lines of the first real error in a build's output."""
    return list(explain(lines).lines[:limit])


def _told(crate: str, lines: Sequence[str]) -> Failure:
    text = "\n".join(lines)
    tried = ((row, re.search(row.pattern, text, re.MULTILINE)) for row in (*CAUSES, *_SORTS))
    row, found = next((row, found) for row, found in tried if found)
    names = {name: value for name, value in found.groupdict().items() if value}
    # The alternatives of a pattern have a group each: what one found stands for all.
    names = dict.fromkeys(found.groupdict(), next(iter(names.values()), "")) | names
    shown = tuple(_short(line) for line in lines[:SHOWN])
    upstreams = row.upstreams and not _SYSTEMS.search(text)
    return Failure(crate, shown, row.cause.format(**names), row.remedy.format(**names), upstreams)


def _block(log: Sequence[str], start: int) -> list[str]:
    """The error that starts there, up to where something else begins. A build script's own lines are set in."""
    end = start + 1
    while end < len(log) and not _STARTS_ANEW.match(log[end]):
        end += 1
    return list(log[start:end])


def _essence(block: Sequence[str]) -> list[str]:
    """The lines of an error that a person wants to see."""
    head, rest = block[0], [line for line in block[1:] if line.strip() != "Caused by:" and not _NOISE.match(line)]
    if "failed to run custom build command" not in head:
        return [head, *rest]
    kept: list[str] = []
    for at, line in enumerate(rest):
        # Above a line of ``^`` stands the source's line that is meant.
        pointed = any(_POINTS.match(near) for near in rest[at : at + 2])
        of_panic = at > 0 and " panicked at " in rest[at - 1]
        if pointed or ((of_panic or _TELLS.search(line)) and line not in kept):
            kept.append(line.replace("cargo:warning=", ""))
    return [head, *(kept or rest[-SHOWN:])]


def _crate(block: Sequence[str], log: Sequence[str]) -> str:
    """The crate that an error names, else the first that cargo then gives up."""
    found = next((found for line in (*block, *log) if (found := _CRATE.search(line))), None)
    name, version = [*(value for value in found.groups() if value), ""][:2] if found else ("", "")
    compiling = re.compile(rf"\s*Compiling {re.escape(name)} v(\S+)") if name and not version else None
    for line in log if compiling else ():
        if compiling and (begun := compiling.match(line)):
            version = begun[1]
    return f"{name} {version}".strip()


def _short(line: str) -> str:
    if len(line) <= WIDTH:
        return line
    return f"{line[: WIDTH // 2]} … {line[-WIDTH // 2 :]}"
