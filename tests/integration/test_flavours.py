"""Flavours share one target directory: common units are compiled once, and no kernel is of another GPU.

Real cargo and nvcc with upstream's stand-in, whose build scripts keep kernels like upstream's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.records import Artifact, Flavour
from pipeline.build import cargo_build, processes, variants
from pipeline.build.inputs import Build
from pipeline.package.binary import read_binary
from pipeline.toolchain.cuda import Toolkit
from support.builds import CPU, build_of, source_of

FEATURES = ("cuda", "flash-attn")
ADA = Flavour("ada", "RTX 40", "8.9", "13.0", FEATURES, 580)
AMPERE = Flavour("ampere", "RTX 30", "8.6", "13.0", FEATURES, 580)
# The stand-in's packages with kernels, and those that depend on them.
OF_THE_GPU = {
    "mistralrs-core", "mistralrs-quant", "mistralrs-paged-attn", "mistralrs-flash-attn",
    "mistralrs-vision", "mistralrs-server-core", "mistralrs-cli",
}  # fmt: skip
KERNEL = "mistralrs-quant/kernels/hqq/hqq.cu"
HEADER = "mistralrs-quant/kernels/hqq/hqq_scale.cuh"


class Builder:
    """A builder, its upstream repository, and the log of its last build."""

    def __init__(self, folder: Path, stand_in, compiler: Toolkit) -> None:
        self.folder, self.stand_in, self.compiler = folder, stand_in, compiler
        self.repository = folder / "upstream.git"
        stand_in.create(self.repository)
        self.log = folder / "builder/log/build.log"

    def describe(self, flavour: Flavour) -> Build:
        source = source_of(self.repository, self.folder, kind="branch")
        folder, version = (self.compiler.folder, self.compiler.compiler) if flavour.cuda else ("", "")
        root = self.folder / "builder"
        return build_of(root, source, flavour=flavour, toolkit=folder, toolkit_version=version)

    def build(self, flavour: Flavour, *, incremental: bool = False) -> tuple[Artifact, set[str], list[str]]:
        """Build the newest commit; returns the artifact, the compiled packages and the compiled kernels."""
        self.log.unlink(missing_ok=True)
        artifact = cargo_build.make(dataclasses.replace(self.describe(flavour), incremental=incremental), self.log)
        report = json.loads(Path(artifact.report).with_suffix(".json").read_text())
        compiled = set(re.findall(r"^ *Compiling (\S+) v", self.log.read_text(), re.MULTILINE))
        return artifact, compiled, [Path(kernel["source"]).name for kernel in report["slowest_kernels"]]

    def change(self, message: str, changes: dict[str, str | Callable[[str], str]]) -> None:
        self.stand_in.add_commit(self.repository, message, changes)

    def archs(self, artifact: Artifact) -> set[str]:
        binary = read_binary(Path(artifact.folder) / "mistralrs", f"{self.compiler.folder}/bin/cuobjdump")
        return set(binary.ptx | binary.sass)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, stand_in, compiler: Toolkit) -> Builder:
    """A builder that has built ada."""
    builder = Builder(tmp_path_factory.mktemp("flavours"), stand_in, compiler)
    artifact, compiled, kernels = builder.build(ADA)
    assert builder.archs(artifact) == {"sm_89"}
    assert compiled > OF_THE_GPU
    assert len(kernels) == 7
    return builder


def test_the_second_flavour_compiles_only_units_that_depend_on_the_gpu(builder: Builder) -> None:
    artifact, compiled, kernels = builder.build(AMPERE)
    assert builder.archs(artifact) == {"sm_86"}
    assert compiled <= OF_THE_GPU
    assert len(kernels) == 7


def test_without_a_gpu_nothing_moves_and_no_kernel_is_compiled(builder: Builder) -> None:
    in_place = state(builder).variant
    artifact, compiled, kernels = builder.build(CPU)
    assert builder.archs(artifact) == set()
    assert kernels == []
    assert "mistralrs-audio" not in compiled, "it has no features: ada's build compiled it"
    assert state(builder).variant == in_place


def test_a_commit_without_a_kernel_compiles_none(builder: Builder) -> None:
    builder.change("rust alone", {"mistralrs-core/src/limits.rs": lambda text: text + "// changed\n"})
    for flavour in (ADA, AMPERE):
        artifact, compiled, kernels = builder.build(flavour)
        assert builder.archs(artifact) == {flavour.arch}
        assert kernels == []
        assert "mistralrs-flash-attn" not in compiled


def test_an_incremental_build_compiles_upstreams_own_crates_and_no_kernel(builder: Builder) -> None:
    released = builder.build(ADA)[0]
    incremental, compiled, kernels = builder.build(ADA, incremental=True)
    assert builder.archs(incremental) == {"sm_89"}
    assert "mistralrs-quant" in compiled
    assert all(name.startswith("mistralrs") for name in compiled)
    assert kernels == []
    assert (incremental.incremental, released.incremental) == (True, False)
    assert incremental.folder != released.folder
    kept = [path.name for path in (builder.folder / "builder/target/release/incremental").iterdir()]
    assert any(name.startswith("mistralrs_core-") for name in kept)
    assert not any(name.startswith("build_script") for name in kept)
    # The units of releases are still there; mistralrs-core's build script runs in every build.
    assert builder.build(ADA)[1] == {"mistralrs-core", "mistralrs-server-core", "mistralrs-cli"}


def test_a_changed_kernel_is_compiled_and_no_other(builder: Builder) -> None:
    include = f'#include "{Path(HEADER).name}"\n'
    builder.change("a header", {KERNEL: lambda text: include + text, HEADER: "// the first\n"})
    artifact, _, kernels = builder.build(ADA)
    assert builder.archs(artifact) == {"sm_89"}
    # Any kernel beside a new header may include it.
    assert "hqq.cu" in kernels
    builder.change("the kernel", {KERNEL: lambda text: text + "// changed\n"})
    assert builder.build(ADA)[2] == ["hqq.cu"]


def test_a_changed_header_recompiles_kernels_that_upstream_would_keep(builder: Builder) -> None:
    """cudaforge and the stand-in's build scripts compare the .cu alone."""
    builder.build(AMPERE)
    builder.build(ADA)
    builder.change("the header", {HEADER: "__device__ const char changed_header[] = "
                                          '"a header that changed reached the kernel";\n'})  # fmt: skip
    for flavour in (ADA, AMPERE):
        _, _, kernels = builder.build(flavour)
        assert "hqq.cu" in kernels
        assert "kernel headers changed" in builder.log.read_text()
    assert builder.build(AMPERE)[2] == []


def state(builder: Builder) -> variants.TargetState:
    return variants.TargetState.read(builder.folder / "builder/target/variants/state.json")


def tree(target: Path) -> set[tuple[str, int]]:
    """The units in place, by name and inode: units of two variants share their names."""
    folders = [target / "release" / name for name in (".fingerprint", "build", "deps")]
    return {(str(path.relative_to(target)), path.stat().st_ino) for folder in folders for path in folder.iterdir()}


@pytest.mark.parametrize("steps", [0, 1, 7, 40])
def test_the_next_build_completes_an_interrupted_change_of_variant(builder: Builder, monkeypatch, steps) -> None:
    target = builder.folder / "builder/target"
    sm_86, sm_89 = (builder.describe(flavour).variant for flavour in (AMPERE, ADA))
    variants.enter(target, sm_86)
    ampere = tree(target)
    variants.enter(target, sm_89)
    ada = tree(target)
    assert ampere != ada
    left, replace = [steps], Path.replace

    def cut(self: Path, other: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        variants.enter(target, sm_86)
    monkeypatch.undo()
    # Either variant is complete after the next change.
    variants.enter(target, sm_89 if steps % 2 else sm_86)
    assert tree(target) == (ada if steps % 2 else ampere)
    variants.enter(target, sm_86)
    assert tree(target) == ampere
    variants.enter(target, sm_89)
    assert tree(target) == ada


def test_kernels_of_a_failed_build_are_not_used(builder: Builder) -> None:
    """Upstream records its kernels once all are compiled: an object may be newer than its record."""
    before = git("rev-parse", "refs/heads/master", repository=builder.repository).strip()
    builder.build(ADA)
    marked = '__device__ const char marked[] = "of the commit that failed";\n'
    broken = {KERNEL: lambda text: text + marked, "mistralrs-quant/kernels/afq/afq.cu": lambda text: text + "no C++\n"}
    builder.change("broken", broken)
    with pytest.raises(PipelineError, match="afq"):
        builder.build(ADA)
    git("update-ref", "refs/heads/master", before, repository=builder.repository)
    builder.change("the other kernel", {"mistralrs-quant/kernels/afq/afq.cu": lambda text: text + "// changed\n"})
    artifact, _, kernels = builder.build(ADA)
    assert sorted(kernels) == ["afq.cu", "hqq.cu"]
    assert b"of the commit that failed" not in (Path(artifact.folder) / "mistralrs").read_bytes()


def test_a_stopped_build_leaves_no_compiler(builder: Builder, tmp_path: Path) -> None:
    """sccache's server runs compilers outside cargo's process group."""
    (tmp_path / "compiler").write_text("#!/bin/sh\nexec sleep 86.7\n")
    (tmp_path / "compiler").chmod(0o755)

    def stopped() -> None:
        with processes.watched():
            subprocess.run(["setsid", "--fork", str(tmp_path / "compiler")], check=True)
            deadline = time.monotonic() + 10
            while not running("sleep\x0086.7") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert running("sleep\x0086.7")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not running("sleep\x0086.7")


def running(command: str) -> bool:
    found = False
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            found |= entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(command.encode())
    return found


def test_units_unused_for_long_are_deleted_and_used_ones_stay(builder: Builder) -> None:
    target, days = builder.folder / "builder/target", 86400
    _, compiled, _ = builder.build(ADA)
    in_use = tree(target)
    stale = target / "release/deps/libgone-0123456789abcdef.rlib"
    stale.touch()
    (target / "release/.fingerprint/gone-0123456789abcdef").mkdir()
    crate = target / "release/incremental/gone-0a1b2c3d4e5f6"
    crate.mkdir(parents=True)
    now = time.time()
    assert variants.sweep(target, [], now) == 0
    assert crate.exists()
    os.utime(crate, (now - 61 * days, now - 61 * days))
    for unit in (target / "release/.fingerprint/gone-0123456789abcdef", *target.glob("variants/sm_86*/.fingerprint/*")):
        os.utime(unit, (now - 61 * days, now - 61 * days))
    assert variants.sweep(target, [], now) > 1
    assert not stale.exists()
    assert not crate.exists()
    assert tree(target) == in_use
    assert not any(target.glob("variants/sm_86*/deps/*"))
    _, compiled, kernels = builder.build(ADA)
    assert (
        compiled & OF_THE_GPU <= {"mistralrs-core", "mistralrs-vision", "mistralrs-server-core", "mistralrs-cli"},
        kernels,
    ) == (True, [])


def test_units_of_an_unknown_gpu_are_deleted(builder: Builder, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "release/deps").mkdir(parents=True)
    (target / "release/deps/libmistralrs_core-0123456789abcdef.rlib").touch()
    variants.enter(target, "sm_86-cuda-13.0.88")
    assert not (target / "release").exists()


def test_another_nvcc_is_another_variant(builder: Builder) -> None:
    build = builder.describe(ADA)
    assert build.variant.startswith("sm_89-cuda-13.0.88-")
    assert dataclasses.replace(build, toolkit_version="13.0.90").variant != build.variant
