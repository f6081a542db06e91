"""Builds of upstream's stand-in by the real cargo, in this process or in one of their own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from pipeline.base.records import Flavour, Source
from pipeline.build.inputs import Build
from pipeline.source.upstream import resolve
from pipeline.toolchain.rust import find_rust

from . import PROJECT

CPU = Flavour("cpu", "any x86-64", published=False)


def source_of(repository: Path, folder: Path, kind: str = "tag") -> Source:
    """The newest tag or the newest commit (``kind`` "branch") of a repository; ``folder`` keeps the mirror."""
    return resolve(f"file://{repository}", folder / "mirror", kind=kind)


def build_of(root: Path, source: Source, **change: Any) -> Build:
    """A build of the flavour without a GPU below ``root``; ``change`` replaces fields of it."""
    build = Build(
        root=root, source=source, flavour=CPU, package="mistralrs-cli", binary="mistralrs", rust=find_rust(),
        toolkit="", toolkit_version="", rustflags="-C target-cpu=x86-64", locked="always",
    )  # fmt: skip
    return dataclasses.replace(build, **change)


def program_environment() -> dict[str, str]:
    """The environment of a Python program that imports the pipeline."""
    return os.environ | {"PYTHONPATH": str(PROJECT / "module_utils")}
