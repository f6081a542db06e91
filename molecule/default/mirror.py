"""What the test hosts install from: read from the roles, fetched once into the cache, served by the controller.

Rules:
- Nothing is listed twice. Packages are those that roles/*/vars/{debian,redhat}.yml name in `__<role>_packages`; wheels
  and Rust are those that files of pins name, with their digests.
- Each part lies in a folder of the cache that is named by a digest of what it was made from, and appears there
  complete.
- Debian: the packages and all that they need, as a flat repository.
- Fedora itself: the same, by dnf. The stand-in: for each name an RPM that carries the files of the Debian packages that
  fedora_packages/table.yml gives it, so that a bare host has the program only once the package is installed; what those
  depend on lies in a layer over the tree. A name without a row is an RPM without files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from functools import cache
from pathlib import Path

import yaml
from settings import CACHE, PROJECT

RECIPE = 1
"""Raised with every change of how a part is made."""

HERE = Path(__file__).parent
FEDORA_FILES = HERE / "fedora_packages"
FEDORA_TABLE = FEDORA_FILES / "table.yml"
ROLES = PROJECT / "roles"
PINS = ["cuda_toolkit/files/cuda-13.0.txt", "cuda_toolkit/files/cuda-13.2.txt", "compile_cache/files/*.txt"]
RUST = "https://static.rust-lang.org/dist"
UNREAD = re.compile(r"/usr/share/(doc|info|lintian|locale|man|bug)/|/var/lib/dpkg/")


class MirrorError(OSError):
    """Which part cannot be made, and why."""


def tree(platform: str) -> list[Path]:
    """The read-only layers of a platform, the topmost first."""
    return [fedora_layer() / "layer", base(platform)] if stands_in(platform) else [base(platform)]


def link(www: Path) -> None:
    """Puts every part below the folder that is served, made first where it is missing."""
    parts = {"debian": debian(), "fedora": fedora(), "wheels": wheels(), "rust": rust(), "gitea": gitea()}
    for name, folder in parts.items():
        fresh = www / f".{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder)
        fresh.replace(www / name)


# -- what is wanted


def package_names(system: str, roles: Path = ROLES) -> list[str]:
    """The packages that the roles name for a family of systems, sorted."""
    names: set[str] = set()
    for file in sorted(roles.glob(f"*/vars/{system}.yml")):
        for variable, value in (yaml.safe_load(file.read_text()) or {}).items():
            if re.fullmatch(r"__\w+_packages", variable):
                items = value if isinstance(value, list) else [value]
                names |= {item["name"] if isinstance(item, dict) else item for item in items}
    return sorted(name for name in names if "{{" not in name)


def fedora_table() -> dict[str, list[str]]:
    """The Debian packages of each name of Fedora's."""
    return yaml.safe_load(FEDORA_TABLE.read_text())


def digest(*facts: object, files: Iterable[Path] = ()) -> str:
    total = hashlib.sha256(json.dumps([RECIPE, *facts], sort_keys=True).encode())
    for file in sorted(files):
        content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
        total.update(f"{file.relative_to(PROJECT)}\0{file.lstat().st_mode}\0".encode() + content)
    return total.hexdigest()[:12]


@cache
def base(platform: str) -> Path:
    """The tree of a bare system."""
    return Path(_run([PROJECT / "scripts/system-tree", platform], quiet=False).strip())


@cache
def stands_in(platform: str) -> bool:
    return "stand-in" in (base(platform) / "usr/lib/os-release").read_text()


@contextmanager
def made(name: str) -> Iterator[Path | None]:
    """A folder to fill, which gets the name when it is complete; None when it is there already."""
    place = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if place.exists():
            os.utime(place)
            yield None
            return
        part = place.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        print(f"mirror: making {place}", file=sys.stderr, flush=True)
        yield part
        part.rename(place)
        _forget(name.rpartition("-")[0])


def _forget(kind: str) -> None:
    """Removes parts of a kind that nothing used for a month."""
    for place in CACHE.glob(f"{kind}-*"):
        if place.is_dir() and time.time() - place.stat().st_mtime > 30 * 86400:
            shutil.rmtree(place)


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
    """Run with an overlay of the tree at `root`: fetches into a folder that all such mirrors share."""
    fetched = CACHE / "debs"
    (fetched / "partial").mkdir(parents=True, exist_ok=True)
    archives = root / "var/cache/apt/archives"
    archives.mkdir(parents=True, exist_ok=True)
    _run(["mount", "--bind", fetched, archives])
    _apt(root, "update")
    wanted = []
    if names:
        _apt(root, "install", "--yes", "--no-install-recommends", "--download-only", *names)
        plan = _apt(root, "install", "--simulate", "--no-install-recommends", *names)
        wanted = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*\[(\w+)\]\)", plan, re.MULTILINE)
    for name, version, architecture in wanted:
        file = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        # In a URL the percent sign of an epoch would be read twice.
        os.link(fetched / file, part / file.replace("%3a", "-"))
    _run(["mount", "--bind", part, archives])
    script = "cd /var/cache/apt/archives && apt-ftparchive packages . >Packages && apt-ftparchive release . >Release"
    _run(["chroot", root, "sh", "-c", script])


# -- Fedora


def fedora() -> Path:
    """The repository of the names that the roles use."""
    names = package_names("redhat")
    if not stands_in("fedora-43"):
        return _real_fedora(names)
    rows = fedora_layer()
    others = sorted(set(names) - fedora_table().keys())
    name = f"mirror-fedora-{digest(rows.name, others)}"
    with made(name) as part:
        if part:
            _rpms([_package(other) for other in others], part)
            # Not a link to the other folder: createrepo_c would not look into it.
            shutil.copytree(rows / "repo", part, copy_function=os.link, dirs_exist_ok=True)
            _run(["createrepo_c", "--quiet", "--general-compress-type=gz", part])
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
    """What the tree lacks, downloaded by dnf as the tree is configured. Not tried where the stand-in is used."""
    lowest = base("fedora-43")
    name = f"mirror-fedora-{digest(names, lowest.name)}"
    with made(name) as part:
        if part:
            dnf = shutil.which("dnf5") or "dnf"
            words = [dnf, f"--installroot={lowest}", "--releasever=43", "download", "--resolve", f"--destdir={part}"]
            _run([*words, *names])
            _run(["createrepo_c", "--quiet", part])
    return CACHE / name


def _make_stand_in(part: Path, root: Path, lowest: Path) -> None:
    """Run with an overlay of the tree at `root`, whose upper layer is kept."""
    table = fedora_table()
    archives = root / "var/cache/apt/archives"
    fetched = CACHE / "debs-forky"
    (fetched / "partial").mkdir(parents=True, exist_ok=True)
    archives.mkdir(parents=True, exist_ok=True)
    _run(["mount", "--bind", fetched, archives])
    _apt(root, "update")
    there = set(_run(["chroot", lowest, "dpkg-query", "--show", "--showformat", "${Package}\n"]).split())
    debs = sorted({deb for row in table.values() for deb in row} - there)
    if debs:
        # What a package does when it is set up may look there.
        _run(["mount", "-t", "proc", "proc", root / "proc"])
        _apt(root, "install", "--yes", "--no-install-recommends", *debs)
        _run(["umount", root / "proc"])
    _run(["umount", archives])
    payload = part / "payload"
    payload.mkdir()
    packages = []
    owner = owners(table, there)
    needs = dependencies((root / "var/lib/dpkg/status").read_text())
    for name, row in table.items():
        own = [deb for deb in row if owner.get(deb) == name]
        header = [f"Requires: {other}" for other in sorted(required(row, owner, needs) - {name})]
        header += [f"Provides: {library}" for library in _libraries(root, row)]
        packages.append(_package(name, _version(root, row), header, _carve(root, payload, name, own)))
    _rpms(packages, part / "repo", payload)
    # What a bare Fedora has too: rows all of whose Debian packages are in the tree.
    bare = [name for name, row in table.items() if name == "fedora-release" or (row and set(row) <= there)]
    present = [file for name in bare for file in (part / "repo").glob(f"{name}-[0-9]*.rpm")]
    _run(["rpm", f"--root={root}", "--dbpath=/var/lib/rpm", "--nodeps", "--noscripts", "--install", *present])
    # Ansible and a careless role would take apt for the system's own.
    for program in ("apt", "apt-get", "apt-cache", "dpkg"):
        (root / "usr/bin" / program).unlink(missing_ok=True)
    for path in (*root.glob("var/lib/apt/lists/*"), *root.glob("var/cache/apt/*.bin")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def owners(table: Mapping[str, list[str]], there: Container[str]) -> dict[str, str]:
    """Which RPM carries a Debian package: the first that names it, and none what the tree has."""
    owner: dict[str, str] = {}
    for name, row in table.items():
        owner |= {deb: name for deb in row if deb not in there and deb not in owner}
    return owner


def dependencies(status: str) -> dict[str, set[str]]:
    """What each package of dpkg's status file depends on, by name; of alternatives, all."""
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Depends|Pre-Depends): (.*)$", paragraph, re.MULTILINE))
        words = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
        found[fields.get("Package", "")] = set(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", words))
    return found


def required(row: Iterable[str], owner: Mapping[str, str], needs: Mapping[str, set[str]]) -> set[str]:
    """The RPMs that carry something on which a row's Debian packages depend, directly or not."""
    seen: set[str] = set()
    ahead = list(row)
    while ahead:
        deb = ahead.pop()
        if deb not in seen:
            seen.add(deb)
            ahead += needs.get(deb, ())
    return {owner[deb] for deb in seen if deb in owner}


def _carve(root: Path, payload: Path, name: str, debs: list[str]) -> list[str]:
    """Moves the files of Debian's packages from the layer to the RPM's payload, and adds Fedora's own; their paths."""
    extra = FEDORA_FILES / name
    without = (extra / "without").read_text().split() if (extra / "without").exists() else []
    paths = []
    for path in _files(root, debs):
        source, target = root / path.lstrip("/"), payload / path.lstrip("/")
        if not any(re.fullmatch(pattern, path) for pattern in without):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
            paths.append(path)
        source.unlink()
    for path in _listed(root, debs):
        if any(re.fullmatch(pattern, path) for pattern in without):
            shutil.rmtree(root / path.lstrip("/"), ignore_errors=True)
    # Debian enables what it installs, Fedora does not.
    units = {Path(path).name for path in paths if re.fullmatch(r"/usr/lib/systemd/system/[^/@]+", path)}
    for wish in root.glob("etc/systemd/system/*.wants/*"):
        if wish.name in units:
            wish.unlink()
    if (extra / "files").exists():
        shutil.copytree(extra / "files", payload, symlinks=True, dirs_exist_ok=True)
        added = [file for file in (extra / "files").rglob("*") if file.is_symlink() or file.is_file()]
        paths += [f"/{file.relative_to(extra / 'files')}" for file in added]
    return sorted(set(paths))


def _files(root: Path, debs: Iterable[str]) -> list[str]:
    """The files and links of Debian's packages."""
    places = [(path, root / path.lstrip("/")) for path in _listed(root, debs) if not UNREAD.match(path)]
    return [path for path, place in places if place.is_symlink() or place.is_file()]


def _listed(root: Path, debs: Iterable[str]) -> list[str]:
    """What Debian's packages list, folders too, by the paths where it lies in a system with /usr merged."""
    lines = [line for deb in debs for line in _run(["chroot", root, "dpkg-query", "--listfiles", deb]).splitlines()]
    return list(dict.fromkeys(re.sub(r"^/(bin|lib|lib64|sbin)/", r"/usr/\1/", line) for line in lines))


def _libraries(root: Path, debs: Iterable[str]) -> list[str]:
    """What the libraries of Debian's packages provide, in the words that rpm finds on its own for a real package."""
    files = [f"{root}{path}" for path in _files(root, debs) if re.search(r"/usr/lib.*\.so(\.[0-9]+)*$", path)]
    words = ["sh", "-c", 'printf "%s\n" "$@" | /usr/lib/rpm/elfdeps --provides', "sh", *files]
    return sorted(set(_run(words).split())) if files else []


SPEC = """%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
%global _build_id_links none
%global _binary_payload w3.zstdio
%global _binaries_in_noarch_packages_terminate_build 0
Name: stand-ins
Version: 43
Release: 1
Summary: Fedora's names for what Debian's packages are
License: MIT
BuildArch: noarch
AutoReqProv: no

%description
%{{summary}}.

%install
rm -rf %{{buildroot}}
cp -a {payload} %{{buildroot}}

{packages}
"""


def _package(name: str, version: str = "43", header: Iterable[str] = (), paths: Iterable[str] = ()) -> str:
    """The part of a spec that makes one RPM."""
    extra = FEDORA_FILES / name
    lines = [
        f"%package -n {name}",
        f"Version: {version}",
        f"Summary: A stand-in for Fedora's {name}",
        "AutoReqProv: no",
    ]
    lines += header
    if (extra / "header").exists():
        lines.append((extra / "header").read_text().strip())
    lines += [f"%description -n {name}", "It carries files of Debian's packages, or none."]
    for section in ("pre", "post"):
        if (extra / section).exists():
            lines += [f"%{section} -n {name}", (extra / section).read_text().strip()]
    lines.append(f"%files -n {name}")
    lines += [("%config(noreplace) " if path.startswith("/etc/") else "") + f'"{path}"' for path in paths]
    return "\n".join(lines) + "\n"


def _rpms(packages: list[str], repo: Path, payload: Path | None = None) -> None:
    """Builds the packages of a spec's parts into a folder."""
    with tempfile.TemporaryDirectory(dir=repo.parent) as scratch:
        spec = Path(scratch, "stand-ins.spec")
        empty = Path(scratch, "empty")
        empty.mkdir()
        spec.write_text(SPEC.format(payload=payload or empty, packages="\n".join(packages)))
        _run(["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {scratch}", "--define", f"_rpmdir {repo}",
              "--define", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.rpm", spec])  # fmt: skip


def _version(root: Path, row: list[str]) -> str:
    """Upstream's version of the first Debian package, as an RPM's version may be written."""
    if not row:
        return "43"
    version = _run(["chroot", root, "dpkg-query", "--show", "--showformat", "${Version}", row[0]])
    return re.sub(r"[^A-Za-z0-9.+~^]", ".", re.sub(r"-[^-]*$", "", version.partition(":")[2] or version))


# -- files with pinned digests


def wheels() -> Path:
    files = [file for pattern in PINS for file in sorted(ROLES.glob(pattern))]
    name = f"mirror-wheels-{digest([file.read_text() for file in files])}"
    with made(name) as part:
        for file in files if part else []:
            words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
            words += ["--require-hashes", "--only-binary=:all:", f"--find-links={CACHE / 'wheels'}"]
            _run([*words, "--dest", str(part), "--requirement", str(file)])
    return CACHE / name


def pinned(text: str) -> dict[str, str]:
    """File names and their SHA-256 from lines as sha256sum writes them."""
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](\S+)$", text, re.MULTILINE)}


def rust() -> Path:
    return _downloads("rust", RUST, sorted(ROLES.glob("rust_toolchain/files/*.txt")))


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
    """What stands in for the runner's download, which cannot be had everywhere: a scenario's files/gitea."""
    files = sorted(PROJECT.glob("molecule/release/files/gitea/*"))
    name = f"mirror-gitea-{digest(files=files)}"
    with made(name) as part:
        for file in files if part else ():
            shutil.copy(file, part)
    return CACHE / name


# -- overlays, each in a mount namespace of its own


def _in_overlay(what: str, part: Path, lowest: Path, *words: str) -> None:
    command = [sys.executable, __file__, what, str(part), str(lowest), *words]
    _run(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation=private", *command], quiet=False)


def main() -> None:
    what, part, lowest, *names = sys.argv[1:]
    folder = Path(part)
    upper = folder / ("layer" if what == "fedora" else ".upper")
    work, root = folder / ".work", folder / ".root"
    for path in (upper, work, root):
        path.mkdir()
    _run(["mount", "-t", "overlay", "-o", f"lowerdir={lowest},upperdir={upper},workdir={work}", "overlay", root])
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    if what == "fedora":
        _make_stand_in(folder, root, Path(lowest))
    else:
        _make_debian(folder, root, names)
    (root / "etc/resolv.conf").unlink()
    _run(["umount", "--recursive", root])
    for path in (work, root, folder / "payload", upper):
        if path.name != "layer":
            shutil.rmtree(path, ignore_errors=True)


def _apt(root: Path, *words: str) -> str:
    # The mirror may be one that was frozen some time ago; its signatures are verified all the same.
    frozen = "Acquire::Check-Valid-Until=false"
    return _run(["chroot", root, "apt-get", "--quiet", "-o", frozen, *words], {"DEBIAN_FRONTEND": "noninteractive"})


def _run(words: list, more: Mapping[str, str] | None = None, *, check: bool = True, quiet: bool = True) -> str:
    """What a program prints; MirrorError with the end of its own words when it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(more or {})}
    errors = subprocess.PIPE if quiet else None
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, env=environment)
    if check and done.returncode:
        tail = "\n".join(((done.stderr or "") + done.stdout).strip().splitlines()[-8:])
        raise MirrorError(f"{' '.join(map(str, words[:6]))} failed: {tail}")
    return done.stdout


if __name__ == "__main__":
    main()
