"""The project's own git folders, the signer's mirror and a builder's checkout, after a kill or a power failure."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.lock import held
from pipeline.base.records import Source
from pipeline.base.run import run
from pipeline.build.fetch import fetch
from pipeline.source import checkout, git_folder
from pipeline.source.upstream import resolve
from pipeline.toolchain.rust import find_rust
from support.clones import state

PERSON = ("-c", "user.name=x", "-c", "user.email=x@x")


@dataclass(frozen=True)
class Place:
    """A clone of this project with a signer and a builder in it, both at upstream's 0.9.2; 0.9.3 is newer."""

    clone: Path
    upstream: Path

    @property
    def mirror(self) -> Path:
        return self.clone / "signer/upstream.git"

    @property
    def src(self) -> Path:
        return self.clone / "builder/src"

    def git_dir(self, role: str) -> Path:
        return self.mirror if role == "signer" else self.src / ".git"

    def resolve(self, version: str = "", branch: str = "") -> Source:
        kind = "branch" if branch else "tag"
        return resolve(f"file://{self.upstream}", self.mirror, kind=kind, version=version, branch=branch)

    def move(self, source: Source) -> checkout.Checkout:
        return checkout.move(self.src, source)

    @property
    def version(self) -> str:
        """The version of the files that are checked out."""
        return str(tomllib.loads((self.src / "Cargo.toml").read_text())["workspace"]["package"]["version"])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, stand_in: ModuleType) -> Place:
    folder = tmp_path_factory.mktemp("folders")
    place = Place(folder / "clone", folder / "upstream.git")
    stand_in.create(place.upstream)
    git("init", "--quiet", place.clone)
    git(*PERSON, "commit", "--quiet", "--allow-empty", "--message", "x", repository=place.clone)
    place.move(place.resolve())
    stand_in.release(place.upstream, "0.9.3")
    return place


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy, as after a power failure. Nothing ever happens to the clone around it."""
    copy = Place(tmp_path / "clone", original.upstream)
    shutil.copytree(original.clone, copy.clone, symlinks=True)
    before = state(copy.clone / ".git")
    yield copy
    assert state(copy.clone / ".git") == before


def empty(*files: Path) -> None:
    """As a file is that was written, and not yet on the disk."""
    for file in files:
        if file.exists():
            file.chmod(0o600)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def without_empty_folders(folder: Path) -> None:
    """As some copies arrive, such as one through a bucket."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def packed(folder: Path, cut: int) -> None:
    git("pack-refs", "--all", repository=folder)
    file = folder / "packed-refs"
    file.write_text(file.read_text()[:cut] if cut else "\0" * 100)


def objects(folder: Path, ending: str = "") -> list[Path]:
    return [path for path in (folder / "objects").rglob(f"*{ending}") if path.is_file()]


def elsewhere(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an empty HEAD": lambda g: empty(g / "HEAD"),
    "HEAD names a missing commit": lambda g: (g / "HEAD").write_text("1" * 40 + "\n"),
    "copied without empty folders": without_empty_folders,
    "no refs": lambda g: shutil.rmtree(g / "refs"),
    "no objects": lambda g: shutil.rmtree(g / "objects"),
    "a corrupt config": lambda g: (g / "config").write_text("[[\n"),
    "packed-refs cut off": lambda g: packed(g, -30),
    "packed-refs without content": lambda g: packed(g, 0),
    "alternates gone": lambda g: (g / "objects/info/alternates").write_text("/nonexistent\n"),
    "empty objects": lambda g: empty(*objects(g)),
    "empty indexes of packs": lambda g: empty(*objects(g, ".idx")),
    "packs gone": lambda g: [path.unlink() for path in objects(g, ".pack")],
    "empty references": lambda g: empty(*(path for path in (g / "refs").rglob("*") if path.is_file())),
    "an empty index": lambda g: empty(*g.glob("index")),
    "a corrupt shallow file": lambda g: (g / "shallow").write_text("x\n"),
    "a link": elsewhere,
    "a file": lambda g: (shutil.rmtree(g), g.write_text("gitdir: /nonexistent\n")),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_made_anew(place: Place, damage: str) -> None:
    newer = place.resolve()
    # Of the kernels 0.9.3 changes this one.
    kernels = {path for path in place.src.rglob("*.cu") if path.name != "sort.cu"}
    times = {path: path.stat().st_mtime_ns for path in kernels}
    for role in ("signer", "builder"):
        (place.git_dir(role) / "objects/info").mkdir(exist_ok=True)
        DAMAGES[damage](place.git_dir(role))
    assert place.resolve("0.9.1").version == "0.9.1"
    assert place.resolve(branch="master").version == "0.9.3"
    place.move(newer)
    assert place.version == "0.9.3"
    assert git("status", "--porcelain", repository=place.src) == ""
    # A build does not compile them again.
    assert times
    assert {path: path.stat().st_mtime_ns for path in kernels} == times
    place.move(place.resolve("0.9.1"))
    assert place.version == "0.9.1"


@pytest.mark.parametrize("damage", ["empty objects", "packs gone", "an empty index", "empty references"])
def test_a_try_build_does_not_need_an_intact_checkout_of_releases(place: Place, damage: str) -> None:
    DAMAGES[damage](place.git_dir("builder"))
    apart = place.clone / "builder/try/src"
    checkout.seed(apart, place.src)
    assert checkout.move(apart, place.resolve(branch="master")).moved
    assert git("status", "--porcelain", repository=apart) == ""


def test_the_failure_of_an_intact_folder_changes_nothing(place: Place, tmp_path: Path) -> None:
    git_dir, source = place.git_dir("builder"), place.resolve()
    before = state(place.src / "mistralrs-core", git_dir / "objects", git_dir / "refs"), git_dir.stat().st_ino
    gone = Source(f"file://{tmp_path}/gone", "v0.9.3", "tag", source.commit, source.commit_time, "0.9.3", "0.9.3")
    with pytest.raises(PipelineError, match="gone"):
        place.move(gone)
    after = state(place.src / "mistralrs-core", git_dir / "objects", git_dir / "refs"), git_dir.stat().st_ino
    assert after == before


LOCKS = (
    "index.lock", "HEAD.lock", "config.lock", "shallow.lock", "packed-refs.lock", "packed-refs.new", "gc.pid.lock",
    "refs/heads/master.lock", "refs/tags/v0.9.3.lock", "refs/tags/v0.9.2.lock", "refs/upstream/v0.9.3.lock",
    "objects/info/commit-graph.lock", "objects/pack/multi-pack-index.lock",
)  # fmt: skip


def test_lock_files_of_a_killed_git_are_removed(place: Place) -> None:
    for role in ("signer", "builder"):
        empty(*(place.git_dir(role) / lock for lock in LOCKS))
    place.move(place.resolve())
    assert place.version == "0.9.3"
    assert place.resolve(branch="master").version == "0.9.3"
    for role in ("signer", "builder"):
        git("pack-refs", "--all", repository=place.git_dir(role))
        assert [lock for lock in LOCKS if (place.git_dir(role) / lock).exists()] == []


def test_a_git_that_outlived_its_run_keeps_its_lock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_folder, "PATIENCE", 0.5)
    lock, source = place.git_dir("builder") / "index.lock", place.resolve()
    empty(lock)
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "GIT_DIR": str(lock.parent)}) as orphan:
        with pytest.raises(PipelineError, match=f"git still works here.*process {orphan.pid} .*Wait until it ends"):
            place.move(source)
        assert lock.exists()
        monkeypatch.setattr(git_folder, "PATIENCE", 60)
        orphan.kill()
    place.move(source)
    assert place.version == "0.9.3"


def test_the_lock_file_of_another_run_stays(place: Place) -> None:
    """A check reads a commit while a build has the checkout."""
    lock, source = place.git_dir("builder") / "index.lock", place.resolve()
    empty(lock)
    with held(place.clone / "builder/lock"):
        assert checkout.bring(place.src, source, place.clone / "builder/lock", lambda: source.version) == "0.9.3"
        assert lock.exists()
    checkout.bring(place.src, source, place.clone / "builder/lock", lambda: None)
    assert not lock.exists()


def test_lock_files_in_cargos_own_git_folders_are_removed(tmp_path: Path) -> None:
    helper, member, rust = tmp_path / "helper", tmp_path / "member", find_rust()
    home = tmp_path / "cargo"
    home.mkdir()
    for folder, name, more in ((helper, "helper", ""), (member, "member", f'helper = {{ git = "file://{helper}" }}')):
        (folder / "src").mkdir(parents=True)
        (folder / "src/lib.rs").touch()
        (folder / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "1.0.0"\n[dependencies]\n{more}\n')
    git("init", "--quiet", helper)
    path = f"{rust.bin}:/usr/bin:/bin"
    variables = {"CARGO_HOME": str(home), "HOME": str(tmp_path), "PATH": path, "CARGO_NET_GIT_FETCH_WITH_CLI": "true"}

    def committed() -> str:
        git("add", "--all", repository=helper)
        git(*PERSON, "commit", "--quiet", "--allow-empty", "--message", "x", repository=helper)
        return git("rev-parse", "HEAD", repository=helper).strip()

    first = committed()
    run([rust.bin / "cargo", "generate-lockfile"], cwd=member, env=variables)
    fetch(member, rust.bin / "cargo", variables, "always", io.StringIO())
    (database,) = (home / "git/db").iterdir()
    lock = member / "Cargo.lock"
    lock.write_text(lock.read_text().replace(first, committed()))
    locks = [database / "refs/remotes/origin" / name for name in ("HEAD.lock", "master.lock")]
    empty(*locks)
    assert fetch(member, rust.bin / "cargo", variables, "always", io.StringIO())
    assert [path for path in locks if path.exists()] == []


@pytest.mark.parametrize("renamed", [("next", "next/0.9"), ("next/0.9", "next"), ("next/0.9/a", "next")])
@pytest.mark.parametrize("pack", [False, True], ids=["loose", "packed"])
def test_a_branch_may_become_a_folder_of_branches_and_back(
    place: Place, stand_in: ModuleType, tmp_path: Path, renamed: tuple[str, str], pack: bool
) -> None:
    upstream = Path(shutil.copytree(place.upstream, tmp_path / "upstream.git"))
    own = Place(place.clone, upstream)
    for number, name in enumerate(renamed):
        git("update-ref", f"refs/heads/{name}", f"master~{2 - number}", repository=upstream)
        git("update-ref", f"refs/tags/{name}", "master", repository=upstream)
        source = own.resolve(branch=name)
        assert own.move(source).commit == git("rev-parse", f"master~{2 - number}", repository=upstream).strip()
        git("update-ref", "-d", f"refs/heads/{name}", repository=upstream)
        git("update-ref", "-d", f"refs/tags/{name}", repository=upstream)
        if pack:
            for role in ("signer", "builder"):
                git("pack-refs", "--all", repository=own.git_dir(role))
    # A release's tag, and a branch below its name.
    own.move(own.resolve("0.9.3"))
    git("update-ref", "refs/heads/v0.9.3/fix", "master~1", repository=upstream)
    assert own.move(own.resolve(branch="v0.9.3/fix")).moved
