"""The stand-in for Fedora's packages: RPMs under Fedora's names with the files of Debian's packages.

Rules:

- fedora_packages/table.yml names the Debian packages of each RPM; fedora_packages/<name>/ adds Fedora's own files.
- A file belongs to one RPM: that of the first row with its Debian package. Packages of the tree belong to none.
- A bare host has a program only once its RPM is installed; dependencies of the programs are in a layer over the tree.
- A name without a row is an RPM without files.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import yaml
from parts import apt, run
from settings import CACHE

FEDORA_FILES = Path(__file__).parent / "fedora_packages"
FEDORA_TABLE = FEDORA_FILES / "table.yml"
UNREAD = re.compile(r"/usr/share/(doc|info|lintian|locale|man|bug)/|/var/lib/dpkg/")


def fedora_table() -> dict[str, list[str]]:
    """The Debian packages of each of Fedora's names."""
    return yaml.safe_load(FEDORA_TABLE.read_text())


def make_stand_in(part: Path, root: Path, lowest: Path) -> None:
    """Runs with an overlay of the tree at `root`; its upper layer becomes the stand-in's."""
    table = fedora_table()
    archives = root / "var/cache/apt/archives"
    fetched = CACHE / "debs-forky"
    (fetched / "partial").mkdir(parents=True, exist_ok=True)
    archives.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", fetched, archives])
    apt(root, "update")
    there = set(run(["chroot", lowest, "dpkg-query", "--show", "--showformat", "${Package}\n"]).split())
    debs = sorted({deb for row in table.values() for deb in row} - there)
    if debs:
        # Maintainer scripts may read it.
        run(["mount", "-t", "proc", "proc", root / "proc"])
        apt(root, "install", "--yes", "--no-install-recommends", *debs)
        run(["umount", root / "proc"])
    run(["umount", archives])
    payload = part / "payload"
    payload.mkdir()
    packages = []
    owner = owners(table, there)
    needs = dependencies((root / "var/lib/dpkg/status").read_text())
    for name, row in table.items():
        own = [deb for deb in row if owner.get(deb) == name]
        header = [f"Requires: {other}" for other in sorted(required(row, owner, needs) - {name})]
        header += [f"Provides: {library}" for library in _libraries(root, row)]
        packages.append(package(name, _version(root, row), header, _carve(root, payload, name, own)))
    rpms(packages, part / "repo", payload)
    # A bare Fedora has these: rows whose Debian packages are all in the tree.
    bare = [name for name, row in table.items() if name == "fedora-release" or (row and set(row) <= there)]
    present = [file for name in bare for file in (part / "repo").glob(f"{name}-[0-9]*.rpm")]
    run(["rpm", f"--root={root}", "--dbpath=/var/lib/rpm", "--nodeps", "--noscripts", "--install", *present])
    # Ansible would take apt for the system's package manager.
    for program in ("apt", "apt-get", "apt-cache", "dpkg"):
        (root / "usr/bin" / program).unlink(missing_ok=True)
    for path in (*root.glob("var/lib/apt/lists/*"), *root.glob("var/cache/apt/*.bin")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def owners(table: Mapping[str, list[str]], there: Container[str]) -> dict[str, str]:
    """The RPM that carries each Debian package: the first one that names it; none for packages of the tree."""
    owner: dict[str, str] = {}
    for name, row in table.items():
        owner |= {deb: name for deb in row if deb not in there and deb not in owner}
    return owner


def dependencies(status: str) -> dict[str, set[str]]:
    """The dependencies of each package in dpkg's status file, all alternatives included."""
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Depends|Pre-Depends): (.*)$", paragraph, re.MULTILINE))
        words = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
        found[fields.get("Package", "")] = set(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", words))
    return found


def required(row: Iterable[str], owner: Mapping[str, str], needs: Mapping[str, set[str]]) -> set[str]:
    """The RPMs that carry a direct or indirect dependency of a row's Debian packages."""
    seen: set[str] = set()
    ahead = list(row)
    while ahead:
        deb = ahead.pop()
        if deb not in seen:
            seen.add(deb)
            ahead += needs.get(deb, ())
    return {owner[deb] for deb in seen if deb in owner}


def _carve(root: Path, payload: Path, name: str, debs: list[str]) -> list[str]:
    """Moves the files of Debian's packages from the layer to the RPM's payload, with Fedora's own; their paths."""
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
    # Debian enables installed services, Fedora does not.
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
    """The paths that Debian's packages list, folders included, in a system with merged /usr."""
    lines = [line for deb in debs for line in run(["chroot", root, "dpkg-query", "--listfiles", deb]).splitlines()]
    return list(dict.fromkeys(re.sub(r"^/(bin|lib|lib64|sbin)/", r"/usr/\1/", line) for line in lines))


def _libraries(root: Path, debs: Iterable[str]) -> list[str]:
    """The Provides of the libraries of Debian's packages, as rpm generates them for a real package."""
    files = [f"{root}{path}" for path in _files(root, debs) if re.search(r"/usr/lib.*\.so(\.[0-9]+)*$", path)]
    words = ["sh", "-c", 'printf "%s\n" "$@" | /usr/lib/rpm/elfdeps --provides', "sh", *files]
    return sorted(set(run(words).split())) if files else []


SPEC = """%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
%global _build_id_links none
%global _binary_payload w3.zstdio
%global _binaries_in_noarch_packages_terminate_build 0
Name: stand-ins
Version: 43
Release: 1
Summary: Debian's packages under Fedora's names
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


def package(name: str, version: str = "43", header: Iterable[str] = (), paths: Iterable[str] = ()) -> str:
    """The part of a spec for one RPM."""
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


def rpms(packages: list[str], repo: Path, payload: Path | None = None) -> None:
    """Builds the packages of a spec's parts into a folder."""
    with tempfile.TemporaryDirectory(dir=repo.parent) as scratch:
        spec = Path(scratch, "stand-ins.spec")
        empty = Path(scratch, "empty")
        empty.mkdir()
        spec.write_text(SPEC.format(payload=payload or empty, packages="\n".join(packages)))
        run(["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {scratch}", "--define", f"_rpmdir {repo}",
              "--define", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.rpm", spec])  # fmt: skip


def _version(root: Path, row: list[str]) -> str:
    """Upstream's version of the first Debian package, in RPM's syntax."""
    if not row:
        return "43"
    version = run(["chroot", root, "dpkg-query", "--show", "--showformat", "${Version}", row[0]])
    return re.sub(r"[^A-Za-z0-9.+~^]", ".", re.sub(r"-[^-]*$", "", version.partition(":")[2] or version))
