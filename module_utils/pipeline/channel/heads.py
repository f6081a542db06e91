"""What the signer knows: the last head of each repository, and all names that were ever yanked from it.

Who controls the repo host can serve an older signed snapshot, or none. The signer composes on the head that it is
given, so a yank would be lost. Therefore each reading of a head by the signer is compared with its memory.

Rules:

1. A head is the known one, with the same content, or descends from it: the chain of parents leads to the known head.
   Any other head is refused: an older, a rewritten, a forked one, none after one, or one that lacks a known yank. So
   is one that this signer staged and never published: it is signed, and its proof failed or never ended.
2. Without a memory the head is taken on trust, with a note. A memory that cannot be read is never taken for none.
3. A head of another channel, or dated in the future, is refused whatever is known.
4. The operator accepts one named head. Known yanks that it lacks are owed: no package of that name is published, and
   the next snapshot yanks them again.
5. The memory only moves forward, except by rule 4. It is recalled before the head is read: another run on this host may
   publish in between.
6. A kill between a publication and its record is harmless: the new head descends from the known one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record, Snapshot, digest_of
from ..base.text import SNAPSHOT_ID, moment
from ..sign.signer import Signer

NONE = Snapshot(id="", channel="", parent="", time=0, reason="")
"""The record of an empty repository's head."""
EMPTY = "empty"
"""How the operator accepts a repository without a head."""
STAGED = 100  # unpublished snapshots that are remembered
SKEW = 3600  # seconds that the clock of another signer may be ahead
RECIPE = "docs/operate.md, A head that the signer refuses"
RESTORE = "docs/operate.md, Back up and restore a repo host"

Ancestor = Callable[[str], Snapshot | None]
"""The verified record of a snapshot; None if the repository has no such snapshot."""


class HeadRefused(PipelineError):
    """The repository's head contradicts what the signer knows."""


@dataclass(frozen=True)
class KnownHead(Record):
    """The last head of the repository of ``channel`` at ``location``; ``head`` is "" for a known empty one.

    ``content`` is the digest of snapshot.json and repomd.xml. ``yanked`` is the head's own list; ``owed`` are the known
    yanks that an accepted head lacks. ``staged`` are the newest snapshots that were staged and not published.
    """

    channel: str
    location: str
    head: str
    time: int
    content: str
    yanked: tuple[str, ...] = ()
    owed: tuple[str, ...] = ()
    staged: tuple[str, ...] = ()


def content_of(record: Snapshot, repomd: str) -> str:
    """The digest of a snapshot's content, from its record and the SHA-256 of its repomd.xml."""
    return digest_of([record.to_dict(), repomd])


# Pure: what a head contradicts.


def foreign(record: Snapshot, channel: str, now: float) -> str:
    """Why a head is none of this channel at this time, whatever is known; "" if it may be one."""
    if record.id and record.channel != channel:
        return f"the head {record.id} is a snapshot of the channel {record.channel}, not {channel}"
    if record.time > now + SKEW:
        return f"the head {record.id} is dated in the future: {moment(record.time)} UTC, it is {moment(now)} UTC here"
    return ""


def contradiction(known: KnownHead, record: Snapshot, content: str, ancestor: Ancestor) -> str:
    """What contradicts ``known`` in a head with this content; "" if nothing does."""
    lost = sorted(set(known.yanked) - set(record.yanked))
    lacks = f"; it lacks known yanks: {', '.join(lost)}" if lost else ""
    if record.id == known.head:
        return (
            "" if content == known.content else f"the head {record.id} was rewritten: the known one has other content"
        )
    if record.id in known.staged:
        return f"the head {record.id} was staged by this signer, but never published"
    if not record.id:
        return f"the repository is empty, its known head is {shown(known)}"
    if record.time < known.time:
        return f"the head {record.id} is older than the known head, {shown(known)}{lacks}"
    if why := broken_chain(known, record, ancestor):
        return f"the head {record.id} does not descend from the known head, {shown(known)}: {why}{lacks}"
    return f"the head {record.id} is newer than the known head, {shown(known)}{lacks}" if lost else ""


def broken_chain(known: KnownHead, record: Snapshot, ancestor: Ancestor) -> str:
    """Where the chain of parents misses the known head; "" if it leads there. Anything descends from an empty one."""
    while known.head and record.parent != known.head:
        if not record.parent:
            return f"its chain begins with {record.id}"
        parent = ancestor(record.parent) if re.fullmatch(SNAPSHOT_ID, record.parent) else None
        if parent is None:
            return f"the repository has no snapshot {record.parent}, a parent of it"
        if not known.time < parent.time < record.time:
            return f"its parent {parent.id} is no snapshot after the known one"
        if parent.id in known.staged:
            return f"its parent {parent.id} was staged by this signer, but never published"
        record = parent
    return ""


def shown(known: KnownHead) -> str:
    return f"{known.head} of {moment(known.time)} UTC" if known.head else "none"


# Files.


def _ignore(_: str) -> None:
    """For callers that show no notes."""


@dataclass(frozen=True)
class Memory:
    """What the signer knows of one repository, in a file of mode 0600 below ``folder``.

    ``accepted`` are heads that the operator accepts, by id or EMPTY. ``note`` takes a sentence for the operator.
    Without ``keep`` (check mode) nothing is remembered.
    """

    folder: Path
    channel: str
    location: str
    accepted: tuple[str, ...] = ()
    note: Callable[[str], object] = _ignore
    keep: bool = True
    now: Callable[[], float] = field(default=time.time)

    @classmethod
    def of(
        cls,
        signer: Signer,
        channel: str,
        location: str,
        note: Callable[[str], object] = _ignore,
        *,
        keep: bool = True,
    ) -> Self:
        """The memory of a signer."""
        place = re.sub("(?<!:)//+", "/", location).rstrip("/")
        return cls(signer.root / "heads", channel, place, signer.accept_head, note, keep)

    @property
    def path(self) -> Path:
        """The file, named after the repository's place: channel, Fedora release, architecture and host."""
        return self.folder / f"{self.channel}-{digest_of([self.channel, self.location])[:16]}.json"

    def recall(self) -> KnownHead | None:
        """What is known; None without a memory. PipelineError for a file that this signer did not write."""
        try:
            known = KnownHead.from_dict(json.loads(self._read()))
            if (known.channel, known.location) != (self.channel, self.location):
                raise PipelineError(f"it is of {known.channel} at {known.location}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._damaged("it is a link" if error.errno == errno.ELOOP else str(error.strerror)) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(f"not JSON: {error}") from error
        except PipelineError as error:
            raise self._damaged(error.what) from error
        return known

    def compare(self, known: KnownHead | None, record: Snapshot, repomd: str, ancestor: Ancestor) -> tuple[str, ...]:
        """Compare a head with what was recalled before it was read, and remember it; returns the owed yanks.

        ``record`` and ``repomd`` (SHA-256) are the verified head's. HeadRefused for a contradiction.
        """
        if why := foreign(record, self.channel, self.now()):
            raise HeadRefused(why, self.location, f"Nothing was changed. Check the clocks and the site; see {RECIPE}")
        content, accepted = content_of(record, repomd), False
        if known is None and record.id:
            self.note(
                f"this signer has no memory of {self.channel} at {self.location}, and takes the head {record.id} of"
                f" {moment(record.time)} UTC with {len(record.yanked)} yanked packages on trust, once"
            )
        elif known and (why := contradiction(known, record, content, ancestor)):
            name = record.id or EMPTY
            if name not in self.accepted:
                right = (
                    "If the repo host was restored from a backup, or this head is right for another reason"
                    if record.id
                    else f"If it was lost, restore it: {RESTORE}. If it was deleted on purpose"
                )
                raise HeadRefused(
                    why,
                    self.location,
                    f"Nothing was changed. {right}, accept it once: -e accept_head={name}; see {RECIPE}",
                )
            self.note(f"accepted as the operator asks (accept_head): {why}")
            known, accepted = replace(known, owed=(*known.owed, *known.yanked)), True
        new = self._after(known, record, content)
        if new != known and (record.id or known):
            self._write(new, back=accepted)
        return new.owed

    def published(self, record: Snapshot, repomd: str) -> None:
        """Remember the head that this signer just published."""
        self._write(self._after(self.recall(), record, content_of(record, repomd)))

    def staged(self, snapshot: str) -> None:
        """Remember, before it leaves this host, that a snapshot is signed but must not become the head yet."""
        known = self.recall() or self._after(None, NONE, content_of(NONE, ""))  # it is staged on nothing
        others = [other for other in known.staged if other != snapshot]
        self._write(replace(known, staged=(*others, snapshot)[-STAGED:]))

    def publishing(self, snapshot: str) -> None:
        """Remember, before it is published, that a snapshot may be the head from now on."""
        known = self.recall()
        if known and snapshot in known.staged:
            self._write(replace(known, staged=tuple(other for other in known.staged if other != snapshot)))

    def _after(self, known: KnownHead | None, record: Snapshot, content: str) -> KnownHead:
        """What is known once this is the head."""
        new = KnownHead(self.channel, self.location, record.id, record.time, content, record.yanked)
        if known is None:
            return new
        owed = tuple(sorted(set(known.owed) - set(record.yanked)))
        return replace(new, owed=owed, staged=tuple(other for other in known.staged if other != record.id))

    def _write(self, new: KnownHead, *, back: bool = False) -> None:
        """Replace the file, whole or not at all; unless ``back``, only where no other run knows a later head by now."""
        if not self.keep:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with held(self.folder / ".lock"):
                if back or not (last := self.recall()) or last.time <= new.time:
                    self._replace(json.dumps(new.to_dict(), indent=1, sort_keys=True))
        except OSError as error:
            raise PipelineError(
                f"the signer's memory of {self.channel} cannot be written: {error.strerror}",
                str(self.path),
                "Fix it (disk space, owner and mode of the folder), then run again",
            ) from error

    def _replace(self, text: str) -> None:
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.path)

    def _read(self) -> str:
        """The text of the file, which must be this account's own, and no link."""
        with open(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as stream:  # noqa: PTH123
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
                raise PipelineError("it is no file that only this account can write")
            return stream.read()

    def _damaged(self, why: str) -> PipelineError:
        return HeadRefused(
            f"the signer's memory of {self.channel} cannot be used: {why}",
            str(self.path),
            "Nothing was changed. Restore the file from a backup of this host. Without one, delete it: the next run"
            f" takes the head on trust, and yanks that only this file has are lost; see {RECIPE}",
        )
