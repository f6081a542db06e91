"""The nvcc that build scripts call: each compile uses the compile cache, and memory limits how many run at once.

It runs as a program of its own (standard library only) from ``<root>/toolchain/nvcc-<version>/bin/nvcc``, beside links
to the real toolkit: build scripts search headers and libraries beside their nvcc.

1. ``--ptx --output-directory D a.cu b.cu`` becomes one call per file with its own ``-o``: sccache caches no call with
   several inputs, nor one without a named output.
2. A call that compiles nothing (``--version``, ``--lib``) executes the real nvcc.
3. A compile takes a slot: a file of a folder that is locked while it runs. Build scripts run side by side, and each
   would start any number of compiles.
4. Each compile adds a line to the log of calls.
5. The same source gives the same bytes, whatever the folder, the process and the cache. Paths are mapped for the host
   compiler and for the front end, which derives the names of file-local symbols from the path; the names of nvcc's
   temporary files (which hold a process id, or sccache's names) are stripped from objects.

Environment: MISTRALRS_RPM_SCCACHE (the program; without it nvcc runs directly), MISTRALRS_RPM_NVCC_SLOTS (folder),
MISTRALRS_RPM_NVCC_LOG (file), MISTRALRS_RPM_PREFIX_MAP (the host compiler's -ffile-prefix-map: OLD=NEW).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SOURCES = (".cu", ".c", ".cc", ".cpp", ".cxx")
_PTX = ("--ptx", "-ptx")
_OBJECT = ("-c", "--compile", "-dc", "--device-c")
_FOLDERS = ("-I", "--include-path=", "-isystem=", "--system-include=")
_FOLDERS_FOLLOW = ("-I", "--include-path", "-isystem", "--system-include")
_TOOLKIT = "/cuda"
_TAKE_A_VALUE = (
    "-o", "--output-file", "-odir", "--output-directory", "-ccbin", "--compiler-bindir",
    "-Xcompiler", "--compiler-options", "-Xptxas", "--ptxas-options", "-Xcudafe", "-Xlinker", "-Xnvlink", "-Xarchive",
    "-Xfatbin", "-Xnvvm",
    "-I", "--include-path", "-isystem", "--system-include", "-include", "--pre-include", "-D", "-U", "-L", "-l", "-std",
    "-O", "-x", "--x", "-gencode", "--generate-code", "-arch", "--gpu-architecture", "-code", "--gpu-code", "-m",
    "-default-stream", "--default-stream", "-t", "--threads", "-split-compile", "--split-compile", "-maxrregcount",
    "--maxrregcount", "-MF", "-MT", "-diag-suppress", "--diag-suppress", "-Werror", "--Werror", "-ftz", "-prec-div",
    "-prec-sqrt", "-fmad", "-opt-info",
)  # fmt: skip


def sources(words: Sequence[str]) -> list[int]:
    """The positions of the inputs among nvcc's words."""
    found, skip = [], False
    for at, word in enumerate(words):
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _TAKE_A_VALUE
        elif word.endswith(_SOURCES):
            found.append(at)
    return found


def split(words: Sequence[str]) -> list[list[str]]:
    """One call for each input of ``--ptx``; any other call alone."""
    inputs = sources(words)
    if not inputs or not any(word in _PTX for word in words):
        return [list(words)]
    rest, folder, names_output, skip = [], "", False, ""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if skip:
            folder, skip = word, ""
        elif name in ("-odir", "--output-directory"):
            folder, skip = value, "" if equals else "next"
        elif at not in inputs:
            rest.append(word)
            names_output = names_output or name in ("-o", "--output-file")
    if names_output:
        return [list(words)]
    return [[*rest, "-o", str(Path(folder, Path(words[at]).stem + ".ptx")), words[at]] for at in inputs]


def _slot(folder: str) -> int:
    """Wait for a free file of the folder and lock it. The lock ends with this process."""
    slots = sorted(Path(folder).iterdir())
    while True:
        for slot in slots:
            handle = os.open(slot, os.O_RDWR)
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            os.close(handle)
        time.sleep(0.05)


def mapped(words: Sequence[str], prefix: str, nvcc: str) -> list[str]:
    """The words that keep paths out of the output; ``prefix`` is "OLD=NEW", or "" to map nothing.

    The host compiler applies the last mapping that matches. The front end accepts one path: a call with several inputs
    has none.
    """
    old, _, new = prefix.partition("=")
    inputs = sources(words)
    if not old or not inputs:
        return []
    toolkit = str(Path(nvcc).parent.parent)
    maps = [f"-ffile-prefix-map={prefix}", f"-ffile-prefix-map={toolkit}={_TOOLKIT}"]
    options = [word for option in maps for word in ("-Xcompiler", option)]
    path = Path(words[inputs[0]]).absolute()
    if len(inputs) == 1 and path.is_relative_to(old):
        options += ["-Xcudafe", f"--orig_src_path_name={new}/{path.relative_to(old)}"]
    return options


def absolute(words: Sequence[str]) -> list[str]:
    """The same call with absolute inputs and header folders: sccache passes absolute inputs, which __FILE__ shows."""
    result, inputs, folder_follows = [], set(sources(words)), False
    for at, word in enumerate(words):
        name = next((name for name in _FOLDERS if word.startswith(name)), "")
        if at in inputs or folder_follows:
            result.append(str(Path(word).absolute()))
        elif name and word != name:
            result.append(name + str(Path(word.removeprefix(name)).absolute()))
        else:
            result.append(word)
        folder_follows = word in _FOLDERS_FOLLOW
    return result


def object_of(words: Sequence[str]) -> str:
    """The object file that a call names as its output, or ""."""
    if not any(word in _OBJECT for word in words):
        return ""
    for at, word in enumerate(words[:-1]):
        if word in ("-o", "--output-file"):
            return words[at + 1]
    return next((word.partition("=")[2] for word in words if word.startswith(("-o=", "--output-file="))), "")


def _compile(nvcc: str, words: list[str], environ: Mapping[str, str]) -> int:
    cache, prefix = environ.get("MISTRALRS_RPM_SCCACHE", ""), environ.get("MISTRALRS_RPM_PREFIX_MAP", "")
    words = absolute(words)
    began = time.monotonic()
    status = subprocess.call([*([cache] if cache else []), nvcc, *mapped(words, prefix, nvcc), *words])  # noqa: S603
    if status == 0 and (output := object_of(words)):
        # Symbols of files, and of the functions that run a file's constructors.
        status = subprocess.call(["objcopy", "--wildcard", "--strip-symbol=*.cudafe1.cpp", output])  # noqa: S603
    log = environ.get("MISTRALRS_RPM_NVCC_LOG", "")
    if log:
        entry = {
            "source": str(Path(words[sources(words)[-1]]).absolute()), "began": round(began, 2),
            "seconds": round(time.monotonic() - began, 2), "status": status, "ptx": any(word in _PTX for word in words),
        }  # fmt: skip
        # One short write per line: lines of several processes do not mix.
        with Path(log).open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
    return status


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    nvcc = str((Path(argv[0]).absolute().parent.parent / "real" / "bin" / "nvcc").resolve())
    words = list(argv[1:])
    if not sources(words):
        os.execv(nvcc, [nvcc, *words])  # noqa: S606
    slots = environ.get("MISTRALRS_RPM_NVCC_SLOTS", "")
    held = _slot(slots) if slots else None
    try:
        return next((status for call in split(words) if (status := _compile(nvcc, call, environ))), 0)
    finally:
        if held is not None:
            os.close(held)


if __name__ == "__main__":
    sys.exit(main(sys.argv, os.environ))
