"""Read a binary and run it: the facts that the audit judges.

The program runs with an empty environment and home and without a network: for its version, for its report of its build,
and on an emulated processor. There only a signal is a fault; an error that the program reports itself is none.
"""

from __future__ import annotations

import json
import mmap
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.run import CommandFailed, run

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

_PTX = re.compile(rb"\n\.target (sm_\w+)")
_FLASH_ATTENTION = b"flash_fwd"
_CUBIN = re.compile(r"\.(sm_\w+)\.cubin")
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


def read_binary(path: Path, cuobjdump: str = "", root: Path | None = None) -> Binary:
    """Read a binary. cuobjdump, a program of the CUDA toolkit, lists the SASS."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ptx = frozenset(match[1].decode() for match in _PTX.finditer(data))
        flash_attention = data.find(_FLASH_ATTENTION) >= 0
        leaks = len(re.findall(re.escape(bytes(root)) + rb"[/\0]", data)) if root else 0
    output = run(["readelf", "--file-header", "--program-headers", "--dynamic", "--notes", "--wide", path]).stdout
    dynamic = _DYNAMIC.findall(output)
    return Binary(
        ptx=ptx,
        sass=list_sass(path, cuobjdump),
        needed=frozenset(name for kind, name in dynamic if kind == "NEEDED"),
        paths=frozenset(name for kind, name in dynamic if kind != "NEEDED"),
        weak=weaknesses(output),
        isa=frozenset(name for line in _ISA.findall(output) for name in line.split(", ")),
        flash_attention=flash_attention,
        leaks=leaks,
    )


def list_sass(path: Path, cuobjdump: str) -> frozenset[str]:
    """The architectures of the embedded SASS; none if ``cuobjdump`` is empty, for a flavour without CUDA."""
    if not cuobjdump:
        return frozenset()
    # For a file without SASS its status is 255 and it prints "does not contain device code".
    done = run([cuobjdump, "--list-elf", path], accept=(0, 255))
    if done.returncode and "does not contain device code" not in done.stdout + done.stderr:
        raise CommandFailed([cuobjdump, "--list-elf", str(path)], done.returncode, done.stdout, done.stderr)
    return frozenset(_CUBIN.findall(done.stdout))


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


def run_trial(path: Path, library_path: Sequence[str], level: str) -> TrialRun:
    """Run the program with an empty environment and home, and without a network."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-audit-") as name:
        home = Path(name)
        (home / "audit.toml").write_text(_CONFIGURATION)
        program = _Program(path, tuple(library_path), home)
        return TrialRun(program.version(), program.build(), program.fault(level))


@dataclass(frozen=True)
class _Program:
    path: Path
    library_path: tuple[str, ...]
    home: Path

    def version(self) -> str:
        try:
            return self._run("--version")
        except PipelineError as error:
            return f"does not start: {error.what}"

    def build(self) -> dict[str, Any]:
        """``system.build`` of the program's doctor; {} for a version without it."""
        try:
            build = json.loads(self._run("doctor", "--json"))["system"]["build"]
        except (PipelineError, ValueError, KeyError, TypeError):
            return {}
        return build if isinstance(build, dict) else {}

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
            if error.status < 0:
                name = signal.Signals(-error.status).name
                return f"{arguments[0]} ends with {name.replace('SIGILL', 'an illegal instruction')}"
            return f"{arguments[0]} fails: {error.stderr.strip()[-200:]}" if arguments == TRIES[0] else ""
        except PipelineError as error:
            return f"{arguments[0]}: {error.what}"
        return ""

    def _run(self, *arguments: str, before: Sequence[str] = ()) -> str:
        environment = {
            "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": ":".join(self.library_path), "HOME": str(self.home),
            "HF_ENDPOINT": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "HTTP_PROXY": _NOWHERE,
        }  # fmt: skip
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *before, str(self.path)]
        return run([*words, *arguments], timeout=60, cwd=self.home).stdout.strip()
