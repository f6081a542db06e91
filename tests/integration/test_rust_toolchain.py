"""Rust from archives is pinned, complete or absent, and installed once.

The tests create small archives in the shape of Rust's own and fetch them from file://.
"""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.toolchain import rust
from pipeline.toolchain.rust import Dist, Toolchain, provide

PROJECT = Path(__file__).parents[2]
PARTS = {"rustc": ["bin/rustc"], "cargo": ["bin/cargo", "etc/bash_completion.d/cargo"], "rust-std": ["lib/libstd.rlib"]}


def program(version: str) -> str:
    return f"#!/bin/sh\necho 'rustc {version}'\necho 'release: {version}'\n"


def make_archive(folder: Path, part: str, version: str) -> str:
    """Create an archive like Rust's; returns its line of a pins file."""
    name = f"{part}-1.95.0-x86_64-unknown-linux-gnu"
    files = {f"{part}/{path}": program(version) for path in PARTS[part]}
    files |= {"components": part, "install.sh": "exit 1", f"{part}/manifest.in": "file:bin/rustc"}
    with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(text), 0o755 if "/bin/" in path else 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    path = folder / f"{name}.tar.xz"
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Dist]:
    """Returns a function that publishes a release whose programs print a version, and returns its Dist."""
    folder = tmp_path / "dist"
    folder.mkdir()

    def dist(version: str = "1.95.0") -> Dist:
        pins = "# a comment\n" + "".join(make_archive(folder, part, version) for part in PARTS)
        return Dist("1.95.0", tmp_path / "builder", f"file://{folder}/", pins)

    return dist


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_the_archives_become_one_tree(publish: Callable[..., Dist], tmp_path: Path) -> None:
    dist = publish()
    planned, would = provide(dist, "dist", check=True)
    assert not (tmp_path / "builder").exists(), "check mode creates nothing"
    toolchain, changed = provide(dist, "dist")
    assert (planned, would, changed) == (toolchain, True, True)
    folder = tmp_path / "builder/toolchain/rust-1.95.0"
    assert toolchain.cargo == str(folder / "bin/cargo")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "bin/cargo", "bin/rustc", "etc/bash_completion.d/cargo", "files.json", "lib/libstd.rlib", "toolchain.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == ["rust-1.95.0"]


def test_nothing_is_fetched_while_the_pins_are_the_same_whatever_the_url(
    publish: Callable[..., Dist], tmp_path: Path
) -> None:
    dist = publish()
    first, _ = provide(dist, "dist")
    before = everything(tmp_path / "builder")
    assert provide(dataclasses.replace(dist, url="file:///nonexistent"), "dist") == (first, False)
    assert everything(tmp_path / "builder") == before


def test_another_release_is_installed_beside_the_old_one(publish: Callable[..., Dist]) -> None:
    first, _ = provide(publish(), "dist")
    other = dataclasses.replace(publish("1.96.0"), version="1.96.0")
    second, changed = provide(other, "dist")
    assert changed
    assert Path(first.cargo).exists()
    assert Path(second.cargo).exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("bytes", "a file does not match its pinned SHA-256; nothing was installed"),
        ("nowhere", "the download failed: "),
        ("release", "the pins for Rust 1.95.0 contain rustc 1.94.0"),
        ("no pins", "there are no pins for Rust 1.95.0"),
        ("other pins", "the pins are not lines of a SHA-256 and a file name"),
        ("no archive", "the archive cannot be unpacked"),
    ],
)
def test_a_wrong_archive_installs_nothing_and_keeps_the_installed_release(
    publish: Callable[..., Dist], tmp_path: Path, wrong: str, message: str
) -> None:
    good = publish()
    provide(good, "dist")
    before = everything(tmp_path / "builder/toolchain/rust-1.95.0")
    dist = publish("1.94.0" if wrong == "release" else "1.95.0")
    archive = next((tmp_path / "dist").glob("cargo-*"))
    if wrong in {"bytes", "no archive"}:
        archive.write_bytes(b"other bytes")
    changes = {
        "bytes": {"pins": dist.pins + "#"},
        "nowhere": {"url": "file:///nonexistent"},
        "no pins": {"pins": "# nothing\n"},
        "other pins": {"pins": "rustc.tar.xz\n"},
        "no archive": {"pins": f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n"},
    }
    dist = dataclasses.replace(dist, **changes.get(wrong, {}))
    if wrong in {"bytes", "nowhere"}:
        # The same pins would match the installed release: remove one.
        dist = dataclasses.replace(dist, pins="".join(dist.pins.splitlines(keepends=True)[1:3]))
    with pytest.raises(PipelineError, match=message):
        provide(dist, "dist")
    assert everything(tmp_path / "builder/toolchain/rust-1.95.0") == before
    assert not [path for path in (tmp_path / "builder/toolchain").iterdir() if "partial" in path.name]


def test_leftovers_of_an_interrupted_run_are_removed(publish: Callable[..., Dist], tmp_path: Path) -> None:
    partial = tmp_path / "builder/toolchain/.rust-1.95.0.partial"
    (partial / "tree/bin").mkdir(parents=True)
    (partial / "tree/bin/rustc").write_text("half of it")
    toolchain, changed = provide(publish(), "dist")
    assert changed
    assert Path(toolchain.cargo).parent.joinpath("rustc").read_text() == program("1.95.0")
    assert not partial.exists()


def test_the_systems_rust_is_accepted_when_recent_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rust, "SYSTEM", tmp_path)
    dist = Dist("1.95.0", tmp_path / "builder", "", "")
    with pytest.raises(PipelineError, match="the system's Rust is missing, and 1.95.0 or later is needed"):
        provide(dist, "system")
    assert provide(dist, "system", check=True)[1] is False, "its package may not be installed yet"
    for name in ("rustc", "cargo"):
        (tmp_path / name).write_text(program("1.94.1"))
        (tmp_path / name).chmod(0o755)
    with pytest.raises(PipelineError, match="the system's Rust is 1.94.1"):
        provide(dist, "system")
    (tmp_path / "rustc").write_text(program("1.96.0"))
    assert provide(dist, "system") == (Toolchain("1.96.0", str(tmp_path / "cargo"), "system"), False)


def test_the_inventorys_release_has_complete_pins() -> None:
    text = (PROJECT / "inventory/group_vars/all/toolchain.yml").read_text()
    version = text.split('rust_version: "', 1)[1].split('"', 1)[0]
    pins = (PROJECT / f"roles/rust_toolchain/files/rust-{version}.txt").read_text()
    names = Dist(version, Path(), "", pins).archives
    assert sorted(names) == [
        f"{part}-{version}-x86_64-unknown-linux-gnu.tar.xz" for part in ("cargo", "rust-std", "rustc")
    ]
