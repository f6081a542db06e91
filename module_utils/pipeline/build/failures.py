r"""Why a build failed: its first real error, the crate, and the remedy for a known cause.

Rules:

1. The first error counts: cargo lets other jobs finish, and their later errors are mostly noise. A block begins at a
   line ``error…`` and ends where cargo or rustc change the subject.
2. A build script's block contains all output of the script and its compilers. Lines that name an error are shown, with
   the source line that a compiler points at. Commands (``#$ …``), cargo's instructions and settings are omitted.
3. The first match in the block, or in the compilers' lines shortly before it, gives the cause and the remedy: of the
   rows of ``RESOURCES``, of a signal (rule 6), of the rows of ``CAUSES``, of a shell's status after a signal. A name in
   braces is the match of the pattern's group of that name.
4. An error without a row is named by its kind. Its lines are always shown.
5. The sources are at fault only if a row says so and no line names a system error or a signal. An unknown error may be
   the builder's fault.
6. A signal is named with the program that it ended. That SIGKILL came for lack of memory is the kernel's to say
   (processes.killed_for_memory), or the program's: anybody may send it.

Facts behind rows: sccache prints "Compiler killed by signal N" for any exit status N of nvcc's front end, so only
signal 9 is a killed process; a linker without disk space for its output file dies of SIGBUS; a shell ends with 128 + N
where signal N ended its program (bash(1), EXIT STATUS).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..base.errors import PipelineError
from ..base.run import NO_SPACE
from ..base.text import signal_named

SHOWN = 25
"""The number of an error's lines that are shown."""

WIDTH = 300
"""Longer lines are cut in the middle: cargo repeats a compiler's whole command and ends with its status."""

AGAIN = "After a fix, run again: compiled units are kept"


@dataclass(frozen=True)
class Failure:
    """``crate`` is "name 1.2.3", "name", or empty; ``lines`` are the error's; cause and remedy have no full stop.

    ``upstreams`` is set if the sources are known to be at fault, and not the builder.
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
    """The compile failed: the cause, the error's lines, and the remedy."""

    def __init__(self, failure: Failure, log: str) -> None:
        lines = "".join(f"    {line}\n" for line in failure.lines)
        super().__init__(f"the build failed: {failure.what}\n{lines}", log, failure.remedy)
        self.upstreams = failure.upstreams

    def failure(self) -> dict[str, Any]:
        return {**super().failure(), "upstreams": self.upstreams}


@dataclass(frozen=True)
class Cause:
    """A row of the table; ``upstreams`` is set where the sources are known to be at fault."""

    pattern: str
    cause: str
    remedy: str
    upstreams: bool = False


_FILE_SIZE = "Raise the building account's limit (ulimit -f; LimitFSIZE= of a service), or take another file system"
_MEMORY = "Run again with -e low_memory=true, or with a lower -e jobs=; dmesg on the builder names the process"
_SPACE = (
    "Free space below the builder's root: target/ and cache/ there can be deleted and are recreated, and a build's "
    "/tmp is scratch/ there, whatever TMPDIR is"
)
_NETWORK = (
    "Check the builder's network and proxy, then run again; behind a firewall set git_mirrors and cargo_registry_mirror"
)
_ILL = "a program was compiled for another CPU than the builder's"
_BASELINE = "Check that rustflags names a baseline"
_CRASH = "Run again. If it crashes at the same place, use another version of it, else test the builder's memory"
_STALE = (
    "Delete target/ below the builder's root (try/ there for a build that is no release) and run again: everything is "
    "recompiled"
)
_INSTALL = "Install it on the builder"
RUST = "Use a newer Rust: raise rust_version, or run rustup update where rust_source is system"
"""The remedy where cargo or rustc is too old for the sources."""

# The host's resources, in the words of those that lack them.
RESOURCES = (
    Cause(r"can't start new thread|failed to spawn (?:helper )?thread|fork: retry"
          r"|(?:fork|clone|spawn|thread|pthread_create)\b.*(?:Resource temporarily unavailable|os error 11\b)",
          "no further process or thread could be started: a limit of the builder's account, service or container",
          "make doctor names the limit; raise it, or set a lower -e jobs="),
    Cause(NO_SPACE.pattern,
          "the disk is full", f"{_SPACE}. The check requires build_free_gib"),
    Cause(r"File too large|os error 27\b|FileTooLarge",
          "a file exceeds the largest size that this account or file system allows", _FILE_SIZE),
    Cause(r"memory allocation of \d+ bytes failed|error: out of memory|LLVM ERROR: out of memory|bad_alloc"
          r"|[Cc]annot allocate memory|os error 12\b|virtual memory exhausted|[Oo]ut of memory allocating",
          "a compiler got no memory: too many run at once for the builder's memory", _MEMORY),
)  # fmt: skip

CAUSES = (
    # The CUDA toolkit
    Cause(r"Unsupported gpu architecture '(?P<arch>[^']+)'",
          "this nvcc does not support {arch}", "Set a cuda in the flavour's row that supports its compute_capability"),
    Cause(r"unsupported GNU version! gcc versions later than (?P<gcc>[\d.]+)",
          "this nvcc supports gcc {gcc} at most, and the builder's is newer",
          "Set a newer cuda in the flavour's row, or build where gcc is {gcc} or older"),
    Cause(r"Unsupported cuda toolkit version: `(?P<cuda>[^`]+)`",
          "upstream's build script does not support CUDA {cuda}",
          "Set an older cuda in the flavour's row, and add the limit to upstream_cuda: the check then finds it first"),
    Cause(r"exception specification is incompatible .*\"(?P<function>rsqrt|rsqrtf|sinpif?|cospif?)\b",
          "this glibc and CUDA's headers declare {function} differently",
          "Set cuda_source=wheels, which patches the headers, or use CUDA 13.2 or later"),
    Cause(r"cannot execute binary file|Exec format error",
          "a program is for another processor", "Check rust_cargo and the toolkit: both must be for x86_64"),
    Cause(r"cannot run `[^`]*nvcc`|nvcc not found|Failed to execute `nvcc`|nvcc: (?:command )?not found",
          "nvcc does not run", "make doctor shows what is wrong with the toolkit; cuda_source=wheels installs one"),
    Cause(r"fatal error: (?P<header>[\w./+-]+): No such file or directory"
          r"|cannot open source file \"(?P<other>[^\"]+)\"",
          "the header {header} is missing",
          "cuda_toolkit_components=full installs CUDA's; any other is in a -devel package of the builder's system"),
    # The linker
    Cause(r"(?:unable to find library|cannot find) -l(?P<library>[\w.+-]+)",
          "the linker finds no lib{library}",
          "cuda_toolkit_components=full installs CUDA's libraries, cuDNN and NCCL; any other is in a -devel package"),
    Cause(r"is incompatible with elf64-x86-64|file in wrong format|compiled by an incompatible version of rustc"
          r"|found possibly newer version of crate",
          "the target directory has stale output of another compiler or for another processor", _STALE),
    Cause(r"undefined (?:symbol:|reference to) [`']?(?P<symbol>[\w:]+)",
          "the linker finds no {symbol}",
          f"A library is older than upstream requires, or stale output is linked. {_STALE}; if that fails, compare the "
          "flavour's cuda and features with upstream's"),
    # Rust and Cargo.lock
    Cause(r"requires rustc (?P<needed>[\d.]+)", "upstream needs Rust {needed}", RUST),
    Cause(r"is not supported by the following package|older than the `\d+` edition|supported edition values are"
          r"|perhaps Cargo needs to be updated|error\[E0658\]"
          r"|feature `[^`]+` is required", "upstream needs a newer Rust", RUST),
    Cause(r"`(?P<crate>[^`]+)` does not have (?:that feature|these features)",
          "upstream's manifests name a feature that {crate} lacks", "Report it upstream", upstreams=True),
    Cause(r"failed to parse lock file", "cargo cannot read Cargo.lock", "Report it upstream", upstreams=True),
    Cause(r"cannot (?:update|create) the lock file|lock file .* needs to be updated but --locked",
          "Cargo.lock does not fit upstream's manifests",
          "Report it upstream; the channel unstable builds without it and records that", upstreams=True),
    Cause(r"failed to verify the checksum of",
          "it came with other bytes than Cargo.lock names",
          "Find out why before you trust that registry or mirror again; then delete cargo/registry on the builder"),
    # The network. The row of an unknown host precedes those of failed downloads.
    Cause(r"--offline|offline mode",
          "a dependency is missing on the builder, and the compile has no network",
          "Delete cargo/registry and cargo/git below the builder's root and run again: they are fetched again"),
    Cause(r"Could not resolve host(?:name)?:? ?\(?(?:Could not resolve host: )?(?P<host>[\w.-]+)",
          "the name {host} cannot be resolved", _NETWORK),
    Cause(r"authenticated registries require|got 40[13]\b|returned error: 40[13]\b|HTTP 40[13]\b",
          "the registry or mirror refused",
          "Check that the builder may read it: the mirror's address, its credentials, the proxy"),
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
    # Crashes that no signal shows
    Cause(r"Illegal instruction", _ILL, f"{_BASELINE}. {_STALE}"),
    Cause(r"internal compiler error|the compiler unexpectedly panicked", "the compiler itself crashed", _CRASH),
)  # fmt: skip

_NVCC = f"Compare the flavour's cuda with what upstream's own builds use. {AGAIN}"
_RUSTC = f"Compare Rust's version with what upstream's own builds use, or build another version. {AGAIN}"
_SORTS = (
    Cause(r"linking with `[^`]+` failed", "the linker failed", f"Its output is above. {AGAIN}"),
    # A header of the toolkit or the system may be incompatible with this builder's compilers.
    Cause(r"^\s*(?:\S*/include/\S+\.\w+\(\d+\): |\S+\(\d+\): catastrophic )error", "nvcc rejects a header", _NVCC),
    Cause(r"^\s*\S+\.(?:cu|cuh|h|hpp|hxx)\(\d+\): error", "nvcc rejects a source", _NVCC, upstreams=True),
    Cause(r"^error\[E(?:0460|0461|0462|0463|0464|0786)\]|^error: extern location for",
          "rustc cannot use a crate that was compiled before", _STALE),
    Cause(r"^error\[E\d+\]|^error: .*\n\s*--> \S+:\d+:\d+$", "rustc rejects the code", _RUSTC, upstreams=True),
    Cause(r"failed to run custom build command", "its build script failed", f"Its output is above. {AGAIN}"),
    Cause(r"", "the build failed", f"See the whole log. {AGAIN}"),
)  # fmt: skip
# System errors and signals, in the words of Rust, C and Python.
_SYSTEMS = re.compile(
    r"os error \d+|Os \{ code: \d+|\[Errno \d+\]|signal:? \d+|Input/output error|Permission denied|Too many open files"
    r"|Read-only file system|cannot open shared object file"
)

# The programs that a signal ended, in the words of compilers, cargo, Python and shells; those that name one first.
_SHELL = {
    "Killed": 9, "Terminated": 15, "Segmentation fault": 11, "Bus error": 7, "Aborted": 6, "Illegal instruction": 4,
    "File size limit exceeded": 25, "CPU time limit exceeded": 24, "Bad system call": 31, "Floating point exception": 8,
}  # fmt: skip
_WORDS = "|".join(_SHELL)
_BY = "(?:died due to|terminated with|terminated by|killed by)"
_SIGNALLED = [re.compile(pattern, re.MULTILINE) for pattern in (
    rf"\b(?P<program>(?!Compiler\b|was\b|is\b)[\w.+-]+)'? {_BY} signal (?P<number>\d+)",
    r"\b(?P<program>[\w.+-]+) terminated \(signal: (?P<number>\d+)",
    rf"(?P<words>{_WORDS}) signal terminated program (?P<program>[\w.+-]+)",
    r"linking with `(?P<program>[^`]+)` failed: signal: (?P<number>\d+)",
    r"`(?P<command>[^`\n]+)` \(signal: (?P<number>\d+)",
    r"[Cc]ommand '(?P<command>[^'\n]+)' died with <Signals\.SIG\w+: (?P<number>\d+)>",
    r"(?:signal: |killed by signal |died with <Signals\.SIG\w+: )(?P<number>\d+)\b",
    rf"^\s*(?:\S+: line \d+: +\d+ |make\S* \*\*\* \[[^\]]*\] )?(?P<words>{_WORDS})(?: +\(core dumped\))?(?:  .*)?$",
)]  # fmt: skip
_WRAPPED = re.compile(
    r"(?:exit(?:ed with)? (?:status|code):? |exit code: |returned non-zero exit status |\bError |status code )"
    r"(?P<shell>1(?:29|3\d|4\d|5\d))\b"
)
_LIMIT = "Raise the building account's limit ({}), then run again: compiled units are kept"
_SIGNALS = {
    4: (_ILL, f"{_BASELINE}. {_STALE}"),
    6: ("it gave up by itself", f"Its last words are above. {AGAIN}"),
    7: ("it lost the file that it was writing; most often the disk is full", _SPACE),
    11: ("it crashed", _CRASH),
    13: ("the program that read its output had ended", f"That program's error is the cause: see the log. {AGAIN}"),
    24: ("it used all processor time that this account allows", _LIMIT.format("ulimit -t; LimitCPU= of a service")),
    25: ("a file exceeds the largest size that this account allows", _FILE_SIZE),
    31: ("a filter forbids a system call that it made", f"See what it asked for in the builder's journal. {AGAIN}"),
}
_COMPILERS = {"rustc", "nvcc", "cicc", "ptxas", "cudafe++", "fatbinary", "cc1", "cc1plus", "gcc", "g++", "ld", "lld"}
_ENDED_BY = "Somebody or something else ended it: an account, a service manager, a limit of time. Then run again"

_ERROR = re.compile(r"error(\[E\d+\])?:")
_STARTS_ANEW = re.compile(
    r"(error|warning)(\[\w+\])?:|\s*(Compiling|Finished|Running|Building|Downloading|Downloaded|Updating|Fresh) "
    r"|Some errors have|For more information"
)
# Lines of compilers, git and the compile cache that stand apart from cargo's error, at times on another stream.
_ASIDE = re.compile(
    r"sccache: Compiler killed by signal 9\b|memory allocation of|(rustc-)?LLVM ERROR|Killed$|fatal( runtime error)?: "
)
_NEAR = 60
"""The most lines of other crates between the two."""

_CRATE = re.compile(
    r"(?:custom build command for|checksum of|could not compile|failed to get) `([\w-]+)(?: v([\w.+-]+))?"
    r"|^\s*([\w-]+)@([\w.+-]+) requires rustc|failed to download from `\S*/([\w-]+)/(\d[\w.+-]*)/download`"
)
# Lines of build scripts and compilers that name an error.
_NAMES_ERROR = re.compile(
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


def explain(lines: Iterable[str], killed: int | None = None) -> Failure:
    """The failure that a build's output shows.

    ``killed`` is how many processes the kernel killed for lack of memory during the build; None if it does not count.
    """
    log = [line for line in lines if line.strip()]
    start = next((at for at, line in enumerate(log) if _ERROR.match(line)), None)
    if start is None:
        return _diagnosed("", log[-SHOWN:], killed)
    block = _essence(_block(log, start))
    aside: list[str] = []
    if block[0].startswith(("error: could not compile", "error: failed to")):
        aside = [line for line in log[max(0, start - _NEAR) :] if _ASIDE.match(line)]
    shown = [*dict.fromkeys(aside), *(line for line in block if line not in aside)]
    return _diagnosed(_crate(block, log), shown, killed)


def signalled(program: str, number: int, killed: int | None) -> tuple[str, str]:
    """The cause and the remedy where a signal ended a program; ``killed`` as in ``explain``."""
    what = f"{program or 'a program'} was ended by signal {signal_named(number)}"
    if number == signal.SIGKILL:
        if killed:
            processes = "a process" if killed == 1 else f"{killed} processes"
            return f"{what}: the kernel killed {processes} for lack of memory", _MEMORY
        if killed == 0:
            return f"{what}, and the kernel saw no lack of memory", _ENDED_BY
        return f"{what}; the kernel does not say why", f"dmesg may name it: after a lack of memory {_lower(_MEMORY)}"
    if number == signal.SIGSEGV and program in _COMPILERS:
        return f"{what}: the compiler itself crashed", _CRASH
    why, remedy = _SIGNALS.get(number, ("", _ENDED_BY))
    return f"{what}: {why}" if why else what, remedy


def first_error(lines: Iterable[str], limit: int = SHOWN) -> list[str]:
    """The lines of the first real error in a build's output."""
    return list(explain(lines).lines[:limit])


def _diagnosed(crate: str, lines: Sequence[str], killed: int | None) -> Failure:
    text = "\n".join(lines)
    shown = tuple(_short(line) for line in lines[:SHOWN])
    if found := _first(RESOURCES, text):
        return _failure(crate, shown, *found)
    if signalled_one := _signal(text):
        return Failure(crate, shown, *signalled(*signalled_one, killed))
    if found := _first(CAUSES, text):
        return _failure(crate, shown, *found, upstreams=not _SYSTEMS.search(text))
    # Weaker than a known cause: any program may end with such a status.
    if wrapped := _WRAPPED.search(text):
        return Failure(crate, shown, *signalled("", int(wrapped["shell"]) - 128, killed))
    sort = _first(_SORTS, text)
    assert sort
    return _failure(crate, shown, *sort, upstreams=not _SYSTEMS.search(text))


def _first(rows: Iterable[Cause], text: str) -> tuple[Cause, re.Match[str]] | None:
    tried = ((row, re.search(row.pattern, text, re.MULTILINE)) for row in rows)
    return next(((row, found) for row, found in tried if found), None)


def _failure(
    crate: str, shown: tuple[str, ...], row: Cause, found: re.Match[str], *, upstreams: bool = False
) -> Failure:
    names = {name: value for name, value in found.groupdict().items() if value}
    # Each alternative of a pattern has its own group; the match of one fills all names.
    names = dict.fromkeys(found.groupdict(), next(iter(names.values()), "")) | names
    return Failure(crate, shown, row.cause.format(**names), row.remedy.format(**names), row.upstreams and upstreams)


def _signal(text: str) -> tuple[str, int] | None:
    """The program that a signal ended ("" if it has no name), and the signal's number."""
    for pattern in _SIGNALLED:
        if found := pattern.search(text):
            groups = found.groupdict()
            words = (groups.get("command") or groups.get("program") or "").split()
            if len(words) > 1 and PurePosixPath(words[0]).name in ("sccache", "env", "sh", "nice"):
                words = words[1:]
            name = PurePosixPath(words[0]).name if words else ""
            number = int(groups.get("number") or _SHELL[groups["words"]])
            return "the build script" if name.startswith("build-script") else name, number
    return None


def _block(log: Sequence[str], start: int) -> list[str]:
    """The error that starts there, up to the next subject. A build script's own lines are indented."""
    end = start + 1
    while end < len(log) and not _STARTS_ANEW.match(log[end]):
        end += 1
    return list(log[start:end])


def _essence(block: Sequence[str]) -> list[str]:
    """The relevant lines of an error."""
    head, rest = block[0], [line for line in block[1:] if line.strip() != "Caused by:" and not _NOISE.match(line)]
    if "failed to run custom build command" not in head:
        return [head, *rest]
    kept: list[str] = []
    for at, line in enumerate(rest):
        # The source line is above the line of ``^``.
        pointed = any(_POINTS.match(near) for near in rest[at : at + 2])
        of_panic = at > 0 and " panicked at " in rest[at - 1]
        if pointed or ((of_panic or _NAMES_ERROR.search(line)) and line not in kept):
            kept.append(line.replace("cargo:warning=", ""))
    return [head, *(kept or rest[-SHOWN:])]


def _crate(block: Sequence[str], log: Sequence[str]) -> str:
    """The crate that an error names, else the first one that cargo reports as failed."""
    found = next((found for line in (*block, *log) if (found := _CRATE.search(line))), None)
    name, version = [*(value for value in found.groups() if value), ""][:2] if found else ("", "")
    compiling = re.compile(rf"\s*Compiling {re.escape(name)} v(\S+)") if name and not version else None
    for line in log if compiling else ():
        if compiling and (begun := compiling.match(line)):
            version = begun[1]
    return f"{name} {version}".strip()


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _short(line: str) -> str:
    if len(line) <= WIDTH:
        return line
    return f"{line[: WIDTH // 2]} … {line[-WIDTH // 2 :]}"
