"""Taking over what a build left, after its sandbox has ended: nothing of it is trusted.

Rules:

1. Only two files are read: regular ones with one name, opened without following a link and without waiting for a fifo,
   up to a size.
2. The numbers and texts of ``result.json`` are for display. A wrong type, a number beyond all measure and a control
   character are refused or removed here, so that no reader needs to care.
3. The companions of the binary come from the commit, not from the build, and no link of the commit is followed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..base.companions import LARGEST_BINARY, LARGEST_COMPANION, LICENCE, MOST_TEMPLATES, TEMPLATE_NAME, TEMPLATES
from ..base.errors import PipelineError
from ..base.git import git
from .inside import BINARY, RESULT, Result

LARGEST_RESULT = 16 << 20

_LONGEST = 1000
_MOST = 1 << 53
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_REGULAR = re.compile(r"100(?:644|755) blob [0-9a-f]{40,64} +(\d+)\t(.+)", re.DOTALL)


def take_result(output: Path) -> Result:
    """The result that a build left in its folder ``output``."""
    with _opened(output, RESULT, LARGEST_RESULT) as stream:
        data = stream.read(LARGEST_RESULT)
    try:
        return Result.from_dict(plain(json.loads(data, parse_constant=_refuse)))
    except (PipelineError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _refused(output / RESULT, f"is no result of a build: {last(error)}") from error


def take_binary(output: Path, destination: Path) -> None:
    """Move the binary to ``destination``, on the same file system, with the mode 0755."""
    with _opened(output, BINARY, LARGEST_BINARY) as stream:
        os.fchmod(stream.fileno(), 0o755)
        (output / BINARY).rename(destination)


def take_companions(checkout: Path, commit: str, folder: Path) -> None:
    """Copy the regular files of the companions from the checkout, which is at ``commit``; links are left out."""
    rows = git("ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", LICENCE, TEMPLATES, repository=checkout)
    taken = 0
    for row in rows.split("\0"):
        found = _REGULAR.fullmatch(row)
        if not found:
            continue
        size, path = int(found[1]), Path(found[2])
        if size > LARGEST_COMPANION or not (found[2] == LICENCE or TEMPLATE_NAME.fullmatch(found[2])):
            raise PipelineError(
                f"upstream's file {found[2]!r} cannot be packaged: {size} bytes", commit, "Report it upstream"
            )
        taken += 1
        if taken > MOST_TEMPLATES + 1:
            raise PipelineError(f"upstream has more than {MOST_TEMPLATES} templates", commit, "Report it upstream")
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / path, place, follow_symlinks=False)


def plain(data: Any) -> Any:
    """Data of JSON without control characters, and with numbers that any arithmetic bears. Raises ValueError."""
    if isinstance(data, str):
        return _CONTROL.sub("?", data[:_LONGEST])
    if isinstance(data, list):
        return [plain(item) for item in data]
    if isinstance(data, dict):
        return {plain(key): plain(value) for key, value in data.items()}
    if isinstance(data, int | float) and not (math.isfinite(data) and 0 <= data <= _MOST):
        raise ValueError("a number is out of range")
    return data


def last(error: Exception) -> str:
    """The error's text, short enough for a message: it may quote the build's own data."""
    return _CONTROL.sub("?", str(error) or type(error).__name__)[:200]


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


@contextmanager
def _opened(folder: Path, name: str, largest: int) -> Iterator[IO[bytes]]:
    try:
        number = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(folder / name, f"cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _refused(folder / name, "is no plain file with one name")
        if found.st_size > largest:
            raise _refused(folder / name, f"has {found.st_size} bytes, more than {largest}")
        with os.fdopen(number, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(number)


def _refused(path: Path, reason: str) -> PipelineError:
    return PipelineError(
        f"the output of the build is refused: {path.name} {reason}",
        str(path.parent),
        "Something in upstream's code or its crates tampers with the build: read the log, report the commit",
    )
