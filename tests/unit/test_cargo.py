"""The inputs of a build, and cargo's command and environment, without running it."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.lock import held
from pipeline.base.records import Flavour, Parallel, Source
from pipeline.build import cargo_build
from pipeline.build.inputs import Build, build_argv, environment
from pipeline.build.layers import Folders, sandbox
from pipeline.source.mirrors import Mirrors
from pipeline.source.trust import refuse_unfit
from pipeline.toolchain.nvcc import DIGEST
from pipeline.toolchain.rust import Rust

SOURCE = Source("file:///u", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ADA = Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda", "flash-attn"), 580)
BUILD = Build(
    Path("/b"), SOURCE, ADA, "mistralrs-cli", "mistralrs", Rust(Path("/r/bin"), "1.95.0", "rustc 1.95.0 (x)"),
    "/b/toolchain/cuda-13.0", "13.0.88", "-C target-cpu=x86-64", "always",
)  # fmt: skip


def test_nothing_of_the_callers_environment_reaches_the_compile(monkeypatch):
    for name in (
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "NVCC_APPEND_FLAGS",
        "SECRET",
        "CARGO_TARGET_DIR",
    ):
        monkeypatch.setenv(name, "leaked")
    assert "leaked" not in environment(BUILD).values()


def test_a_gpu_flavour_sets_its_compute_capability_and_one_toolkit():
    env = environment(BUILD)
    assert env["CUDA_COMPUTE_CAP"] == "89"
    assert env["NVCC"] == "/b/toolchain/nvcc-13.0.88/bin/nvcc"
    assert env["PATH"].split(":")[1] == "/b/toolchain/nvcc-13.0.88/bin"
    assert {env[n] for n in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR")} == {BUILD.toolkit}


def test_a_flavour_without_a_gpu_has_no_cuda_in_its_environment():
    cpu = dataclasses.replace(BUILD, flavour=Flavour("cpu", "any"))
    assert not [name for name in environment(cpu) if "CUDA" in name or name == "NVCC"]
    assert "--features" not in build_argv(cpu, locked=True)


def test_the_builders_root_is_mapped_out_of_the_output():
    env = environment(BUILD)
    assert env["RUSTFLAGS"] == "-C target-cpu=x86-64 --remap-path-prefix=/b=/builder"
    assert {env[name] for name in ("CFLAGS", "CXXFLAGS")} == {"-ffile-prefix-map=/b=/builder"}
    assert env["SOURCE_DATE_EPOCH"] == "315532800"


def test_the_variant_is_architecture_nvccs_version_and_the_wrappers_digest():
    assert BUILD.variant == f"sm_89-cuda-13.0.88-{DIGEST}"
    assert dataclasses.replace(BUILD, flavour=Flavour("cpu", "any"), toolkit_version="").variant == ""


def test_the_argv():
    argv = build_argv(BUILD, locked=True)
    assert argv[:4] == ["/r/bin/cargo", "build", "--release", "--offline"]
    assert argv[argv.index("--config") + 1] == "build.incremental=false"
    assert "--locked" in argv
    assert argv[argv.index("--target-dir") + 1] == "/b/target"
    assert argv[argv.index("--features") + 1] == "cuda flash-attn"
    assert "--locked" not in build_argv(BUILD, locked=False)


@pytest.mark.parametrize(
    "change",
    [
        {"source": dataclasses.replace(SOURCE, commit="d" * 40)},
        {"flavour": dataclasses.replace(ADA, compute_capability="8.6")},
        {"flavour": dataclasses.replace(ADA, features=("cuda",))},
        {"rust": Rust(Path("/r/bin"), "1.96.0", "rustc 1.96.0 (y)")},
        {"toolkit_version": "13.2.86"},
        {"rustflags": "-C target-cpu=x86-64-v3"},
        {"incremental": True},
        {"trust": "try"},
        {"mirrors": Mirrors(registry="https://mirror.example/")},
    ],
)
def test_an_input_that_changes_the_bytes_changes_the_artifacts_name(change):
    assert dataclasses.replace(BUILD, **change).inputs != BUILD.inputs


@pytest.mark.parametrize(
    "change", [{"parallel": Parallel(1, 1, 0)}, {"root": Path("/c")}, {"toolkit": "/usr/local/cuda"}]
)
def test_other_settings_keep_the_artifacts_name(change):
    assert dataclasses.replace(BUILD, **change).inputs == BUILD.inputs


@pytest.mark.parametrize(
    ("change", "state", "target"),
    [
        ({}, "/b", "/b/target"),
        ({"trust": "try"}, "/b/try", "/b/target"),
        ({"trust": "try", "protected": False}, "/b/try", "/b/try/target"),
        ({"trust": "try", "share_trust": True}, "/b", "/b/target"),
        ({"protected": False}, "/b", "/b/target"),
    ],
)
def test_each_trust_has_its_state_and_cargo_sees_the_same_paths_in_the_sandbox(change, state, target):
    build = dataclasses.replace(BUILD, **change)
    assert (str(build.state), str(build.target)) == (state, target)
    assert build_argv(build, locked=True)[build_argv(build, locked=True).index("--target-dir") + 1] == target


@pytest.mark.parametrize(("protected", "place"), [(True, "/tmp"), (False, "/b/scratch")])
def test_temporary_files_of_a_build_lie_below_its_root(protected, place):
    folders = Folders(output=Path("/b/output"), scratch=Path("/b/scratch"))
    build = dataclasses.replace(BUILD, protected=protected)
    job = cargo_build._job(build, folders, None, locked=True)
    assert job.environment["TMPDIR"] == job.scratch == place
    if protected:
        assert sandbox(build, folders, None).writable_places[Path(place)] == folders.scratch


def test_each_switched_off_protection_is_named():
    assert BUILD.unprotected == ()
    off = dataclasses.replace(BUILD, protected=False, share_trust=True).unprotected
    assert [line.partition(":")[0] for line in off] == ["sandbox is none", "builder_share_trust is true"]


def test_a_report_links_to_what_becomes_of_the_artifact():
    url = "https://rpm.example.org/fedora/43/x86_64"
    source = dataclasses.replace(SOURCE, rpm_version="0.9.2^20260822.1git")
    assert dataclasses.replace(BUILD, source=source).published(url, "1.fc43") == {
        "its package, once published": f"{url}/Packages/mistralrs-ada-0.9.2%5E20260822.1git-1.fc43.x86_64.rpm",
        "the repository's head": f"{url}/mirrorlist",
    }
    assert BUILD.published() == dataclasses.replace(BUILD, incremental=True).published(url, "1") == {}


@pytest.mark.parametrize("kind", ["branch", "commit"])
def test_only_a_tag_is_built_as_a_release(kind):
    refuse_unfit("release", SOURCE)
    refuse_unfit("try", dataclasses.replace(SOURCE, kind=kind))
    with pytest.raises(PipelineError, match=f"the {kind} v0.9.2 cannot be built with the trust release.*trust try"):
        refuse_unfit("release", dataclasses.replace(SOURCE, kind=kind))


def test_the_sandbox_shows_nothing_of_the_root_but_what_a_build_needs(tmp_path):
    for name in ("cargo", "toolchain", "target", "cache/sccache", "artifacts", "log", "home", "try", "src"):
        (tmp_path / name).mkdir(parents=True)
    build = dataclasses.replace(BUILD, root=tmp_path, toolkit="", rust=Rust(Path("/usr/bin"), "1.95.0", "x"))
    cache = tmp_path / "cache/sccache"

    def shown(build: Build) -> tuple[set[str], set[str], set[str]]:
        made = sandbox(build, Folders(tmp_path / "output", tmp_path / "scratch"), cache)
        return (
            {place.name for place in made.places if place.is_relative_to(tmp_path)},
            {place.name for place in made.writable_places if place.is_relative_to(tmp_path)},
            {layer.place.name for layer in made.layers},
        )

    assert shown(build) == ({"cargo", "toolchain", "src"}, {"target", "sccache"}, set())
    tried = dataclasses.replace(build, trust="try")
    assert shown(tried) == ({"cargo", "toolchain", "src"}, set(), {"target", "sccache"})
    layers = sandbox(tried, Folders(tmp_path / "output", tmp_path / "scratch"), cache).layers
    assert all(layer.upper.is_relative_to(tmp_path / "try") for layer in layers)


def test_a_build_that_another_run_made_meanwhile_is_not_made_again(tmp_path, monkeypatch):
    """That run may be handing it over: its files stay."""
    build = dataclasses.replace(BUILD, root=tmp_path)
    theirs = object()
    monkeypatch.setattr(cargo_build, "existing", lambda _: theirs)
    monkeypatch.setattr(cargo_build, "verify_programs", lambda *_: pytest.fail("it builds"))
    log = tmp_path / "log/ada.log"
    with ThreadPoolExecutor() as pool:
        with held(tmp_path / "lock"):
            made = pool.submit(cargo_build.make, build, log)
            while not log.exists() or "waiting for another build here" not in log.read_text():
                assert not made.done()
                time.sleep(0.01)
        assert made.result(timeout=30) is theirs
    assert "[ada] another run built it" in log.read_text()
