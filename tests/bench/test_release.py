"""The cost of a release on a fresh machine with the stand-in: ``make bench``.

Each figure is the median of a few runs, next to a peer of the same run. The pipeline's own time is a run's time without
cargo, rpmbuild and the client's dnf, whose times are measured separately.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from pathlib import Path

import pytest
from support.machine import Pipeline, Run, new_machine

RUNS = 3


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, project, stand_in) -> Pipeline:
    return new_machine(tmp_path_factory.mktemp("bench"), project, stand_in)


def timed(pipeline: Pipeline, **variables: object) -> tuple[float, Run]:
    began = time.monotonic()
    run = pipeline.run("release", **variables)
    seconds = time.monotonic() - began
    assert run.status == 0, run.output
    return seconds, run


def tool_seconds(pipeline: Pipeline, run: Run, version: str) -> dict[str, float]:
    """The seconds of cargo, rpmbuild and dnf in a run, from manifest, log and summary."""
    (cargo,) = [
        data["seconds"]
        for path in (pipeline.root / "builder/artifacts/ada").glob("*/manifest.json")
        if (data := json.loads(path.read_text()))["source"]["version"] == version
    ]
    dnf = re.search(r"by dnf\S* .* in ([\d.]+) s", run.row("prove", "ada"))
    log = Path(pipeline.root / "signer/log/rpmbuild-ada.log")
    took = re.search(r"^# rpmbuild took ([\d.]+) s$", log.read_text(), re.MULTILINE)
    assert dnf
    assert took
    return {"cargo": cargo, "rpmbuild": float(took[1]), "dnf": float(dnf[1])}


def test_a_release(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    first, run = timed(pipeline, version="0.9.0")
    clean = tool_seconds(pipeline, run, "0.9.0")
    warm, own = [], []
    for number in range(RUNS):
        version = f"0.9.{10 + number}"
        pipeline.stand_in.release(pipeline.upstream, version)
        seconds, run = timed(pipeline)
        tools = tool_seconds(pipeline, run, version)
        warm.append(seconds)
        own.append(seconds - sum(tools.values()))
    nothing = [timed(pipeline)[0] for _ in range(RUNS)]
    rows = [
        ("first release (toolkit there)", first, f"cargo {clean['cargo']:.1f} s of it"),
        ("a new tag, warm", statistics.median(warm), f"{statistics.median(warm) / first:.2f} of the first"),
        ("  the pipeline's own time in it", statistics.median(own), "without cargo, rpmbuild, dnf: " + str(tools)),
        (
            "nothing new",
            statistics.median(nothing),
            f"{statistics.median(nothing) / statistics.median(warm):.2f} of warm",
        ),
    ]
    with capsys.disabled():
        print(f"\n{'figure':34}{'seconds':>8}  beside")
        for name, seconds, beside in rows:
            print(f"{name:34}{seconds:8.1f}  {beside}")
