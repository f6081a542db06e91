"""The servers of a GPU host: from the operator's data to the files that their units read.

Rules:

1. An instance is a name, a model and a port. It becomes ``NAME.conf``, the TOML of ``mistralrs from-config``, and, if
   it has a token or variables, ``NAME.env``. Both belong to root with mode 0600; systemd reads them.
2. Every fault of the data is reported at once, before anything changes.
3. The first line of a file, its mark, names the role and the unit. Only files with a mark are replaced or removed; a
   file without one in the place of a wanted one is an error.
4. So the files alone record the previous state. An instance that is no longer wanted, or is wanted with another
   flavour, ``leaves``: first its unit stops, then its port is closed, then its files are removed. If a run is killed
   in between, the next one finds the files and continues.
5. A name has one owner: the unit of the alias ``mistralrs@NAME.service``. With a unit that leaves its alias is removed:
   systemd keeps the alias of a disabled instance (seen with 252 and 262), and then fails to enable another flavour
   under the same name. A unit of another flavour that is enabled under a wanted name leaves too, whoever enabled it.
6. A running instance restarts if a file of it is younger than its process.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..base.errors import PipelineError
from ..base.run import run

_T = TypeVar("_T")

VARIABLE = "mistralrs_instances"
MARK = "# Made by Ansible, role mistralrs, for {unit}; it is overwritten."
_MARK = re.compile(
    r"# Made by Ansible, role mistralrs, for (mistralrs-[a-z0-9]+@[^\s/;]+\.service); it is overwritten\."
)
UNIT_FOLDERS = tuple(map(Path, ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")))
DEFAULT_PORT = 1234
"""Upstream's default, for a whole configuration without a port."""

_FLAVOUR = re.compile(r"mistralrs-[a-z0-9]+(?=@)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Instance:
    """A wanted server. ``config`` and ``environment`` are the texts of its files; ``environment`` may be empty."""

    name: str
    unit: str
    host: str
    port: int
    config: str = field(repr=False)
    environment: str = field(repr=False)

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        return is_loopback(self.host)

    @property
    def health(self) -> str:
        """The URL that answers once the model is loaded."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/health"

    @property
    def files(self) -> dict[str, str]:
        """The texts of its files by name."""
        files = {f"{self.name}.conf": self.config}
        return files | {f"{self.name}.env": self.environment} if self.environment else files


@dataclass(frozen=True)
class FolderContent:
    """The content of the folder: the units of marked files by file name, and the texts of all files by name."""

    units: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class InstanceChanges:
    """Changes to make, in this order: stop the units that leave, close and open ports, remove and write files."""

    leaving: tuple[str, ...]
    closing: tuple[int, ...]
    opening: tuple[int, ...]
    remove: tuple[str, ...]
    write: Mapping[str, str] = field(repr=False)


# ---------------------------------------------------------------- decisions


def read_instances(rows: Sequence[Mapping[str, Any]], flavour: str) -> tuple[Instance, ...]:
    """The instances of the data; PipelineError lists every fault of the data."""
    wrong: list[str] = []
    found = [_instance(row, flavour, wrong) for row in rows]
    names = [str(row.get("name")) for row in rows]
    wrong += [f"{name}: the name occurs {names.count(name)} times" for name in _repeated(names)]
    made = [instance for instance in found if instance]
    for port in _repeated([instance.port for instance in made]):
        users = " and ".join(instance.name for instance in made if instance.port == port)
        wrong.append(f"{users}: both have port {port}")
    if wrong:
        raise PipelineError("; ".join(wrong), VARIABLE, "Nothing was changed")
    return tuple(made)


def _instance(row: Mapping[str, Any], flavour: str, wrong: list[str]) -> Instance | None:
    """The instance of one row, or None; its faults are appended to ``wrong``."""
    before = len(wrong)
    name = str(row.get("name") or "")
    label = name or "an instance without a name"
    if not _NAME.fullmatch(name):
        wrong.append(
            f"{label}: a name has lower-case letters, digits, '_', '.' and '-', and begins with a letter or digit"
        )
    settings = _whole(row, label, wrong) if row.get("config") else _composed(row, label, wrong)
    server = settings.get("server")
    host, port = (server.get("host"), server.get("port", DEFAULT_PORT)) if isinstance(server, Mapping) else (None, None)
    if not isinstance(host, str) or not host or re.search(r"\s", host):
        wrong.append(f"{label}: no host to listen on; upstream would listen on every interface, without authentication")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        wrong.append(f"{label}: port {port!r} is not a number from 1 to 65535")
    environment = _environment(row, label, wrong)
    if len(wrong) > before:
        return None
    unit = f"mistralrs-{flavour}@{name}.service"
    mark = MARK.format(unit=unit)
    text = str(row["config"]).rstrip("\n") + "\n" if row.get("config") else to_toml(settings)
    lines = "".join(f"{key}={quoted(value)}\n" for key, value in environment.items())
    return Instance(name, unit, str(host), int(str(port)), f"{mark}\n{text}", f"{mark}\n{lines}" if lines else "")


def _composed(row: Mapping[str, Any], label: str, wrong: list[str]) -> dict[str, Any]:
    """The settings from the model, the address and the row's own settings."""
    extra = row.get("settings") or {}
    server = extra.get("server", {}) if isinstance(extra, Mapping) else {}
    wrong += [
        f"{label}: server.{key} in settings; use {key}"
        for key in ("host", "port")
        if isinstance(server, Mapping) and key in server
    ]
    if row.get("port") is None:
        wrong.append(f"{label}: no port")
    if bool(row.get("model")) == ("models" in extra):
        wrong.append(f"{label}: {'model and settings.models exclude each other' if row.get('model') else 'no model'}")
    settings: dict[str, Any] = {
        "command": "serve",
        "server": {
            "host": row.get("host") or "127.0.0.1",
            "port": DEFAULT_PORT if row.get("port") is None else row["port"],
        },
        "models": [{"kind": "auto", "model_id": row.get("model") or ""}],
    }
    merged = merge(settings, extra)
    try:
        to_toml(merged)
    except PipelineError as error:
        wrong.append(f"{label}: {error.what}")
    return merged


def _whole(row: Mapping[str, Any], label: str, wrong: list[str]) -> dict[str, Any]:
    """The settings of a configuration given as text."""
    wrong += [
        f"{label}: {key} beside config; write it into config"
        for key in ("model", "host", "port", "settings")
        if row.get(key)
    ]
    try:
        return tomllib.loads(str(row["config"]))
    except tomllib.TOMLDecodeError as error:
        wrong.append(f"{label}: config is not TOML: {error}")
        return {"server": {"host": "127.0.0.1", "port": DEFAULT_PORT}}


def _environment(row: Mapping[str, Any], label: str, wrong: list[str]) -> dict[str, str]:
    variables = {str(key): str(value) for key, value in (row.get("environment") or {}).items()}
    for key, value in variables.items():
        if not _ENVIRONMENT.fullmatch(key) or any(c in value for c in "\n\r\0"):
            wrong.append(f"{label}: {key} is not a variable with a value of one line")
    token = str(row.get("token") or "").strip()
    if not token:
        return variables
    if "HF_TOKEN" in variables:
        wrong.append(f"{label}: both HF_TOKEN in environment and a token")
    if not token.isprintable() or " " in token or '"' in token:
        wrong.append(f"{label}: the token is not one word")
    return variables | {"HF_TOKEN": token}


def changes(wanted: Sequence[Instance], found: FolderContent) -> InstanceChanges:
    """The changes from the folder's content to the wanted instances; see the rules."""
    files = {name: text for instance in wanted for name, text in instance.files.items()}
    if unmarked := sorted(name for name in files if name in found.texts and name not in found.units):
        raise PipelineError(
            f"the role did not write these files and does not replace them: {', '.join(unmarked)}",
            "/etc/mistralrs",
            f"Move them away, or give the instances in {VARIABLE} other names",
        )
    units = {instance.unit for instance in wanted}
    public = {instance.port for instance in wanted if not instance.loopback}
    return InstanceChanges(
        leaving=tuple(sorted(set(found.units.values()) - units)),
        closing=tuple(sorted(ports_of(found) - public)),
        opening=tuple(sorted(public)),
        remove=tuple(sorted(set(found.units) - set(files))),
        write={name: text for name, text in files.items() if found.texts.get(name) != text},
    )


def ports_of(found: FolderContent) -> set[int]:
    """The ports of marked configurations that other hosts reach."""
    ports = set()
    for name in found.units:
        if name.endswith(".conf"):
            try:
                server = tomllib.loads(found.texts[name])["server"]
                if not is_loopback(str(server["host"])):
                    ports.add(int(server.get("port", DEFAULT_PORT)))
            except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError):
                continue
    return ports


def unit_of(text: str) -> str:
    """The unit in a file's mark, or ""."""
    found = _MARK.fullmatch(text.partition("\n")[0])
    return found[1] if found else ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``extra`` merged into it: tables are merged key by key, other values are replaced."""
    merged = dict(base)
    for key, value in extra.items():
        own = merged.get(key)
        merged[key] = merge(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def to_toml(settings: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """TOML of tables, lists of tables and plain values; ``tomllib`` reads equal settings from it."""
    tables = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    lists = {k: v for k, v in settings.items() if isinstance(v, list) and v and all(isinstance(i, Mapping) for i in v)}
    plain = {key: value for key, value in settings.items() if key not in tables and key not in lists}
    text = "".join(f"{_key(key)} = {_value(value, (*path, key))}\n" for key, value in plain.items())
    for key, table in tables.items():
        text += f"\n[{'.'.join(map(_key, (*path, key)))}]\n{to_toml(table, (*path, key))}"
    for key, rows in lists.items():
        for row in rows:
            text += f"\n[[{'.'.join(map(_key, (*path, key)))}]]\n{to_toml(row, (*path, key))}"
    return text


def _key(key: str) -> str:
    return str(key) if _KEY.fullmatch(str(key)) else _string(str(key))


def _value(value: object, path: tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item, path) for item in value)}]"
    raise PipelineError(f"{'.'.join(map(str, path))} in settings is {value!r}, which TOML cannot express", VARIABLE)


def _string(text: str) -> str:
    """A TOML string. It is a JSON string, except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted(value: str) -> str:
    """A value for systemd's EnvironmentFile=, which expands nothing within double quotes."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def shown(name: str, text: str, other: str) -> str:
    """A file as a diff may show it beside ``other``: the names of its values, and which are others. No value.

    A value may be a token under any name, so none is shown.
    """
    if not text:
        return ""
    try:
        values, others = _values(name, text), _values(name, other)
    except tomllib.TOMLDecodeError:
        return "(no TOML, hidden)\n"
    words = {True: "value hidden", False: "other value, hidden"}
    same = {key: not others or others.get(key) == value for key, value in values.items()}
    return "".join(f"{key} ({words[same[key]]})\n" for key in sorted(values))


def _values(name: str, text: str) -> dict[str, object]:
    """The values of a file by their names; those in tables and arrays by the path to them."""
    if name.endswith(".env"):
        return dict(re.findall(r"(?m)^(\w+)=(.*)$", text))
    found: dict[str, object] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict | list) and value:
            rows = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in rows:
                walk(inner, f"{path}.{key}" if path else str(key))
        else:
            found[path] = value

    walk(tomllib.loads(text), "")
    return {key: value for key, value in found.items() if key}


def _repeated(values: Iterable[_T]) -> list[_T]:
    seen = list(values)
    return [value for value in dict.fromkeys(seen) if seen.count(value) > 1]


# ---------------------------------------------------------------- the edge


def read_folder(folder: Path) -> FolderContent:
    """The content of the folder, which need not exist."""
    texts = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in {".conf", ".env"} and path.is_file():
            texts[path.name] = path.read_text(errors="replace")
    return FolderContent({name: unit for name, text in texts.items() if (unit := unit_of(text))}, texts)


def installed(units: Iterable[str]) -> tuple[str, ...]:
    """The units whose package is installed. The removal of a package stops and disables its units."""
    templates = ((unit, re.sub(r"@.*\.service", "@.service", unit)) for unit in units)
    return tuple(unit for unit, template in templates if any((folder / template).exists() for folder in UNIT_FOLDERS))


def others(wanted: Iterable[Instance], folder: Path = UNIT_FOLDERS[0]) -> tuple[str, ...]:
    """The units of other flavours that are enabled under these names, or own their aliases (rule 5)."""
    found = set()
    for instance in wanted:
        found |= {path.name for path in folder.glob(f"*.wants/mistralrs-*@{instance.name}.service")}
        alias = folder / f"mistralrs@{instance.name}.service"
        if alias.is_symlink() and (owner := _FLAVOUR.match(alias.readlink().name)):
            found.add(f"{owner[0]}@{instance.name}.service")
        found.discard(instance.unit)
    return tuple(sorted(found))


def aliases(units: Iterable[str], folder: Path = UNIT_FOLDERS[0]) -> tuple[Path, ...]:
    """The aliases of these units, links named mistralrs@NAME (rule 5)."""
    found = []
    for unit in units:
        template, _, name = unit.partition("@")
        link = folder / f"mistralrs@{name}"
        if link.is_symlink() and link.readlink().name in {unit, f"{template}@.service"}:
            found.append(link)
    return tuple(found)


def apply(changes: InstanceChanges, folder: Path, links: Iterable[Path] = ()) -> None:
    """Remove the links, write and remove the files. Each file is replaced atomically."""
    for link in links:
        link.unlink(missing_ok=True)
    for name, text in changes.write.items():
        descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".", suffix=".new")  # 0600
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
            Path(partial).replace(folder / name)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    for name in changes.remove:
        (folder / name).unlink(missing_ok=True)


def close_modes(wanted: Iterable[Instance], folder: Path, *, check: bool = False) -> bool:
    """Give the files to root with mode 0600; True if that is a change. With ``check`` nothing changes."""
    changed = False
    for path in (folder / name for instance in wanted for name in instance.files):
        if path.exists():
            now = path.stat()
            if (now.st_mode & 0o7777, now.st_uid, now.st_gid) != (0o600, os.geteuid(), os.getegid()):
                changed = True
                if not check:
                    path.chmod(0o600)
                    os.chown(path, os.geteuid(), os.getegid())
    return changed


def given_up(units: Iterable[str]) -> tuple[str, ...]:
    """Those of the units that systemd has given up.

    Each needs ``systemctl reset-failed``: a wanted one before it can start again, a removed one before systemd forgets
    it, also after its package is gone.
    """
    return tuple(unit for unit in units if properties(unit, "ActiveState").get("ActiveState") == "failed")


def unit_states(wanted: Sequence[Instance], folder: Path, written: Iterable[str] = ()) -> dict[str, str]:
    """The wanted state by unit: ``started``, or ``restarted`` for rule 6. Files in ``written`` count as new."""
    new = set(written)
    found = {}
    for instance in wanted:
        begun = running_since(instance.unit)
        young = any(name in new or _changed_at(folder / name) > begun for name in instance.files)
        found[instance.unit] = "restarted" if begun and young else "started"
    return found


def running_since(unit: str) -> int:
    """The start of the unit's process in seconds since 1970; 0 if it does not run."""
    found = properties(unit, "ActiveState", "ExecMainStartTimestamp")
    begun = found.get("ExecMainStartTimestamp", "").removeprefix("@")
    return int(begun) if found.get("ActiveState") in {"active", "activating", "reloading"} and begun.isdecimal() else 0


def properties(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, by name."""
    words = ("systemctl", "show", "--timestamp=unix", *(f"--property={name}" for name in names), unit)
    return dict(line.partition("=")[::2] for line in run(words).stdout.splitlines() if "=" in line)


def _changed_at(path: Path) -> float:
    try:
        return int(path.stat().st_mtime)
    except FileNotFoundError:
        return 0
