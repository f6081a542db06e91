"""Reproduce: a build from nothing in another folder must have the same bytes.

    prepare --> (cargo_build below the second root; the signer packages both builds) --> compare --> remove

Rules:

1. The second root is ``<root>/reproduce``: another path of another length. It has its own checkout, whose objects are
   hard links to the first one's, a CARGO_HOME with only the first one's downloads, an empty target directory, and no
   compile cache. The toolchain is the same.
2. The binaries and the unsigned packages are compared byte by byte. Signatures are not.
3. On a difference the report names the place (sections, the first strings that only one has; diffoscope's output where
   it is installed) and the crates: those that were compiled to other bytes although none of their dependencies was,
   and those whose folders are in the strings.
4. The report stays, and so does the log of a failed second build. ``remove`` deletes the second root in any state.

Identical bytes also verify the cache: its output is the compiler's.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.companions import LARGEST_BINARY
from ..base.errors import PipelineError
from ..base.records import Artifact, Package, Record, digest_of, sha256_file
from ..base.run import run
from ..base.sandbox import Sandbox
from ..source.checkout import share_objects
from ..source.git_folder import initialise

FOLDER = "reproduce"
MARK = ".reproduce"
SHOWN = 12
"""The number of strings and sections of a difference that are reported."""

_STRING = re.compile(rb"[\x20-\x7e]{8,}")
_SECTION = re.compile(r"^ +\[ *\d+\] (\S+) +(\S+) +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)", re.MULTILINE)
# A crate's name in a path: downloaded, from git, in a build script's folder, in the checkout.
_CRATES = (
    re.compile(r"/registry/src/[^/]+/([A-Za-z0-9_-]+?)-\d+\.\d"),
    re.compile(r"/git/checkouts/([A-Za-z0-9_-]+)-[0-9a-f]{16}/"),
    re.compile(r"/build/([A-Za-z0-9_-]+)-[0-9a-f]{16}(?:/|$)"),
    re.compile(r"/src/([A-Za-z0-9_-]+)(?:/|$)"),
)
# Folders below CARGO_HOME that cargo unpacks from its downloads.
_UNPACKED = ("registry/src", "git/checkouts")


@dataclass(frozen=True)
class Comparison(Record):
    """The digests of both builds. ``sections``, ``strings`` and ``crates`` are empty where nothing differs."""

    what: str
    first: str
    second: str
    sections: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    crates: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.first == self.second

    def summary(self) -> str:
        """One line of the report."""
        if self.same:
            return f"{self.what}: the same bytes, SHA-256 {self.first}"
        where = f"; differs in {', '.join(self.sections)}" if self.sections else ""
        origin = f"; caused by {', '.join(self.crates)}" if self.crates else ""
        return f"{self.what}: {self.first[:16]} and {self.second[:16]}{where}{origin}"


def second_root(root: Path) -> Path:
    return root / FOLDER


# ---------------------------------------------------------------- the second root


def prepare(root: Path) -> Path:
    """Create a fresh second root with copies of the downloads."""
    second = second_root(root)
    remove(root)
    try:
        second.mkdir()
        (second / MARK).touch()
        initialise(second / "src", bare=False)
        share_objects(second / "src", root / "src")
        for name, without in (("cargo", _UNPACKED), ("cudaforge", ())):
            if (root / name).is_dir():
                _share(root / name, second / name, without)
    except OSError as error:
        raise PipelineError(
            f"the second root cannot be created: {error}",
            str(second),
            "Free space, or give the folder to the builder's account",
        ) from error
    return second


def remove(root: Path) -> bool:
    """Delete the second root; returns whether there was one. Raises PipelineError for a folder of other origin."""
    second = second_root(root)
    if not second.exists():
        return False
    if not (second / MARK).exists():
        raise PipelineError(
            "this folder is not from a reproduction", str(second), "Move it away: the second build needs its place"
        )
    if not list(second.glob("artifacts/*/*/manifest.json")):
        for log in second.glob("log/*.log"):
            (root / "log").mkdir(exist_ok=True)
            shutil.copyfile(log, root / "log" / f"reproduce-{log.name}")
    # The mark goes last, so that the next call completes an interrupted removal.
    for path in second.iterdir():
        if path.name != MARK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(second)
    return True


def _share(origin: Path, copy: Path, without: Sequence[str]) -> None:
    """Copy a folder of downloads without the folders in ``without``. Crates, which never change, are hard links."""

    def omitted(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(origin)
        return {name for name in names if str(inside / name) in without}

    def put(source: str, destination: str) -> None:
        if source.endswith(".crate"):
            try:
                os.link(source, destination)
            except OSError:  # another file system
                shutil.copy2(source, destination)
        else:
            shutil.copy2(source, destination)

    shutil.copytree(origin, copy, symlinks=True, ignore=omitted, copy_function=put)


# ---------------------------------------------------------------- comparing


def compare(root: Path, first: Artifact, second: Artifact) -> Comparison:
    """Compare the binaries of both builds."""
    one, other = (Path(artifact.folder) / artifact.binary for artifact in (first, second))
    digests = sha256_file(one), sha256_file(other)
    if digests[0] == digests[1]:
        return Comparison("binary", *digests)
    strings = differing_strings(one, other)
    crates = crates_named(strings)
    targets = root / "target", second_root(root) / "target"
    if is_of(targets[0], first):
        crates = [*culprits(*targets), *crates]
    return Comparison(
        "binary", *digests, tuple(differing_sections(one, other)), tuple(strings), tuple(dict.fromkeys(crates))
    )


def compare_packages(first: Package, second: Package) -> Comparison:
    """Compare the unsigned packages of both builds, by the records that the signer read back from them.

    Differing header tags are listed as sections where the packages are on this machine.
    """
    paths, digests = (Path(first.path), Path(second.path)), (first.sha256, second.sha256)
    if digests[0] == digests[1] or not all(path.is_file() for path in paths):
        return Comparison("package", *digests)
    tags = [_tags(path) for path in paths]
    sections = [name for name in tags[0] if tags[0][name] != tags[1].get(name)]
    return Comparison("package", *digests, tuple(sections[:SHOWN]))


def is_of(target: Path, artifact: Artifact) -> bool:
    """Whether cargo's target directory still holds the artifact's binary."""
    binary = target / "release" / artifact.binary
    return _plain(binary) and sha256_file(binary) == artifact.sha256


def _plain(path: Path) -> bool:
    """Whether a path of a target directory is a file that may be read: upstream's code put it there."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_BINARY


def _tags(path: Path) -> dict[str, str]:
    """A package's header by tag, without the digests of the payload."""
    names = run(["rpm", "--querytags"]).stdout.split()
    wanted = [name for name in names if not name.startswith(("SHA", "SIG", "LONGSIG", "PAYLOADDIGEST"))]
    # A bell separates tags: headers contain none.
    form = "".join(f"{name}=[%{{{name}}} ]\\a" for name in wanted)
    # In its folder: rpm takes quotes and brackets in a path for those of a shell.
    output = run(["rpm", "-qp", "--nosignature", "--qf", form, "--", path.name], cwd=path.parent).stdout
    return dict(line.partition("=")[::2] for line in output.split("\a") if "=" in line)


def sections(path: Path) -> dict[str, str]:
    """The digest of each section of an ELF file that has bytes, by its name. The file may be hostile to readelf."""
    words = ["readelf", "--section-headers", "--wide", str(path)]
    found = _SECTION.findall(Sandbox(readable=(path.parent,)).run(words, timeout=120).stdout)
    data = path.read_bytes()
    return {
        name: digest_of(data[int(at, 16) : int(at, 16) + int(size, 16)].hex())
        for name, kind, at, size in found
        if kind not in ("NOBITS", "NULL")
    }


def differing_sections(one: Path, other: Path) -> list[str]:
    """The names of the sections that differ; none where they cannot be read."""
    try:
        first, second = sections(one), sections(other)
    except PipelineError:
        return []
    return [name for name in {**first, **second} if first.get(name) != second.get(name)][:SHOWN]


def differing_strings(one: Path, other: Path) -> list[str]:
    """The first strings that only one of two files has; strings with a path come first."""
    sets = [set(_strings(path)) for path in (one, other)]
    only = [sorted(sets[at] - sets[1 - at], key=lambda text: ("/" not in text, text)) for at in (0, 1)]
    return [f"{sign} {text[:200]}" for sign, texts in zip("-+", only, strict=True) for text in texts[: SHOWN // 2]]


def _strings(path: Path) -> Iterator[str]:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _STRING.finditer(data):
            yield match[0].decode()


def crates_named(strings: list[str]) -> list[str]:
    """The crates whose folders are in the strings, in their order."""
    found = [name for text in strings for pattern in _CRATES for name in pattern.findall(text)]
    return list(dict.fromkeys(found))


def culprits(one: Path, other: Path) -> list[str]:
    """The crates that differ between two target directories."""
    # The first directory may hold units of other builds too: only units in both are compared.
    return differing_crates(units(one), units(other), dependencies(other), crate_names(other))


def differing_crates(
    first: Mapping[str, str], second: Mapping[str, str], uses: Mapping[str, Collection[str]], names: Mapping[str, str]
) -> list[str]:
    """The crates with differing units, without those that depend on another differing crate.

    A crate is its library (``deps/*.rlib``) and its build script's output. ``uses`` are dependencies from cargo's
    fingerprints, ``names`` the crates' own names by those in code.
    """
    different = {_crate(name) for name in second if name in first and first[name] != second[name]}
    return sorted(names.get(name, name) for name in different if not set(uses.get(name, ())) & (different - {name}))


def crate_names(target: Path) -> dict[str, str]:
    """The crates' names by those in code: "mistralrs_core" gives "mistralrs-core"."""
    return {_crate(path.name): path.name.rpartition("-")[0] for path in (target / "release/.fingerprint").glob("*")}


def units(target: Path) -> dict[str, str]:
    """The digest of each library's machine code and of each build script's output, by cargo's unit name.

    Names of objects and a library's metadata do not count: they contain paths that never reach a binary.
    """
    release = target / "release"
    libraries = [path for path in (release / "deps").glob("lib*.rlib") if _plain(path)]
    found = {path.stem.removeprefix("lib"): _contents(path) for path in libraries}
    for folder in (release / "build").glob("*/out"):
        made = [path for path in folder.rglob("*") if path.suffix in (".o", ".a", ".ptx") and _plain(path)]
        found[folder.parent.name] = sorted(digest for path in made for digest in _contents(path))
    return {name: digest_of(digests) for name, digests in found.items()}


def _contents(path: Path) -> list[str]:
    """The digests of the members of an archive (ar(5)); of any other file its own digest."""
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        return [sha256_file(path)]
    found, at = [], 8
    while at + 60 <= len(data):
        name, digits = data[at : at + 16].rstrip(), data[at + 48 : at + 58].rstrip()
        if not digits.isdigit():
            return [sha256_file(path)]
        size = int(digits)
        if name not in (b"/", b"//", b"/SYM64/", b"lib.rmeta/"):
            found.append(hashlib.sha256(data[at + 60 : at + 60 + size]).hexdigest())
        at += 60 + size + size % 2
    return sorted(found)


def dependencies(target: Path) -> Mapping[str, set[str]]:
    """The dependencies of each crate, from cargo's fingerprints. A build script counts as part of its crate."""
    uses: dict[str, set[str]] = {}
    for path in (target / "release" / ".fingerprint").glob("*/*.json"):
        if not _plain(path):
            continue
        try:
            names = {entry[1] for entry in json.loads(path.read_text()).get("deps", [])}
        except (ValueError, AttributeError, IndexError, TypeError, RecursionError):  # the format of another cargo
            continue
        uses.setdefault(_crate(path.parent.name), set()).update(names - {"build_script_build", "build_script_main"})
    return uses


def _crate(name: str) -> str:
    """The crate of a unit, as code names it: "mistralrs-core-<hash>" gives "mistralrs_core"."""
    return name.rpartition("-")[0].replace("-", "_")


# ---------------------------------------------------------------- the report


def diffoscope(one: Path, other: Path) -> str:
    """diffoscope's report on two files; "" without diffoscope, its error where it fails."""
    if shutil.which("diffoscope") is None:
        return ""
    words = ["diffoscope", "--text", "-", "--no-progress", "--max-text-report-size", "60000"]
    try:
        # The files may be hostile to the many programs that it starts.
        inside = Sandbox(readable=(one.parent, other.parent))
        return inside.run([*words, str(one), str(other)], accept=(0, 1), timeout=1800).stdout
    except PipelineError as error:
        return f"diffoscope: {error.what}\n"


def report(first: Artifact, second: Artifact, comparisons: Sequence[Comparison], more: str = "") -> str:
    """The report's text; ``more`` is diffoscope's."""
    lines = [
        f"{first.flavour.name} {first.source.rpm_version}, commit {first.source.commit}, rustc {first.rustc}"
        + (f", CUDA {first.cuda}" if first.cuda else ""),
        f"first build:  {first.folder} ({first.compiled} units compiled, {first.cache_hits} from the cache)",
        f"second build: {second.folder} ({second.compiled} units compiled, no cache)",
        "",
    ]
    for comparison in comparisons:
        lines.append(comparison.summary())
        lines += [f"    {string}" for string in comparison.strings]
    return "\n".join([*lines, *([more] if more else [])]) + "\n"


def refuse(comparisons: Sequence[Comparison], where: str) -> None:
    """PipelineError, with the comparisons, if anything differs."""
    if all(comparison.same for comparison in comparisons):
        return
    lines = "".join(f"    {comparison.summary()}\n" for comparison in comparisons)
    error = PipelineError(
        f"the second build has other bytes:\n{lines}",
        where,
        "The output depends on the builder (a path, a time, an order): the report names the place",
    )
    error.details["comparisons"] = [comparison.to_dict() for comparison in comparisons]
    raise error


def compared(root: Path, artifacts: Sequence[Artifact], packages: Sequence[Package]) -> tuple[list[Comparison], Path]:
    """Compare both builds and write the report below ``root``; returns the comparisons and the report's path."""
    first, second = artifacts
    comparisons = [compare(root, first, second), compare_packages(*packages)]
    more = ""
    if not comparisons[0].same:
        more = diffoscope(*(Path(artifact.folder) / artifact.binary for artifact in artifacts))
    elif not comparisons[1].same:
        more = diffoscope(*(Path(package.path) for package in packages))
    path = root / "log" / f"reproduce-{first.flavour.name}-{first.source.rpm_version}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(first, second, comparisons, more))
    return comparisons, path
