"""A build's report beside its log, the message of a failed build, and the next build, which completes it.

Real cargo, upstream's stand-in without a GPU; a real run of Ansible prints the summary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.base.records import Artifact
from pipeline.build import cargo_build
from pipeline.build.failures import CompileFailed
from pipeline.build.inputs import Build
from pipeline.report import report
from pipeline.report.report_data import BuildReport
from support.builds import build_of, source_of

PROJECT = Path(__file__).parents[2]


@dataclasses.dataclass
class Builder:
    """A builder. Its logs have the names that the action plugin gives them, an hour apart."""

    folder: Path
    stand_in: ModuleType
    hour: int = 10

    def describe(self, name: str, **files: str | Callable[[str], str]) -> Build:
        """A build of upstream with these files changed."""
        repository = self.folder / f"{name}.git"
        self.stand_in.create(repository)
        self.stand_in.add_commit(repository, name, {path.replace("__", "/"): text for path, text in files.items()})
        return build_of(self.folder / "builder", source_of(repository, self.folder / f"of-{name}", kind="branch"))

    def log(self) -> Path:
        self.hour += 1
        return self.folder / "builder/log" / f"cpu-0.9.2^1-20261121T{self.hour}0000Z.log"

    def build(self, build: Build) -> tuple[Artifact, BuildReport]:
        log = self.log()
        artifact = cargo_build.make(build, log)
        return artifact, BuildReport.read(log.with_suffix(".json"))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, stand_in: ModuleType) -> Builder:
    return Builder(tmp_path_factory.mktemp("report"), stand_in)


@pytest.fixture(scope="module")
def first(builder: Builder) -> tuple[Artifact, BuildReport]:
    return builder.build(builder.describe("first", README="first\n"))


def test_the_report_agrees_with_cargo_and_the_binary(first: tuple[Artifact, BuildReport]) -> None:
    artifact, found = first
    assert found.artifact.sha256 == artifact.sha256
    assert len(found.compiled) == artifact.compiled
    assert found.fresh == ()
    assert {"mistralrs-cli 0.9.2", "mistralrs-core 0.9.2 (build script)"} <= set(found.compiled)
    slowest = [unit.seconds for unit in found.slowest]
    assert slowest == sorted(slowest, reverse=True)
    assert "mistralrs-server-core 0.9.2" in [unit.crate for unit in found.slowest]
    assert [part.name for part in found.within] == ["for the program's own crate and its link"]
    assert {"fetch", "compile"} <= {phase.name for phase in found.phases}
    assert sum(phase.amount for phase in found.phases) == pytest.approx(artifact.seconds, abs=1.5)
    parts = {part.name: part.amount for part in found.sections}
    assert sum(parts.values()) == Path(artifact.folder, "mistralrs").stat().st_size
    assert {"code", "data", "symbols"} <= set(parts)
    assert found.memory > 20 << 20
    assert found.kernels == 0


def test_the_page_is_beside_the_log_and_the_json(first: tuple[Artifact, BuildReport]) -> None:
    artifact, found = first
    page = Path(artifact.report)
    assert page.parent == Path(artifact.log).parent
    text = page.read_text()
    assert text == report.html(found, None)
    assert "the first of this flavour" in text
    for suffix in (".log", ".json"):
        name = page.with_suffix(suffix).name
        assert f'href="./{name.replace("^", "%5E")}"' in text
        assert page.with_suffix(suffix).is_file()


NEEDS_A_TOOL = """
fn main() {{
    println!("cargo:rerun-if-changed=build.rs");
    std::process::Command::new("{tool}").status().expect("cannot run `{tool}`");
}}
"""


def test_the_next_build_completes_a_failed_one_once_its_cause_is_gone(
    builder: Builder, first: tuple[Artifact, BuildReport]
) -> None:
    """A program of the builder is missing, as nvcc may be, and is then installed: compiled units are kept."""
    tool = builder.folder / "builder/toolchain/nvcc"
    tool.parent.mkdir()
    changed = "pub fn changed() -> u32 {\n    7\n}\n"
    build = builder.describe("tool", **{
        "mistralrs-cli__build.rs": NEEDS_A_TOOL.format(tool=tool),
        "mistralrs-mcp__src__lib.rs": lambda text: f"{text}\n{changed}",
    })  # fmt: skip
    with pytest.raises(CompileFailed) as caught:
        cargo_build.make(build, failed := builder.log())
    message = str(caught.value)
    assert message.startswith("the build failed: mistralrs-cli 0.9.2: nvcc does not run\n")
    assert f"cannot run `{tool}`" in message
    assert "make doctor shows what is wrong with the toolkit" in message
    assert str(failed) in message
    assert not build.folder.exists()
    assert not failed.with_suffix(".json").exists()
    assert report.last(failed.parent, "cpu") == first[1]

    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    artifact, found = builder.build(build)
    assert artifact.fresh == len(found.fresh) > 0
    assert "mistralrs-mcp 0.9.2" in found.fresh, "the failed build compiled it"
    assert "mistralrs-audio 0.9.2" in found.fresh, "the build before compiled it"
    assert "mistralrs-cli 0.9.2" in found.compiled
    assert "cannot run" in failed.read_text(), "the log of the failed build stays"
    assert "last " in Path(artifact.report).read_text(), "it is compared with the build before"


def test_a_broken_crate_is_named_and_old_logs_are_deleted_although_the_build_fails(builder: Builder) -> None:
    build = builder.describe("broken", **{"mistralrs-vision__src__lib.rs": "pub fn pixels() -> u32 { missing() }\n"})
    with pytest.raises(CompileFailed) as caught:
        cargo_build.make(dataclasses.replace(build, logs_kept=2), log := builder.log())
    message = str(caught.value)
    assert message.startswith("the build failed: mistralrs-vision 0.9.2: rustc rejects the code\n")
    assert "error[E0425]: cannot find function `missing` in this scope" in message
    assert "pub fn pixels() -> u32 { missing() }" in message
    times = sorted({path.name.split("-")[-1].split(".")[0] for path in log.parent.glob("cpu-0*")})
    assert times == [f"20261121T{builder.hour - 1}0000Z", f"20261121T{builder.hour}0000Z"]
