"""The cost of compressing a package: rpmbuild with this spec's payload beside Fedora's default, ``make bench``.

The payload resembles a CUDA build: machine code from Rust, and GPU code. The former is the newest artifact of the real
upstream, if possible of the flavour without a GPU (98 MB); the rest, up to 300 MB, are slices from the middle of CUDA's
libraries. Both runs use the same two processors. The limits are 0.6 of the time and 3 % more bytes.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline.package.rpm import rpmbuild_argv, rpmbuild_environment

SIZE = 300_000_000
ROUNDS = 2
FEDORA = "w19.zstdio"
LIBRARIES = ("libcublasLt.so.13", "libcudnn_engines_precompiled.so.9", "libcudnn_adv.so.9", "libcublas.so.13",
             "libcurand.so.10", "libnccl.so.2")  # fmt: skip
# Roots of builders that may have builds of the real upstream and a full toolkit.
ROOTS = (Path("/var/lib/mistralrs-rpm"), Path(__file__).parents[2] / ".local/builder")


@dataclass(frozen=True)
class Cost:
    seconds: float
    processor: float
    size: int


def binary() -> Path:
    """A build of the real upstream, preferably of the flavour cpu, then the newest."""
    named = os.environ.get("PAYLOAD_BINARY", "")
    found = [Path(named)] if named else [path for root in ROOTS for path in root.glob("artifacts/*/*/mistralrs")]
    large = [path for path in found if path.stat().st_size > 50_000_000]
    if not large:
        pytest.skip("no build of the real upstream found: set PAYLOAD_BINARY to one")
    return max(large, key=lambda path: ("/cpu/" in str(path), path.stat().st_mtime))


def libraries() -> list[Path]:
    named = os.environ.get("PAYLOAD_LIBRARIES", "")
    folders = [Path(named)] if named else [path for root in ROOTS for path in root.glob("toolchain/cuda-*/lib")]
    whole = [folder for folder in folders if all((folder / name).exists() for name in LIBRARIES)]
    if not whole:
        pytest.skip("no CUDA toolkit with libraries found: set PAYLOAD_LIBRARIES to their folder")
    return [whole[0] / name for name in LIBRARIES]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """SOURCES with the payload."""
    folder = tmp_path_factory.mktemp("sources")
    parts = libraries()
    with (folder / "mistralrs-ada").open("wb") as stream:
        stream.write(binary().read_bytes()[:SIZE])
        each = (SIZE - stream.tell()) // len(parts)
        for path in parts:
            with path.open("rb") as library:
                library.seek(max(0, (path.stat().st_size - each) // 2))
                stream.write(library.read(each))
    for path in (project / "rpm/systemd").glob("mistralrs@*"):
        shutil.copy(path, folder)
    return folder


def packaged(spec: str, sources: Path, folder: Path) -> Cost:
    """One run of rpmbuild on two processors."""
    topdir = folder / "top"
    topdir.mkdir()
    (topdir / "SOURCES").symlink_to(sources)
    (topdir / "x.spec").write_text(spec)
    argv = rpmbuild_argv(
        topdir / "x.spec", topdir, {"mistralrs_version": "0.8.0", "mistralrs_flavour": "ada", "mistralrs_commit": "1"}
    )
    processors = sorted(os.sched_getaffinity(0))[:2]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        argv,
        env=os.environ | rpmbuild_environment(topdir, 1_750_000_000),
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    (rpm,) = (topdir / "RPMS").glob("*/*.rpm")
    size = rpm.stat().st_size
    shutil.rmtree(topdir)
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size)


def test_the_payload_beside_fedoras_default(
    project: Path, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = (project / "rpm/mistralrs.spec").read_text()
    theirs, count = re.subn(r"(%global _binary_payload) .*", rf"\1 {FEDORA}", ours)
    assert count == 1
    # Alternating, so that other load on the machine affects both.
    costs = {name: [] for name in ("theirs", "ours")}
    for _ in range(ROUNDS):
        for name, spec in (("theirs", theirs), ("ours", ours)):
            costs[name].append(packaged(spec, sources, tmp_path))
    best = {name: min(cost.seconds for cost in runs) for name, runs in costs.items()}
    processor = {name: min(cost.processor for cost in runs) for name, runs in costs.items()}
    size = {name: runs[0].size for name, runs in costs.items()}
    assert all(len({cost.size for cost in runs}) == 1 for runs in costs.values())
    rows = (("time, s", best, 1.0), ("processor, s", processor, 1.0), ("size, MB", size, 1e6))
    with capsys.disabled():
        print(f"\nrpmbuild of {SIZE / 1e6:.0f} MB on 2 processors   the spec's   {FEDORA}   ratio")
        for name, of, unit in rows:
            print(f"{name:32}{of['ours'] / unit:13.1f}{of['theirs'] / unit:13.1f}{of['ours'] / of['theirs']:8.3f}")
    assert best["ours"] <= 0.6 * best["theirs"]
    assert size["ours"] <= 1.03 * size["theirs"]
