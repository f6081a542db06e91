"""Text for a person that several rooms write in the same way: times, sizes, the end of an output, addresses."""

from __future__ import annotations

import re
import signal
import time

SNAPSHOT_ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
"""A snapshot's id: the UTC time of its composition, and the first digits of its metadata's digest."""

_GB = 10**9


def without_account(text: str) -> str:
    """A URL, or text with URLs, without the user names and passwords of the URLs."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def last_words(output: str, lines: int = 3) -> str:
    """The last lines of an output that are not empty, as one line: "a | b"; "no output" where there are none."""
    words = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(words[-lines:]) or "no output"


def ended(status: int) -> str:
    """How a program ended, by subprocess's status: "status 1", or "signal 9 (SIGKILL)"."""
    return f"status {status}" if status >= 0 else f"signal {signal_named(-status)}"


def signal_named(number: int) -> str:
    """A signal's number with its name: "9 (SIGKILL)"."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def shown(text: str, longest: int = 200) -> str:
    """Text of a hostile program as one line without control characters, which a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())[:longest]


def size(count: float) -> str:
    """Bytes in units of 1000: "0.2 MB", "1.3 GB"."""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / 10**6:.1f} MB"


def day(seconds: float) -> str:
    """The UTC day of a time since 1970: "2026-08-22"."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def moment(seconds: float) -> str:
    """The UTC day and time of a time since 1970: "2026-08-22 14:38:13"."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def ago(seconds: float) -> str:
    """A span of time in its largest unit: "5 min ago", "3 h ago", "12 days ago"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def clock(seconds: float) -> str:
    """Seconds as 3:10 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
