"""cargo's output as lines and progress."""

from __future__ import annotations

import pytest
from pipeline.base.text import clock
from pipeline.build.progress import LineReader, Progress


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
            Progress(1, 4, "b"),
            "   Compiling b v0.1.0",
            Progress(412, 803, "mistralrs-core"),
            "warning: odd",
            "    Finished",
        ]


def test_a_line_controls_no_terminal_and_has_an_end():
    reader = LineReader()
    assert list(reader.feed(b"warning: \x1b]0;title\x07\x9b2Jx\tok\n")) == ["warning: ]0;title\ufffd2Jx\tok"]
    endless = [line for _ in range(3) for line in reader.feed(b"x" * 500_000)]
    assert [len(line) for line in endless] == [1_500_000]
    assert list(reader.close()) == []


@pytest.mark.parametrize(
    ("progress", "seconds", "standing", "line"),
    [
        (Progress(412, 803, "mistralrs-core"), 190, 0, "[ada] 412/803 mistralrs-core, 3:10, about 3:00 left"),
        (Progress(412, 803, "mistralrs-core"), 190, 179, "[ada] 412/803 mistralrs-core, 3:10, about 3:00 left"),
        (Progress(702, 706, "mistralrs-core"), 190, 160, "[ada] 702/706 mistralrs-core, 3:10, running for 2:40"),
        (Progress(702, 706, "mistralrs-core"), 20, 19, "[ada] 702/706 mistralrs-core, 0:20, about 0:00 left"),
        (Progress(3, 803, "syn"), 4, 0, "[ada] 3/803 syn, 0:04"),
        (Progress(803, 803, ""), 4000, 5, "[ada] 803/803 finishing, 1:06:40"),
    ],
)
def test_a_progress_line(progress, seconds, standing, line):
    assert progress.line("ada", seconds, standing) == line


def test_clock_counts_hours():
    assert (clock(5.9), clock(190), clock(3723)) == ("0:05", "3:10", "1:02:03")
