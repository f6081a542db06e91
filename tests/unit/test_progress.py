"""cargo's output as lines and progress."""

from __future__ import annotations

import re

import pytest
from pipeline.base.text import clock
from pipeline.build.progress import Estimate, LineReader, Progress
from pipeline.report.report_data import Unit


def test_progress_and_lines_are_separated_for_any_chunk_size():
    stream = (
        b"   Compiling a v0.1.0\n\r    Building [===>      ] 1/4: b, c(build)\r\x1b[K   Compiling b v0.1.0\n"
        b"    Building [======>   ] 412/803: mistralrs-core(bin)\rwarning: odd\n    Finished"
    )
    for size in (1, 7, len(stream)):
        reader = LineReader()
        events = [e for i in range(0, len(stream), size) for e in reader.feed(stream[i : i + size])]
        events += reader.close()
        assert events == [
            "   Compiling a v0.1.0",
            Progress(1, 4, ("b", "c(build)")),
            "   Compiling b v0.1.0",
            Progress(412, 803, ("mistralrs-core(bin)",)),
            "warning: odd",
            "    Finished",
        ]


def test_a_line_controls_no_terminal_and_has_an_end():
    reader = LineReader()
    assert list(reader.feed(b"warning: \x1b]0;title\x07\x9b2Jx\tok\n")) == ["warning: ]0;title\ufffd2Jx\tok"]
    endless = [line for _ in range(3) for line in reader.feed(b"x" * 500_000)]
    assert [len(line) for line in endless] == [1_500_000]
    assert list(reader.close()) == []


def test_a_list_of_units_that_cargo_cuts_is_known_as_one():
    (event,) = LineReader().feed(b"    Building [=> ] 40/803: syn, quote, ...                     \r")
    assert event == Progress(40, 803, ("syn", "quote"), cut=True)


@pytest.mark.parametrize(
    ("progress", "seconds", "line"),
    [
        (Progress(412, 803, ("mistralrs-core(build)", "syn")), 190, "[ada] 412/803 mistralrs-core, 3:10"),
        (Progress(803, 803), 4000, "[ada] 803/803 finishing, 1:06:40"),
    ],
)
def test_a_progress_line(progress, seconds, line):
    assert progress.line("ada", seconds) == line
    assert progress.line("ada", seconds, "about 1:20 left") == f"{line}, about 1:20 left"


def unit(label: str, began: float, seconds: float) -> Unit:
    return Unit(f"{label.partition('(')[0]} 1.0.0", "library", began, seconds, label)


# 4 minutes: two small units side by side, one that all wait for, the program.
BEFORE = (
    unit("syn", 0, 20), unit("quant(build)", 0, 40), unit("core", 40, 160), unit("tool(bin)", 200, 40),
)  # fmt: skip


def run(estimate: Estimate, *events: tuple[float, int, tuple[str, ...]], total: int = 4) -> list[str]:
    """The sentences after each event: its time, the finished units, the active ones."""
    said = []
    for now, done, active in events:
        progress = Progress(done, total, active)
        estimate.see(progress, now)
        said.append(estimate.sentence(progress, now))
    return said


def test_a_build_like_the_one_before_ends_when_that_did():
    assert run(
        Estimate(BEFORE),
        (0, 0, ("syn", "quant(build)")),
        (20, 1, ("quant(build)",)),
        (40, 2, ("core",)),
        (120, 2, ("core",)),
        (200, 3, ("tool(bin)",)),
        (239, 3, ("tool(bin)",)),
        (240, 4, ()),
    ) == ["about 4:00 left", "about 3:40 left", "about 3:20 left", "about 2:00 left", "about 0:40 left",
          "about 0:01 left", ""]  # fmt: skip


def test_the_estimate_falls_all_the_time_while_one_unit_runs():
    estimate = Estimate(BEFORE)
    run(estimate, (0, 0, ("syn", "quant(build)")), (20, 1, ("quant(build)",)), (40, 2, ("core",)))
    said = run(estimate, *((now, 2, ("core",)) for now in range(43, 200, 3)))
    left = [int(m) * 60 + int(s) for text in said for m, s in re.findall(r"^about (\d+):(\d\d) left$", text)]
    assert len(left) == len(said)
    assert left == sorted(left, reverse=True)


def test_the_end_moves_to_a_later_time_only_with_a_reason():
    estimate = Estimate(BEFORE)
    run(estimate, (0, 0, ("syn", "quant(build)")), (20, 1, ("quant(build)",)), (40, 2, ("core",)))
    late, later = run(estimate, (230, 2, ("core",)), (300, 2, ("core",)))
    assert late == "about 0:40 left, core runs for 3:10, 2:40 in the build before"
    assert later == "about 0:40 left, core runs for 4:20, 2:40 in the build before"


def test_a_slower_machine_is_a_reason():
    said = run(Estimate(BEFORE), (0, 0, ("syn", "quant(build)")), (40, 1, ("quant(build)",)), (80, 2, ("core",)))
    assert said[2] == "about 6:40 left, units take 2.0 times as long as in the build before"


def test_fresh_units_have_no_part_in_it():
    """A changed file: what came last before is what cargo has still to do."""
    assert run(Estimate(BEFORE), (0, 2, ("core",)), (1, 2, ("core",))) == ["about 3:20 left", "about 3:19 left"]
    assert run(Estimate(BEFORE), (0, 3, ("tool(bin)",))) == ["about 0:40 left"]
    assert run(Estimate(BEFORE), (0, 8, ("new-crate", "core")), total=11) == ["about 3:20 left"]


def test_a_unit_that_cargo_cuts_from_its_list_has_not_finished():
    estimate = Estimate(BEFORE)
    estimate.see(Progress(0, 4, ("syn", "quant(build)")), 0)
    estimate.see(Progress(0, 4, ("syn",), cut=True), 1)
    assert estimate.sentence(Progress(0, 4, ("syn",), cut=True), 1) == "about 3:59 left"


def test_a_first_build_has_no_estimate():
    """A count of units says nothing of hours: the first tenth of them takes minutes."""
    assert run(Estimate(), (0, 0, ("syn",)), (200, 2, ("core",))) == ["", ""]


def test_clock_counts_hours():
    assert (clock(5.9), clock(190), clock(3723)) == ("0:05", "3:10", "1:02:03")
