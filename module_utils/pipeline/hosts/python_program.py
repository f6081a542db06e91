"""A Python program on a host: one folder for each version, and a launcher that names one of them.

    <program>                            the launcher, a file of a few lines
    <program>.d/<version>/<package>/     the modules and their bytecode; never changes

Rules:

1. The version is a digest of the modules and of the host's Python. So a module that a later version lacks is not
   there, and a new Python gets its bytecode.
2. The bytecode is written at installation: an account that cannot write there still starts quickly.
3. The rename of the launcher is the switch. A command that starts at any time runs the old version or the new one,
   whole; the launcher's path stays the same, and may hold a program that is one file.
4. A version that does not start (``--help``) never gets the launcher: the old one stays.
5. Older versions are removed after the switch, once commands that started before it have imported their modules.
   An interrupted installation is completed by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.environment import UMASK, environment

LAUNCHER = """\
#!/usr/bin/env -S python3 -I
# Written by Ansible: it names the installed version.
import sys

sys.path.insert(0, {folder!r})

from {package}.command_line import main

sys.exit(main(sys.argv[1:]))
"""
IMPORTS = 3.0  # seconds for a started command to import its modules; it takes 0.1


class InstallFailed(Exception):
    """The version cannot be installed; the launcher is as it was."""


@dataclass(frozen=True)
class Program:
    """``files`` are the modules of the package, text by name; ``python`` is the cache tag of the host's python3."""

    launcher: Path
    package: str
    files: Mapping[str, str]
    python: str

    @property
    def versions(self) -> Path:
        return self.launcher.with_name(f"{self.launcher.name}.d")

    @property
    def folder(self) -> Path:
        version = json.dumps([self.python, self.package, sorted(self.files.items())])
        return self.versions / hashlib.sha256(version.encode()).hexdigest()[:16]

    @property
    def launcher_text(self) -> str:
        return LAUNCHER.format(folder=str(self.folder), package=self.package)

    def complete(self) -> bool:
        """Whether the folder of this version has its modules and their bytecode, and nothing else.

        Another Python of the host may add its own bytecode; Python ignores bytecode without a module.
        """
        package = self.folder / self.package
        bytecode = {f"{name.removesuffix('.py')}.{self.python}.pyc" for name in self.files}
        return (
            modules(package) == dict(self.files)
            and {path.name for path in package.glob("*")} == {*self.files, "__pycache__"}
            and bytecode <= {path.name for path in package.glob("__pycache__/*")}
        )

    def switched(self) -> bool:
        return text_of(self.launcher) == self.launcher_text and os.access(self.launcher, os.X_OK)

    def others(self) -> list[Path]:
        """Everything beside the folder of this version: older versions and interrupted installations."""
        return sorted(path for path in self.versions.glob("*") if path != self.folder)

    def changed(self) -> bool:
        return not (self.complete() and self.switched()) or bool(self.others())

    def differences(self) -> Iterator[dict[str, str]]:
        """What installing changes, in the form of Ansible's diff."""
        old_launcher = text_of(self.launcher)
        named = next((path for path in self.versions.glob("*") if repr(str(path)) in old_launcher), None)
        old = modules(named / self.package) if named else {}
        for name in sorted({*old, *self.files}):
            if old.get(name) != self.files.get(name):
                yield difference(f"{self.package}/{name}", old.get(name, ""), self.files.get(name, ""))
        if old_launcher != self.launcher_text:
            yield difference(str(self.launcher), old_launcher, self.launcher_text)

    def install(self) -> None:
        """Lay the version out, switch to it, and remove the others; each step only if needed, by one run at a time."""
        self.versions.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = os.open(self.versions, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self.complete():
                self._lay_out()
            if not self.switched():
                self._switch()
                if self.others():
                    time.sleep(IMPORTS)
            for path in self.others():
                remove(path)
        finally:
            os.close(folder)

    def _lay_out(self) -> None:
        making = self.versions / f"new-{os.getpid()}"
        remove(making)
        (making / self.package).mkdir(parents=True)
        for name, text in self.files.items():
            (making / self.package / name).write_text(text)
        done = run_python("-m", "compileall", "-q", str(making))
        if done.returncode:
            remove(making)
            raise InstallFailed(f"the modules do not compile: {done.stdout.strip()[-500:]}")
        for path in (making, *making.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if self.folder.exists():  # damaged by hand
            self.folder.rename(self.versions / f"old-{os.getpid()}")
        making.rename(self.folder)

    def _switch(self) -> None:
        new = self.launcher.with_name(f".{self.launcher.name}.new")
        try:
            new.write_text(self.launcher_text)
            new.chmod(0o755)
            done = run_python(str(new), "--help")
            if done.returncode:
                raise InstallFailed(f"the new version does not start: {(done.stderr.strip() or '?').splitlines()[-1]}")
            new.replace(self.launcher)
        except InstallFailed:
            if text_of(self.launcher) != self.launcher_text:
                remove(self.folder)
            raise
        finally:
            new.unlink(missing_ok=True)


def host_python() -> str:
    """The cache tag of the python3 that a launcher runs; it names bytecode files."""
    done = run_python("-c", "import sys; print(sys.implementation.cache_tag)")
    if done.returncode:
        raise InstallFailed(f"python3 does not start: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            ["python3", "-I", *words], env=environment(), umask=UMASK, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise InstallFailed("python3 is not installed") from error


def modules(package: Path) -> dict[str, str]:
    return {path.name: text_of(path) for path in package.glob("*.py")}


def text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def difference(name: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": name, "after_header": name, "before": before, "after": after}
