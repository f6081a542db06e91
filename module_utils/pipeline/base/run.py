"""Run other programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .environment import UMASK, environment
from .errors import PipelineError
from .text import ended, last_words

NO_SPACE = re.compile(
    r"[Nn]o space left|os error 28\b|ENOSPC|StorageFull|[Nn]ot enough (?:free )?disk space|[Dd]isk (?:is )?full"
    r"|[Ff]ile ?system (?:is )?full|[Dd]isk quota exceeded|os error 122\b|QuotaExceeded"
)
"""How the kernel, Rust, rpm's database and quotas say that a disk is full."""


def temporary_files() -> str:
    """Where temporary files lie, as a remedy: that disk may be the full one, whatever file an error names."""
    folder, free = tempfile.gettempdir(), ""
    with suppress(OSError):
        free = f", which has {shutil.disk_usage(folder).free >> 20} MiB free"
    where = f"Temporary files lie in {folder}{free}: TMPDIR names a folder on another disk"
    return f"Free space there, then run again. {where}"


class DiskFull(PipelineError):
    """Something on this host failed for lack of space. What that failure usually means is not the cause."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where, temporary_files())


class CommandFailed(PipelineError):
    """A program ended with an unexpected status; ``stdout`` and ``stderr`` hold its output."""

    def __init__(self, argv: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(
            what=f"{Path(argv[0]).name} ended with {ended(status)}: {last_words(stderr.strip() or stdout, lines=5)}",
            where=" ".join(argv),
        )


class ProgramMissing(PipelineError):
    """A program is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(
            what=f"the program {program} is not installed",
            where=f"PATH={os.environ.get('PATH', '')}",
            remedy="Install it; bindep.txt names the package for Debian and for Fedora",
        )


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    accept: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output as text.

    Its variables are those of ``environment(env, keep=keep)``; secrets never belong in ``argv``. ``timeout`` is in
    seconds.

    Raises CommandFailed for a status not in ``accept``, ProgramMissing, and PipelineError after the timeout.
    """
    words = [str(word) for word in argv]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(  # noqa: S603  argv is a list; there is no shell
            words,
            cwd=cwd,
            env=environment(env, keep=keep),
            umask=UMASK,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise PipelineError("the working directory does not exist", str(cwd)) from error
        raise ProgramMissing(words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"{Path(words[0]).name} did not end within {timeout:g} s", " ".join(words)) from error
    stdout, stderr = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode not in accept:
        raise CommandFailed(words, done.returncode, stdout, stderr)
    return subprocess.CompletedProcess(words, done.returncode, stdout, stderr)
