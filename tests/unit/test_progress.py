"""Reading cargo's output."""

from __future__ import annotations

import pytest
from pipeline.progress import LineReader, Progress, clock, first_error


def test_progress_is_told_apart_from_lines_whatever_the_chunks():
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


@pytest.mark.parametrize(
    ("progress", "seconds", "line"),
    [
        (Progress(412, 803, "mistralrs-core"), 190, "[ada] 412/803 mistralrs-core, 3:10, about 3:00 left"),
        (Progress(3, 803, "syn"), 4, "[ada] 3/803 syn, 0:04"),
        (Progress(803, 803, ""), 4000, "[ada] 803/803 finishing, 1:06:40"),
    ],
)
def test_a_line_for_a_person(progress, seconds, line):
    assert progress.line("ada", seconds) == line


def test_clock_counts_hours():
    assert (clock(5.9), clock(190), clock(3723)) == ("0:05", "3:10", "1:02:03")


def test_the_first_rustc_error_is_shown_and_no_other():
    log = """\
   Compiling a v0.1.0
warning: unused
error[E0308]: mismatched types
 --> a/src/lib.rs:3:5
  |
3 |     "text"
  |     ^^^^^^ expected `i32`, found `&str`
error: could not compile `a` (lib) due to 1 previous error
warning: build failed, waiting for other jobs to finish...""".splitlines()
    shown = first_error(log)
    assert shown[0] == "error[E0308]: mismatched types"
    assert shown[-1].endswith("expected `i32`, found `&str`")


def test_a_build_scripts_own_error_is_found_in_its_output():
    log = """\
error: failed to run custom build command for `mistralrs-quant v0.9.2`
Caused by:
  process didn't exit successfully: `/x/build-script-build` (exit status: 101)
  --- stdout
  cargo:rerun-if-changed=kernels/afq.cu
  --- stderr
  kernels/afq.cu(12): error: identifier "foo" is undefined
  1 error detected in the compilation of "kernels/afq.cu".""".splitlines()
    shown = first_error(log)
    assert shown[0].startswith("error: failed to run custom build command")
    assert 'identifier "foo" is undefined' in shown[1]


def test_a_log_without_an_error_shows_its_end():
    assert first_error(["a", "b", "c"], limit=2) == ["b", "c"]
