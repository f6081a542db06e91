"""The units of a build that depend on the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.build.variants import headers, particular_packages

# app -> engine -> kernels (its build script reads the GPU's variables); app -> log; engine's build script uses tool;
# extra's build script depends on kernels.
EDGES = {
    "app": [("engine", None), ("log", None), ("extra", None)],
    "engine": [("kernels", None), ("tool", "build"), ("log", None)],
    "kernels": [("tool", "build")],
    "extra": [("kernels", "build")],
    "log": [],
    "tool": [("log", None)],
    "test-only": [("kernels", "dev")],
}
METADATA = {
    "resolve": {
        "nodes": [
            {"id": package, "deps": [{"pkg": name, "dep_kinds": [{"kind": kind}]} for name, kind in uses]}
            for package, uses in EDGES.items()
        ]
    }
}


def ran(folder: Path, package: str, output: str) -> dict[str, object]:
    out = folder / f"{package}-0123456789abcdef" / "out"
    out.mkdir(parents=True)
    (out.parent / "output").write_text(output)
    return {"reason": "build-script-executed", "package_id": package, "out_dir": str(out)}


@pytest.mark.parametrize("colons", [":", "::"])
@pytest.mark.parametrize("variable", ["CUDA_COMPUTE_CAP", "NVCC", "CUDA_HOME"])
def test_packages_that_read_the_gpus_variables_and_their_dependents_are_particular(
    tmp_path: Path, variable, colons
) -> None:
    messages = [
        ran(tmp_path, "kernels", f"cargo{colons}rerun-if-changed=a.cu\ncargo{colons}rerun-if-env-changed={variable}\n"),
        ran(tmp_path, "log", "cargo:rerun-if-env-changed=RUST_LOG\n"),
    ]
    found = particular_packages(messages, METADATA)
    assert found.packages == {"kernels", "engine", "app", "extra"}
    assert found.scripts == {"extra"}, "the other build scripts are common"


def test_without_such_a_script_all_packages_are_common(tmp_path: Path) -> None:
    assert particular_packages([ran(tmp_path, "log", "NVCC=1\n")], METADATA).packages == frozenset()


def tree(**files: str) -> str:
    return "".join(f"100644 blob {blob}\t{path.replace('__', '/')}\0" for path, blob in files.items())


BEFORE = {
    "quant__k/a.cu": "1",
    "quant__k/a.cuh": "2",
    "quant__src/lib.rs": "3",
    "cli__main.rs": "4",
    "cli__data.h": "5",
}


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"quant__k/a.cuh": "9"}, True),
        ({"quant__k/new.h": "9"}, True),
        ({"quant__k/odd.kernel": "9"}, True),
        ({"quant__k/a.cu": "9"}, False),
        ({"quant__src/lib.rs": "9"}, False),
        ({"cli__data.h": "9"}, False),
    ],
)
def test_any_file_beside_kernels_counts_as_a_header_unless_of_another_kind(change, counts) -> None:
    packages, digest = headers(tree(**BEFORE))
    assert packages == {"quant"}
    assert (headers(tree(**BEFORE | change))[1] != digest) == counts
