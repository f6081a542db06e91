"""Read a binary and run it: the facts that the audit judges. The binary is hostile until proved otherwise.

Rules:

1. It runs in a sandbox, with an empty environment and home and without a network: for its version, for its report of
   its build, and on an emulated processor. There only a signal is a fault; an error that the program reports itself is
   none.
2. Programs that parse it (readelf, cuobjdump) run in a sandbox too. This process only searches its bytes.
3. Each run ends after a time and a number of bytes printed (``Sandbox.run``), and leaves nothing. Texts of the binary
   are cut, and without control characters.
4. The binary is a regular file; a link or a fifo is refused.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.run import CommandFailed
from ..base.sandbox import HOME, Sandbox, outside_the_system
from ..base.text import shown

PROCESSORS = {
    "x86-64": "qemu64,-sse3,-cx16,-lahf-lm",
    "x86-64-v2": "Nehalem",
    "x86-64-v3": "Haswell",
}
"""qemu-user's processor of each level. It emulates no AVX-512."""

TRIES: tuple[tuple[str, ...], ...] = (("--version",), ("--help",), ("from-config", "--file", "audit.toml"))
# Upstream loads the model before it listens, its stand-in does not load it: both fail at once, without traffic beyond
# this machine. 192.0.2.1 is an address that no host has (RFC 5737).
_CONFIGURATION = """\
command = "serve"
[server]
host = "192.0.2.1"
port = 1
[[models]]
kind = "auto"
model_id = "mistralrs-rpm/audit"
"""
_NOWHERE = "http://127.0.0.1:9"

_SECONDS, _SECONDS_TO_READ = 60, 600
_MOST = 100
"""Names of one kind that are read: a binary could hold millions."""

_PTX = re.compile(rb"\n\.target (sm_\w{1,20})")
_FLASH_ATTENTION = b"flash_fwd"
_CUBIN = re.compile(r"\.(sm_\w{1,20})\.cubin")
_DYNAMIC = re.compile(r"\((NEEDED|RPATH|RUNPATH)\)[^\[]*\[(.*)\]")
_ISA = re.compile(r"x86 ISA needed: (.+)")


@dataclass(frozen=True)
class Binary:
    """The content of a binary. ``weak`` lists the protections that it lacks, ``leaks`` counts paths of the builder."""

    ptx: frozenset[str]
    sass: frozenset[str]
    needed: frozenset[str]
    paths: frozenset[str]
    weak: frozenset[str] = frozenset()
    isa: frozenset[str] = frozenset()
    flash_attention: bool = False
    leaks: int = 0


@dataclass(frozen=True)
class TrialRun:
    """The result of running the program.

    ``version`` is the output of ``--version``, or the reason for none; ``build`` is ``system.build`` of
    ``doctor --json``, or empty; ``fault`` is the error on the emulated baseline, "" for none, None if not tried.
    """

    version: str
    build: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


def read_binary(path: Path, cuobjdump: str = "", root: Path | None = None, *, protected: bool = True) -> Binary:
    """Read a binary. cuobjdump, a program of the CUDA toolkit, lists the SASS."""
    with os.fdopen(_opened(path), "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ptx = _names(match[1].decode() for match in _PTX.finditer(data))
        flash_attention = data.find(_FLASH_ATTENTION) >= 0
        leak = re.compile(re.escape(bytes(root)) + rb"[/\0]") if root else None
        leaks = sum(1 for _ in leak.finditer(data)) if leak else 0
    words: list[str | Path] = ["readelf", "--file-header", "--program-headers", "--dynamic", "--notes", "--wide", path]
    output = Sandbox(readable=[path], protected=protected).run(words, timeout=_SECONDS_TO_READ).stdout
    dynamic = _DYNAMIC.findall(output)
    return Binary(
        ptx=ptx,
        sass=list_sass(path, cuobjdump, protected=protected),
        needed=_names(name for kind, name in dynamic if kind == "NEEDED"),
        paths=_names(name for kind, name in dynamic if kind != "NEEDED"),
        weak=weaknesses(output),
        isa=_names(name for line in _ISA.findall(output) for name in line.split(", ")),
        flash_attention=flash_attention,
        leaks=leaks,
    )


def _opened(path: Path) -> int:
    """A descriptor of a regular file; PipelineError for anything else. It waits for nothing and follows no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PipelineError(f"the binary cannot be read: {error.strerror}", str(path), _AGAIN) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        os.close(descriptor)
        raise PipelineError("the binary is no file, or empty", str(path), _AGAIN)
    return descriptor


_AGAIN = "Delete its folder on the builder and build again"


def _names(found: Iterable[str]) -> frozenset[str]:
    """At most ``_MOST`` different names, fit to be shown."""
    names: set[str] = set()
    for name in found:
        names.add(shown(name))
        if len(names) == _MOST:
            break
    return frozenset(names)


def list_sass(path: Path, cuobjdump: str, *, protected: bool = True) -> frozenset[str]:
    """The architectures of the embedded SASS; none if ``cuobjdump`` is empty, for a flavour without CUDA."""
    if not cuobjdump:
        return frozenset()
    sandbox = Sandbox(readable=[path, *outside_the_system([Path(cuobjdump).parents[1]])], protected=protected)
    # For a file without SASS its status is 255 and it prints "does not contain device code".
    done = sandbox.run([cuobjdump, "--list-elf", path], timeout=_SECONDS_TO_READ, accept=(0, 255))
    if done.returncode and "does not contain device code" not in done.stdout + done.stderr:
        raise CommandFailed([cuobjdump, "--list-elf", str(path)], done.returncode, done.stdout, done.stderr)
    return _names(match[1] for match in _CUBIN.finditer(done.stdout))


def weaknesses(output: str) -> frozenset[str]:
    """The protections that a binary lacks, from ``readelf --file-header --program-headers --dynamic --wide``."""
    headers = re.findall(r"^  (\w+) +(?:0x\w+ ){5}([RWE ]{3})", output, re.MULTILINE)
    segments = dict(headers)
    flags = set(" ".join(re.findall(r"\(FLAGS(?:_1)?\) +(?:Flags: )?(.*)", output)).split())
    pie = re.search(r"^ +Type: +DYN", output, re.MULTILINE) and "PIE" in flags
    now = flags & {"NOW", "BIND_NOW"} or "(BIND_NOW)" in output
    found = {
        "no PIE": not pie,
        "no RELRO": "GNU_RELRO" not in segments,
        "lazy binding (partial RELRO)": not now,
        "executable stack": "E" in segments.get("GNU_STACK", "E"),
        "segment both writable and executable": any(
            name == "LOAD" and {"W", "E"} <= set(flag) for name, flag in headers
        ),
        "TEXTREL": "TEXTREL" in flags or "(TEXTREL)" in output,
    }
    return frozenset(name for name, bad in found.items() if bad)


def run_trial(path: Path, library_path: Sequence[str], level: str, *, protected: bool = True) -> TrialRun:
    """Run the program with an empty environment and home, and without a network."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-audit-") as name:
        configuration = Path(name, "audit.toml")
        configuration.write_text(_CONFIGURATION)
        program = _Program(path, tuple(library_path), configuration, protected)
        return TrialRun(program.version(), program.build(), program.fault(level))


def plain(build: object) -> dict[str, Any]:
    """The part of a program's report that has known types: flags, texts and lists of texts."""
    found: dict[str, Any] = {}
    for name, value in list(build.items())[:_MOST] if isinstance(build, dict) else ():
        if isinstance(value, bool):
            found[shown(name)] = value
        elif isinstance(value, str):
            found[shown(name)] = shown(value)
        elif isinstance(value, list):
            found[shown(name)] = [shown(text) for text in value[:_MOST] if isinstance(text, str)]
    return found


def signal_of(status: int) -> str:
    """The signal that ended a program with this status, or "". A sandbox reports it as a shell does, above 128."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


@dataclass(frozen=True)
class _Program:
    path: Path
    library_path: tuple[str, ...]
    configuration: Path
    protected: bool

    def version(self) -> str:
        try:
            return shown(self._run("--version"))
        except PipelineError as error:
            return f"does not start: {shown(error.what, 500)}"

    def build(self) -> dict[str, Any]:
        """``system.build`` of the program's doctor; {} for a version without it."""
        try:
            return plain(json.loads(self._run("doctor", "--json"))["system"]["build"])
        except (PipelineError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def fault(self, level: str) -> str | None:
        """The signal that ends the program on the emulated processor, or ""; None if no emulator runs."""
        emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
        if emulator is None or level not in PROCESSORS:
            return None
        words = [emulator, "-cpu", PROCESSORS[level]]
        with ThreadPoolExecutor() as pool:
            faults = pool.map(lambda arguments: self._fault_of(arguments, words), TRIES)
        return next((fault for fault in faults if fault), "")

    def _fault_of(self, arguments: Sequence[str], before: Sequence[str]) -> str:
        try:
            self._run(*arguments, before=before)
        except CommandFailed as error:
            if name := signal_of(error.status):
                return f"{arguments[0]} ends with {name.replace('SIGILL', 'an illegal instruction')}"
            return f"{arguments[0]} fails: {shown(error.stderr.strip()[-200:])}" if arguments == TRIES[0] else ""
        except PipelineError as error:
            return f"{arguments[0]}: {shown(error.what)}"
        return ""

    def _run(self, *arguments: str, before: Sequence[str] = ()) -> str:
        home = HOME if self.protected else self.configuration.parent
        sandbox = Sandbox(
            readable=[self.path, *outside_the_system(self.library_path)],
            places={HOME / self.configuration.name: self.configuration},
            environment={
                "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": ":".join(self.library_path), "HOME": str(home),
                "HF_ENDPOINT": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "HTTP_PROXY": _NOWHERE,
            },
            cwd=home,
            protected=self.protected,
        )  # fmt: skip
        return sandbox.run([*before, self.path, *arguments], timeout=_SECONDS).stdout.strip()
