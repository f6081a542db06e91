"""Which packages of a workspace a build compiles, and when a Cargo.lock cannot be theirs."""

from __future__ import annotations

from typing import Any

import pytest
from pipeline.source.workspace import compiled, misfit


def package(name: str, *dependencies: dict[str, Any], **features: list[str]) -> dict[str, Any]:
    """An entry of cargo metadata."""
    return {
        "name": name, "version": "1.0.0", "manifest_path": f"/w/{name}/Cargo.toml", "targets": [],
        "dependencies": list(dependencies), "features": features,
    }  # fmt: skip


def on(name: str, *features: str, **change: Any) -> dict[str, Any]:
    """A path dependency."""
    row = {"name": name, "path": f"/w/{name}", "kind": None, "optional": False, "rename": None}
    return {**row, "uses_default_features": True, "features": list(features), **change}


CUDA = ["dep:attn", "quant/cuda", "weak?/cuda", "more"]
WORKSPACE = [
    package(
        "cli", on("core"), on("quant"), on("attn", optional=True), on("weak", optional=True), on("tests", kind="dev"),
        on("build", kind="build", uses_default_features=False), default=["ui"], ui=[], cuda=CUDA, more=[],
    ),
    package("core", on("stranger"), on("cli", kind="dev"), default=[]),
    package("quant", on("core", "fast"), cuda=["core/gpu"]),
    package("attn", on("weak", optional=True, rename="other"), default=["other"], other=["dep:other"]),
    package("weak", cuda=[]),
    package("tests"),
    package("build"),
]  # fmt: skip


def built(*features: str) -> dict[str, list[str]]:
    return {unit.package["name"]: sorted(unit.features) for unit in compiled(WORKSPACE, "cli", features).values()}


def test_features_decide_what_is_compiled_and_tests_do_not():
    least = {
        "cli": ["default", "ui"], "core": ["default", "fast"], "quant": ["default"], "build": [],
        "stranger": ["default"],
    }  # fmt: skip
    assert built() == least
    assert built("unknown") == {**least, "cli": ["default", "ui", "unknown"]}
    assert built("cuda") == {
        **least, "cli": ["cuda", "default", "more", "ui"], "quant": ["cuda", "default"],
        "core": ["default", "fast", "gpu"], "attn": ["default", "other"], "weak": ["default"],
    }  # fmt: skip


def lock(*rows: str) -> str:
    """A Cargo.lock of rows "name version: dependency, dependency", with a foreign crate of a member's name."""
    text = '[[package]]\nname = "tool"\nversion = "9.9.9"\nsource = "registry+x"\n'
    for row in rows:
        head, _, needed = row.partition(":")
        name, version = head.split()
        listed = ", ".join(f'"{word.strip()}"' for word in needed.split(",") if word.strip())
        text += f'[[package]]\nname = "{name}"\nversion = "{version}"\ndependencies = [{listed}]\n'
    return text


TOOL = package("tool", on("engine"), {"name": "serde", "rename": "json", "kind": "dev"})
ENGINE = package("engine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lock("tool 1.0.0: engine, serde 1.0.5 (registry+x)", "engine 1.0.0"), ""),
        ("", "there is none"),
        (lock("tool 1.0.0: engine, serde"), "it lacks engine"),
        (lock("tool 1.0.0: engine, serde", "engine 0.9.0"), "it has engine 0.9.0, whose manifest says 1.0.0"),
        (lock("tool 1.0.0: engine", "engine 1.0.0"), "it lacks serde, on which tool depends"),
        (lock("tool 1.0.0: engine, json, serde", "engine 1.0.0"), "it has json for tool, which does not depend on it"),
        # cargo itself names what it cannot read.
        ("<<<<<<< HEAD\n", ""),
        ('package = "x"\n', ""),
        ("[[package]]\n", ""),
    ],
)
def test_a_lock_that_cannot_be_that_of_the_manifests(text: str, reason: str) -> None:
    assert misfit([TOOL, ENGINE], text) == reason
