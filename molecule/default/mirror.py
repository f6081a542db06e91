"""The repositories of the test hosts: read from the roles, fetched once into the cache, served by the controller.

Rules:
- Nothing is listed twice. Packages are those that roles/*/vars/{debian,redhat}.yml name in `__<role>_packages`; wheels
  and Rust are those of the files of pins, with their digests.
- Registries are those that apt, dnf and pip of this machine are configured with; Rust's archives come from rustup's
  server (RUSTUP_DIST_SERVER), else from the default of the role.
- Debian: the packages and their dependencies, as a flat repository.
- Fedora: the same, by dnf, or the stand-in (stand_in.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import yaml
from parts import MirrorError, apt, digest, made, run
from settings import CACHE, PROJECT
from stand_in import FEDORA_FILES, fedora_table, make_stand_in, package, rpms

ROLES = PROJECT / "roles"
PINS = ["cuda_toolkit/files/cuda-13.0.txt", "cuda_toolkit/files/cuda-13.2.txt", "compile_cache/files/*.txt"]


def tree(platform: str) -> list[Path]:
    """The read-only layers of a platform, the topmost first."""
    return [fedora_layer() / "layer", base(platform)] if stands_in(platform) else [base(platform)]


def link(www: Path) -> None:
    """Links every part into the served folder; makes missing parts first, all at once."""
    parts = {"debian": debian, "fedora": fedora, "wheels": wheels, "rust": rust, "gitea": gitea}
    with ThreadPoolExecutor() as pool:
        made_parts = {name: pool.submit(make) for name, make in parts.items()}
    for name, made_part in made_parts.items():
        folder = made_part.result()
        fresh = www / f".{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder)
        fresh.replace(www / name)


# -- the inputs


def package_names(system: str, roles: Path = ROLES) -> list[str]:
    """The packages that the roles name for an OS family, sorted."""
    names: set[str] = set()
    for file in sorted(roles.glob(f"*/vars/{system}.yml")):
        for variable, value in (yaml.safe_load(file.read_text()) or {}).items():
            if re.fullmatch(r"__\w+_packages", variable):
                items = value if isinstance(value, list) else [value]
                names |= {item["name"] if isinstance(item, dict) else item for item in items}
    return sorted(name for name in names if "{{" not in name)


@cache
def base(platform: str) -> Path:
    """The tree of a bare system."""
    return Path(run([PROJECT / "scripts/system-tree", platform], quiet=False).strip())


@cache
def stands_in(platform: str) -> bool:
    return "stand-in" in (base(platform) / "usr/lib/os-release").read_text()


# -- Debian


def debian() -> Path:
    names = package_names("debian")
    lowest = base("debian-12")
    name = f"mirror-debian-{digest(names, lowest.name)}"
    with made(name) as part:
        if part:
            _in_overlay("debian", part, lowest, *names)
    return CACHE / name


def _make_debian(part: Path, root: Path, names: list[str]) -> None:
    """Runs with an overlay of the tree at `root`; downloads into a folder that all such mirrors share."""
    fetched = CACHE / "debs"
    (fetched / "partial").mkdir(parents=True, exist_ok=True)
    archives = root / "var/cache/apt/archives"
    archives.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", fetched, archives])
    apt(root, "update")
    wanted = []
    if names:
        apt(root, "install", "--yes", "--no-install-recommends", "--download-only", *names)
        plan = apt(root, "install", "--simulate", "--no-install-recommends", *names)
        wanted = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*\[(\w+)\]\)", plan, re.MULTILINE)
    for name, version, architecture in wanted:
        file = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        # A URL would decode the percent sign of an epoch.
        os.link(fetched / file, part / file.replace("%3a", "-"))
    run(["mount", "--bind", part, archives])
    script = "cd /var/cache/apt/archives && apt-ftparchive packages . >Packages && apt-ftparchive release . >Release"
    run(["chroot", root, "sh", "-c", script])


# -- Fedora


def fedora() -> Path:
    """The repository with the packages that the roles name."""
    names = package_names("redhat")
    if not stands_in("fedora-43"):
        return _real_fedora(names)
    rows = fedora_layer()
    others = sorted(set(names) - fedora_table().keys())
    name = f"mirror-fedora-{digest(rows.name, others)}"
    with made(name) as part:
        if part:
            rpms([package(other) for other in others], part)
            # createrepo_c does not follow a link to the other folder.
            shutil.copytree(rows / "repo", part, copy_function=os.link, dirs_exist_ok=True)
            run(["createrepo_c", "--quiet", "--general-compress-type=gz", part])
    return CACHE / name


def fedora_layer() -> Path:
    """The stand-in's `layer` over the tree, and the RPMs of the table's rows in `repo`."""
    files = [file for file in FEDORA_FILES.glob("*/**/*") if file.is_symlink() or file.is_file()]
    lowest = base("fedora-43")
    name = f"mirror-stand-in-{digest(fedora_table(), lowest.name, files=files)}"
    with made(name) as part:
        if part:
            _in_overlay("fedora", part, lowest)
    return CACHE / name


def _real_fedora(names: list[str]) -> Path:
    """The packages that the tree lacks, by dnf as the tree is configured. Not tried where the stand-in is used."""
    lowest = base("fedora-43")
    name = f"mirror-fedora-{digest(names, lowest.name)}"
    with made(name) as part:
        if part:
            dnf = shutil.which("dnf5") or "dnf"
            words = [dnf, f"--installroot={lowest}", "--releasever=43", "download", "--resolve", f"--destdir={part}"]
            run([*words, *names])
            run(["createrepo_c", "--quiet", part])
    return CACHE / name


# -- files with pinned digests


def wheels() -> Path:
    files = [file for pattern in PINS for file in sorted(ROLES.glob(pattern))]
    name = f"mirror-wheels-{digest([file.read_text() for file in files])}"
    with made(name) as part:
        for file in files if part else []:
            words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
            words += ["--require-hashes", "--only-binary=:all:", f"--find-links={CACHE / 'wheels'}"]
            run([*words, "--dest", str(part), "--requirement", str(file)])
    return CACHE / name


def pinned(text: str) -> dict[str, str]:
    """File names and their SHA-256 from sha256sum's format."""
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](\S+)$", text, re.MULTILINE)}


def rust_archives(role: Path = ROLES / "rust_toolchain") -> str:
    """The URL of Rust's archives."""
    server = os.environ.get("RUSTUP_DIST_SERVER")
    return (
        f"{server}/dist" if server else yaml.safe_load((role / "defaults/main.yml").read_text())["rust_toolchain_url"]
    )


def rust() -> Path:
    return _downloads("rust", rust_archives(), sorted(ROLES.glob("rust_toolchain/files/*.txt")))


def _downloads(what: str, url: str, files: Iterable[Path]) -> Path:
    wanted: dict[str, str] = {}
    for file in files:
        wanted |= pinned(file.read_text())
    name = f"mirror-{what}-{digest(wanted)}"
    with made(name) as part:
        for file_name, expected in wanted.items() if part else ():
            target = part / file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(f"{url}/{file_name}", timeout=60) as answer, target.open("wb") as output:
                shutil.copyfileobj(answer, output)
            got = hashlib.sha256(target.read_bytes()).hexdigest()
            if got != expected:
                raise MirrorError(f"{url}/{file_name} has sha256 {got}, not {expected}")
    return CACHE / name


def gitea() -> Path:
    """The stand-in for the runner's download: files of the scenario."""
    files = sorted(PROJECT.glob("molecule/release/files/gitea/*"))
    name = f"mirror-gitea-{digest(files=files)}"
    with made(name) as part:
        for file in files if part else ():
            shutil.copy(file, part)
    return CACHE / name


# -- overlays, each in a mount namespace of its own


def _in_overlay(what: str, part: Path, lowest: Path, *words: str) -> None:
    command = [sys.executable, __file__, what, str(part), str(lowest), *words]
    run(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation=private", *command], quiet=False)


def main() -> None:
    what, part, lowest, *names = sys.argv[1:]
    folder = Path(part)
    upper = folder / ("layer" if what == "fedora" else ".upper")
    work, root = folder / ".work", folder / ".root"
    for path in (upper, work, root):
        path.mkdir()
    run(["mount", "-t", "overlay", "-o", f"lowerdir={lowest},upperdir={upper},workdir={work}", "overlay", root])
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    if what == "fedora":
        make_stand_in(folder, root, Path(lowest))
    else:
        _make_debian(folder, root, names)
    (root / "etc/resolv.conf").unlink()
    run(["umount", "--recursive", root])
    for path in (work, root, folder / "payload", upper):
        if path.name != "layer":
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
