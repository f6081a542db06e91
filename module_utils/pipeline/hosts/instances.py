"""The servers of a GPU host: from the operator's data to the files that their units read.

Rules:

1. An instance is a name, a model and a port. It becomes ``NAME.conf``, the TOML of ``mistralrs from-config``, and,
   where it has a token or variables, ``NAME.env``; both are root's alone (0600), since systemd reads them.
2. All that is wrong with the data is told at once, before anything is touched.
3. The first line of a file says that it was made from the data, and for which unit. Only such files are
   replaced or removed; one without the line, in the place of a wanted one, is refused.
4. So the files alone tell what was there before: an instance that is no longer wanted, or is wanted of another
   flavour, ``leaves``: its unit is to be stopped first, and its port closed, then its files go. Killed in between,
   the next run finds the files and goes on.
5. With a unit that leaves goes its alias, ``mistralrs@NAME.service``: systemd leaves it when an instance is disabled
   (seen with 252 and 262), and then refuses to enable another flavour under the same name.
6. A running instance whose files are younger than its process is to be restarted, whoever wrote them.
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
"""Upstream's, where a whole configuration names none."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SECRET = re.compile(r"""^(\s*["']?[\w-]*(?:token|secret|password|api_?key)[\w-]*["']?\s*=\s*).*""", re.IGNORECASE)


@dataclass(frozen=True)
class Instance:
    """A server as it is wanted. ``config`` and ``environment`` are whole files, the second empty for none."""

    name: str
    unit: str
    host: str
    port: int
    config: str = field(repr=False)
    environment: str = field(repr=False)

    @property
    def loopback(self) -> bool:
        """Whether only this host reaches it."""
        return is_loopback(self.host)

    @property
    def health(self) -> str:
        """The URL that answers once the model is loaded."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/health"

    @property
    def files(self) -> dict[str, str]:
        """The files by name."""
        files = {f"{self.name}.conf": self.config}
        return files | {f"{self.name}.env": self.environment} if self.environment else files


@dataclass(frozen=True)
class Found:
    """What lies in the folder: the units that marked files are for, by file name, and the texts of all files."""

    units: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Plan:
    """What is to be done, in this order: stop the units that leave, close ports, remove and write files."""

    leaving: tuple[str, ...]
    closing: tuple[int, ...]
    opening: tuple[int, ...]
    remove: tuple[str, ...]
    write: Mapping[str, str] = field(repr=False)


# ---------------------------------------------------------------- decisions


def instances(
    rows: Sequence[Mapping[str, Any]], flavour: str, tokens: Mapping[str, str] | None = None
) -> tuple[Instance, ...]:
    """The instances that the data describe; PipelineError tells everything that is wrong with it."""
    wrong: list[str] = []
    found = [_instance(row, flavour, (tokens or {}).get(str(row.get("name")), ""), wrong) for row in rows]
    names = [str(row.get("name")) for row in rows]
    wrong += [f"{name}: the name is there {names.count(name)} times" for name in _repeated(names)]
    made = [instance for instance in found if instance]
    for port in _repeated([instance.port for instance in made]):
        users = " and ".join(instance.name for instance in made if instance.port == port)
        wrong.append(f"{users}: port {port} is for one of them only")
    if wrong:
        raise PipelineError("; ".join(wrong), VARIABLE, "Nothing was changed")
    return tuple(made)


def _instance(row: Mapping[str, Any], flavour: str, token: str, wrong: list[str]) -> Instance | None:
    """One row; what is wrong is added to ``wrong``."""
    before = len(wrong)
    name = str(row.get("name") or "")
    told = name or "an instance without a name"
    if not _NAME.fullmatch(name):
        wrong.append(f"{told}: a name is of small letters, digits, '_', '.' and '-', and begins with a letter or digit")
    settings = _whole(row, told, wrong) if row.get("config") else _composed(row, told, wrong)
    server = settings.get("server")
    host, port = (server.get("host"), server.get("port", DEFAULT_PORT)) if isinstance(server, Mapping) else (None, None)
    if not isinstance(host, str) or not host or re.search(r"\s", host):
        wrong.append(f"{told}: no host to listen on; upstream would take every interface, with no authentication")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        wrong.append(f"{told}: port {port!r} is not a number from 1 to 65535")
    environment = _environment(row, token or str(row.get("token") or ""), told, wrong)
    if len(wrong) > before:
        return None
    unit = f"mistralrs-{flavour}@{name}.service"
    mark = MARK.format(unit=unit)
    text = str(row["config"]).rstrip("\n") + "\n" if row.get("config") else to_toml(settings)
    lines = "".join(f"{key}={quoted(value)}\n" for key, value in environment.items())
    return Instance(name, unit, str(host), int(str(port)), f"{mark}\n{text}", f"{mark}\n{lines}" if lines else "")


def _composed(row: Mapping[str, Any], told: str, wrong: list[str]) -> dict[str, Any]:
    """The settings from the model, the address and what is to be merged in."""
    extra = row.get("settings") or {}
    server = extra.get("server", {}) if isinstance(extra, Mapping) else {}
    wrong += [
        f"{told}: server.{key} in settings; say {key}"
        for key in ("host", "port")
        if isinstance(server, Mapping) and key in server
    ]
    if row.get("port") is None:
        wrong.append(f"{told}: no port")
    if bool(row.get("model")) == ("models" in extra):
        wrong.append(f"{told}: {'model and settings.models, say one of them' if row.get('model') else 'no model'}")
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
        wrong.append(f"{told}: {error.what}")
    return merged


def _whole(row: Mapping[str, Any], told: str, wrong: list[str]) -> dict[str, Any]:
    """The settings of a configuration that is given as text."""
    wrong += [
        f"{told}: {key} beside config; write it there" for key in ("model", "host", "port", "settings") if row.get(key)
    ]
    try:
        return tomllib.loads(str(row["config"]))
    except tomllib.TOMLDecodeError as error:
        wrong.append(f"{told}: config is not TOML: {error}")
        return {"server": {"host": "127.0.0.1", "port": DEFAULT_PORT}}


def _environment(row: Mapping[str, Any], token: str, told: str, wrong: list[str]) -> dict[str, str]:
    variables = {str(key): str(value) for key, value in (row.get("environment") or {}).items()}
    for key, value in variables.items():
        if not _ENVIRONMENT.fullmatch(key) or any(c in value for c in "\n\r\0"):
            wrong.append(f"{told}: {key} is not a variable of one line")
    token = token.strip()
    if not token:
        return variables
    if "HF_TOKEN" in variables:
        wrong.append(f"{told}: HF_TOKEN in environment, and a token")
    if not token.isprintable() or " " in token or '"' in token:
        wrong.append(f"{told}: the token is not one word")
    return variables | {"HF_TOKEN": token}


def plan(wanted: Sequence[Instance], found: Found) -> Plan:
    """What makes the folder and the units as they are wanted; see the rules."""
    files = {name: text for instance in wanted for name, text in instance.files.items()}
    if others := sorted(name for name in files if name in found.texts and name not in found.units):
        raise PipelineError(
            f"made by hand and in the way: {', '.join(others)}",
            "/etc/mistralrs",
            f"Move it away, or give the instance in {VARIABLE} another name",
        )
    units = {instance.unit for instance in wanted}
    public = {instance.port for instance in wanted if not instance.loopback}
    return Plan(
        leaving=tuple(sorted(set(found.units.values()) - units)),
        closing=tuple(sorted(ports_of(found) - public)),
        opening=tuple(sorted(public)),
        remove=tuple(sorted(set(found.units) - set(files))),
        write={name: text for name, text in files.items() if found.texts.get(name) != text},
    )


def ports_of(found: Found) -> set[int]:
    """The ports that marked configurations have others reach."""
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
    """The unit that a file's mark names, or empty."""
    found = _MARK.fullmatch(text.partition("\n")[0])
    return found[1] if found else ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``extra`` over it: tables are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in extra.items():
        own = merged.get(key)
        merged[key] = merge(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def to_toml(settings: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """TOML of tables, lists of tables and plain values; ``tomllib`` reads the same settings from it."""
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
    raise PipelineError(f"{'.'.join(map(str, path))} in settings is {value!r}, which TOML cannot say", VARIABLE)


def _string(text: str) -> str:
    """JSON's strings are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted(value: str) -> str:
    """A value for systemd's EnvironmentFile=, where nothing is expanded within double quotes."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def shown(name: str, text: str) -> str:
    """A file as a diff may show it: without the values of variables, and of keys that sound like a secret."""
    if name.endswith(".env"):
        return re.sub(r"(?m)^(\w+=).*", r"\1(hidden)", text)
    return "".join(_SECRET.sub(r"\1(hidden)", line) for line in text.splitlines(keepends=True))


def _repeated(values: Iterable[_T]) -> list[_T]:
    seen = list(values)
    return [value for value in dict.fromkeys(seen) if seen.count(value) > 1]


# ---------------------------------------------------------------- the edge


def look(folder: Path) -> Found:
    """What lies in the folder, which need not exist."""
    texts = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in {".conf", ".env"} and path.is_file():
            texts[path.name] = path.read_text(errors="replace")
    return Found({name: unit for name, text in texts.items() if (unit := unit_of(text))}, texts)


def known(units: Iterable[str]) -> tuple[str, ...]:
    """The units whose package is still installed. A package that was removed has stopped and disabled its own."""
    templates = ((unit, re.sub(r"@.*\.service", "@.service", unit)) for unit in units)
    return tuple(unit for unit, template in templates if any((folder / template).exists() for folder in UNIT_FOLDERS))


def aliases(units: Iterable[str], folder: Path = UNIT_FOLDERS[0]) -> tuple[Path, ...]:
    """The links by which these units are also called mistralrs@NAME; see rule 5."""
    found = []
    for unit in units:
        template, _, name = unit.partition("@")
        link = folder / f"mistralrs@{name}"
        if link.is_symlink() and link.readlink().name in {unit, f"{template}@.service"}:
            found.append(link)
    return tuple(found)


def carry_out(plan: Plan, folder: Path, links: Iterable[Path] = ()) -> None:
    """Remove the links, write and remove the files, each whole or not at all."""
    for link in links:
        link.unlink(missing_ok=True)
    for name, text in plan.write.items():
        descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".", suffix=".new")  # 0600
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
            Path(partial).replace(folder / name)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    for name in plan.remove:
        (folder / name).unlink(missing_ok=True)


def close_modes(wanted: Iterable[Instance], folder: Path, *, check: bool = False) -> bool:
    """See that the files are root's alone; whether one was not."""
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


def given_up(wanted: Iterable[Instance]) -> tuple[str, ...]:
    """The units that systemd has given up; each has to be told of before it is started again."""
    return tuple(i.unit for i in wanted if properties(i.unit, "ActiveState").get("ActiveState") == "failed")


def states(wanted: Sequence[Instance], folder: Path, written: Iterable[str] = ()) -> dict[str, str]:
    """By unit: ``started``, or ``restarted`` where it runs with older files than it has (``written`` are new)."""
    new = set(written)
    found = {}
    for instance in wanted:
        begun = running_since(instance.unit)
        young = any(name in new or _changed_at(folder / name) > begun for name in instance.files)
        found[instance.unit] = "restarted" if begun and young else "started"
    return found


def running_since(unit: str) -> int:
    """When the unit's process began, in seconds since 1970; 0 where it does not run."""
    said = properties(unit, "ActiveState", "ExecMainStartTimestamp")
    begun = said.get("ExecMainStartTimestamp", "").removeprefix("@")
    return int(begun) if said.get("ActiveState") in {"active", "activating", "reloading"} and begun.isdecimal() else 0


def properties(unit: str, *names: str) -> dict[str, str]:
    """What systemd says of a unit."""
    words = ("systemctl", "show", "--timestamp=unix", *(f"--property={name}" for name in names), unit)
    return dict(line.partition("=")[::2] for line in run(words).stdout.splitlines() if "=" in line)


def _changed_at(path: Path) -> float:
    try:
        return int(path.stat().st_mtime)
    except FileNotFoundError:
        return 0
