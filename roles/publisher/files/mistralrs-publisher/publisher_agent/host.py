"""The configuration, and where everything of a channel is on disk.

State is below ``<root>/.publisher/<channel>/``: lock, staged/, journal (one JSON line a publication), unnamed
(since when no snapshot names a file), incoming/<transaction>/, slots/ (a lock for each upload of a key); while a
command runs also examined/<transaction>/ (the agent's copy of an upload), staging/ and trash/.
``<root>/.publisher/log`` has one JSON line a command. All of it is on the file system of the repositories and
never served (mode 0700).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .command import CHANNEL, SNAPSHOT
from .disk import json_lines, make_folder, paths_in
from .refusal import Refused, UsageError

STATE_FOLDERS = ("incoming", "staged", "examined", "slots")
SPACE_MIB = {"reserve_mib": 1024, "incoming_mib": 20480}  # defaults


class ChannelRow(NamedTuple):
    """A channel in the configuration: its path below the root, and what pruning keeps."""

    path: str
    snapshots: int = 50
    days: int = 180
    grace_hours: int = 48

    def valid(self) -> bool:
        kept = (self.snapshots, self.days, self.grace_hours)
        return bool(
            re.fullmatch(r"[\w.-]+(/[\w.-]+)*", self.path)
            and ".." not in self.path.split("/")
            and all(type(number) is int and number >= 0 for number in kept)
            and self.snapshots
        )


class Config(NamedTuple):
    """The file that --config names, with the sizes in bytes."""

    root: Path  # absolute
    base_url: str
    key: Path
    channels: Mapping[str, ChannelRow]
    reserve: int  # bytes that an upload leaves free on the disk
    incoming: int  # bytes that all uploads of a channel may hold
    caller: str = ""  # --as: the name of the caller's key; not in the file
    remote: bool = False  # called over ssh; not in the file

    @classmethod
    def read(cls, path: Path) -> Config:
        remedy = "Run the role publisher again; it writes this file"
        try:
            data = json.loads(path.read_text())
            rows = {name: ChannelRow(**row) for name, row in data["channels"].items()}
            invalid = [name for name, row in rows.items() if not re.fullmatch(CHANNEL, name) or not row.valid()]
            reserve, incoming = (int(data.get(key, default)) << 20 for key, default in SPACE_MIB.items())
            config = cls(Path(data["root"]), data["base_url"].rstrip("/"), Path(data["key"]), rows, reserve, incoming)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise Refused(f"the configuration cannot be read: {error!r}", path, remedy) from error
        if invalid or not config.root.is_absolute():
            raise Refused(f"the configuration has an invalid root or channel {invalid}", path, remedy)
        return config

    def channel(self, name: str, only: Iterable[str] = ()) -> Channel:
        """The channel of that name. ``only`` limits the caller's key to these channels; empty: all."""
        allowed = [known for known in self.channels if known in only or not only]
        if name not in allowed:
            raise UsageError(f"there is no channel {name} for this key", self.root, f"There are: {', '.join(allowed)}")
        return Channel(name, self, self.root / self.channels[name].path, self.root / ".publisher" / name)


class Channel(NamedTuple):
    """``folder`` is what clients reach, ``state`` the agent's own."""

    name: str
    config: Config
    folder: Path
    state: Path

    @property
    def row(self) -> ChannelRow:
        return self.config.channels[self.name]

    @property
    def pool(self) -> Path:
        return self.folder / "Packages"

    def snapshot(self, snapshot: str) -> Path:
        return self.folder / "snapshots" / snapshot

    def snapshots(self) -> dict[str, Path]:
        """Every snapshot on disk, published or staged, oldest first."""
        folder = self.folder / "snapshots"
        return {path.name: path for path in paths_in(folder) if re.fullmatch(SNAPSHOT, path.name)}

    def make_state(self) -> None:
        """Make the state folders, closed to every other account."""
        for folder in (self.state.parent, self.state, *(self.state / name for name in STATE_FOLDERS)):
            make_folder(folder, 0o700)
        (self.state / "lock").touch(0o600)

    def incoming(self, transaction: str) -> Path:
        return self.state / "incoming" / transaction

    def examined(self, transaction: str) -> Path:
        return self.state / "examined" / transaction

    def check_folders(self) -> None:
        """Refuse a folder that this account replaced by a link: it would lead the agent, or root, elsewhere."""
        for path in (self.pool, self.folder / "snapshots", *(self.state / name for name in STATE_FOLDERS)):
            for folder in (path, *path.parents):
                if folder == self.config.root:
                    break
                if folder.is_symlink() and folder.lstat().st_uid == os.geteuid():
                    raise Refused("a folder of the channel is a link", folder, "Remove the link; find out who made it")

    def url(self, snapshot: str) -> str:
        return f"{self.config.base_url}/{self.row.path}/snapshots/{snapshot}/"

    def journal(self, last: int = 0) -> list[dict[str, Any]]:
        """The ``last`` publications (0: all), oldest first."""
        return json_lines(self.state / "journal", last)

    def head(self) -> str:
        """The id of the published snapshot, or "" if the channel never had one."""
        mirrorlist = self.folder / "mirrorlist"
        try:
            text = mirrorlist.read_text()
        except FileNotFoundError:
            text = ""
            if not self.journal(1):
                return ""
        if found := re.fullmatch(rf"\S+/snapshots/({SNAPSHOT})/\n", text):
            return found[1]
        raise Refused(
            "the mirrorlist names no snapshot",
            mirrorlist,
            f"Restore it: one line, the URL of the last snapshot in {self.state}/journal",
        )


def caller_address() -> str:
    return (os.environ.get("SSH_CONNECTION") or "here").split()[0]
