"""The report of a build: the programs' output as data, the page, fewer cache hits, and the folder of logs."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pipeline.base.records import Artifact, CacheCount, Flavour, Parallel, Source
from pipeline.report import report, report_data
from pipeline.report.report_data import (
    Amount,
    BuildReport,
    Kernel,
    Level,
    Link,
    Machine,
    Output,
    build_report,
    costs,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "report"
TIMINGS = (FIXTURES / "cargo-timing.html").read_text()
MESSAGES = [json.loads(line) for line in (FIXTURES / "messages.jsonl").read_text().splitlines()]
READELF = (FIXTURES / "readelf.txt").read_text()
ROOT = "/srv/builder"
SIZE = 98_003_488
SOURCE = Source("https://git.example.org/u.git", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ARTIFACT = Artifact(
    SOURCE, Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda", "cudnn"), 580), "1" * 64, "/srv/builder/artifacts/ada/i",
    "mistralrs", "0.9.2", "5" * 64, SIZE, "1.95.0", "13.0.88", "-C target-cpu=x86-64", locked=True, seconds=3812.4,
    compiled=9, fresh=1, log=f"{ROOT}/log/ada-0.9.2-20261121T104833Z.log",
)  # fmt: skip


def call(source: str, began: float, seconds: float, **change: object) -> str:
    return json.dumps(
        {"source": source, "began": began, "seconds": seconds, "status": 0, "ptx": False} | change
    )  # as the wrapper of nvcc writes it


CALLS = "\n".join([
    call(f"{ROOT}/cargo/git/checkouts/candle-1/candle-flash-attn/kernels/flash_fwd_hdim64.cu", 100.0, 283.5),
    call("kernels/afq/afq.cu", 300.0, 100.0, ptx=True),
    call("kernels/broken.cu", 500.0, 900.0, status=2),
    "half a li",
    call("kernels/hqq/hqq.cu", 600.0, 1.25),
])  # fmt: skip
OUTPUT = Output(
    root=ROOT, messages=MESSAGES, timings=TIMINGS, calls=CALLS, sections=READELF, size=SIZE,
    kinds=(CacheCount("Rust", 580, 20), CacheCount("PTX", 3, 1)),
    not_cached={"crate-type": 120, "-": 3}, cache=Level("0.16.0", 9_000_000_000, 20_000_000_000),
)  # fmt: skip
HOST = {
    "began": 1_787_000_100, "root": ROOT, "parallel": Parallel(2, 1, 11 << 30),
    "phases": (Amount("fetch", 12.1), Amount("compile", 3790.0)), "memory": 9 << 30,
    "programs": report_data.largest({"rustc": 4 << 30, "cicc": 5 << 30, "cc1": 0}),
}  # fmt: skip
REPORT = build_report(ARTIFACT, costs(OUTPUT), **HOST)
BARE = build_report(ARTIFACT, costs(Output(ROOT)), began=1, root=ROOT, parallel=Parallel(1, 0, 1), phases=())


# ---------------------------------------------------------------- the output of programs


def test_compiled_and_fresh_units_are_named():
    fresh = [*MESSAGES[:-2], MESSAGES[-2] | {"fresh": True}]
    assert report_data.unit_names(fresh, {"mistralrs-core 0.9.2"}, fresh=True) == ("mistralrs-cli 0.9.2",)
    compiled = report_data.unit_names(fresh, {"mistralrs-core 0.9.2"}, fresh=False)
    assert "mistralrs-core 0.9.2" in compiled
    assert "mistralrs-core 0.9.2 (build script)" in compiled
    assert "mistralrs-cli 0.9.2" not in compiled
    assert len(compiled) == 8


def test_runs_of_build_scripts_count_as_in_cargos_progress():
    """cargo reports a run that it left out like one that it made; its timings tell them apart."""
    script = {"reason": "build-script-executed", "package_id": "path+file:///srv/builder/src/mistralrs-core#0.9.2"}
    found = costs(dataclasses.replace(OUTPUT, messages=[*MESSAGES, script, script | {"package_id": "x#syn@2.0.0"}]))
    assert "mistralrs-core 0.9.2 (run of its build script)" in found.compiled
    assert found.fresh == ("syn 2.0.0 (run of its build script)",)
    assert len(found.compiled) + len(found.fresh) == 11
    short = re.sub(r'("mode": "run-custom-build".*?"duration": )[\d.]+', r"\g<1>0.0", TIMINGS, flags=re.DOTALL)
    assert costs(dataclasses.replace(OUTPUT, messages=[*MESSAGES, script], timings=short)).fresh == (), (
        "too short to time"
    )


def test_units_have_their_names_in_cargos_progress():
    labels = {unit.label for unit in REPORT.units}
    assert {"mistralrs-core", "mistralrs-core(build)", "mistralrs-core(build.rs)", "mistralrs(bin)"} <= labels
    assert list(REPORT.units) == sorted(REPORT.units, key=lambda unit: unit.began)


@pytest.mark.parametrize(
    ("package_id", "crate"),
    [
        ("registry+https://github.com/rust-lang/crates.io-index#serde@1.0.219", "serde 1.0.219"),
        ("path+file:///srv/builder/src/mistralrs-quant#0.9.2", "mistralrs-quant 0.9.2"),
        ("path+file:///srv/builder/src/dir#other-name@0.9.2", "other-name 0.9.2"),
        ("git+https://git.example.org/candle.git?rev=35d7ae7#candle-core@0.10.2", "candle-core 0.10.2"),
        ("git+https://git.example.org/float8?branch=main#0.5.0", "float8 0.5.0"),
    ],
)
def test_a_package_id_names_its_crate(package_id: str, crate: str) -> None:
    assert report_data.crate(package_id) == crate


def test_the_slowest_units_come_from_cargos_timings():
    slowest = [(unit.crate, unit.part, unit.seconds) for unit in REPORT.slowest[:3]]
    assert slowest == [
        ("mistralrs-server-core 0.9.2", "library", 1.4),
        ("mistralrs-cli 0.9.2", "program", 1.38),
        ("mistralrs-core 0.9.2", "library", 0.7),
    ]
    parts = {(unit.crate, unit.part) for unit in REPORT.slowest}
    assert ("mistralrs-core 0.9.2", "compile of its build script") in parts
    assert ("mistralrs-core 0.9.2", "its build script") in parts
    assert len(REPORT.slowest) <= report_data.SLOWEST
    assert all(unit.seconds for unit in REPORT.slowest), "fresh units have no time"


@pytest.mark.parametrize(
    "page", ["", "<html></html>", "const UNIT_DATA = [\n{\n];\n", 'const UNIT_DATA = [\n{"name": "a"}\n];\n', "[1,"]
)
def test_timings_of_an_unknown_cargo_give_no_units_and_no_error(page: str) -> None:
    assert report_data.timings(report_data.every_unit(page)) == ()


def test_kernels_are_the_successful_compiles_the_slowest_first():
    assert REPORT.slowest_kernels == (
        Kernel("cargo/git/checkouts/candle-1/candle-flash-attn/kernels/flash_fwd_hdim64.cu", 283.5, ptx=False),
        Kernel("kernels/afq/afq.cu", 100.0, ptx=True),
        Kernel("kernels/hqq/hqq.cu", 1.25, ptx=False),
    )
    assert (REPORT.kernels, REPORT.kernel_seconds) == (3, 384.8)


def test_overlapping_calls_of_nvcc_count_once():
    # 100 to 383.5 overlaps 300 to 400; 600 to 601.25 stands alone.
    assert REPORT.within == (
        Amount("with nvcc running", 301.2),
        Amount("for the program's own crate and its link", 1.38),
    )
    assert REPORT.phases == (Amount("fetch", 12.1), Amount("compile", 3790.0))


def test_a_binarys_sections_are_grouped_and_add_up_to_its_size():
    parts = {part.name: int(part.amount) for part in REPORT.sections}
    assert parts["code"] == 0x305B861 + 0x17 + 9 + 0x340
    assert parts["symbols"] == 0x375450 + 0xDB34AB
    assert parts["data"] == 0xEACC1C + 0x1A8 + 0x1FB1C8 + 0x8EB58, ".bss takes no space in the file"
    assert sum(parts.values()) == SIZE
    assert "GPU code" not in parts
    fatbin = "  [33] .nv_fatbin        PROGBITS        0000000000800000 4fc3360 1000000 00   A  0   0  1\n"
    assert Amount("GPU code", float(1 << 24)) in report_data.sizes(READELF + fatbin, SIZE)
    assert report_data.sizes("readelf: Error: not an ELF file", 5) == ()


def test_unknown_values_are_omitted():
    bare = BARE
    assert (bare.slowest, bare.within, bare.sections, bare.compiled, bare.kinds) == ((), (), (), (), ())
    assert "No requests in this build." in report.html(bare, None)


def test_links_are_the_quoted_names_of_log_and_json(tmp_path: Path) -> None:
    log = tmp_path / "ada-0.9.2^20260822.143813git9e92262~1-20261121T104833Z.log"
    links = Page(report.html(changed(REPORT, log=str(log)), None)).links
    assert [urllib.parse.unquote(link) for link in links] == [f"./{log.name}", f"./{log.stem}.json"]
    assert not [link for link in links if "^" in link]


def test_json_round_trip(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "r.json")
    assert BuildReport.read(tmp_path / "r.json") == REPORT
    assert BuildReport.from_dict(json.loads(json.dumps(BARE.to_dict()))) == BARE


# ---------------------------------------------------------------- the page


class Page(HTMLParser):
    """The elements of a page; an unclosed one fails."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"


def test_the_page_has_no_scripts_and_no_external_resources():
    text = report.html(REPORT, None)
    page = Page(text)
    assert page.links == ["./ada-0.9.2-20261121T104833Z.log", "./ada-0.9.2-20261121T104833Z.json"]
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_page_shows_every_part():
    text = Page(report.html(REPORT, None)).text
    for wanted in (
        "ada 0.9.2", "1:03:32", "the first of this flavour", "97%", "583 of 604 compiles", "93.5 MiB", "PTX (cicc)",
        "580 of 600", "sccache 0.16.0; holds 8.38 GiB of 18.63 GiB; 123 not cacheable (other 3, crate-type 120)",
        "mistralrs-server-core 0.9.2", "flash_fwd_hdim64.cu", "candle-flash-attn/kernels", "3 calls of nvcc, 6:24 in",
        "9.00 GiB", "Planned: 11.00 GiB for 2 jobs of cargo and 1 of nvcc at once.", "cicc",
        "of that with nvcc running",
        "-C target-cpu=x86-64", "1.95.0", "13.0.88", "https://git.example.org/u.git v0.9.2", "c" * 40, "9 compiled",
        "mistralrs-core 0.9.2 (build script)",
        "2026-08-17 20:55 UTC",
    ):  # fmt: skip
        assert wanted in text


def test_the_page_compares_with_the_build_before():
    before = dataclasses.replace(REPORT, artifact=dataclasses.replace(ARTIFACT, seconds=1906.2, size=98_000_000))
    text = Page(report.html(REPORT, before)).text
    assert "last 31:46, +100.0%" in text
    assert "last 93.5 MiB, +0.0%" in text
    assert "last 97%" in text


def test_more_memory_than_planned_has_a_remedy():
    over = dataclasses.replace(REPORT, memory=12 << 30)
    assert "low_memory=true" in report.html(over, None)
    assert "low_memory=true" not in report.html(REPORT, None)


def colours(text: str) -> Iterator[dict[str, str]]:
    """The colours of the light and of the dark page, by name."""
    light, dark = re.findall(r":root \{([^}]*)\}", text)
    named = dict(re.findall(r"--(\w+): (#\w+);", light))
    yield named
    yield named | dict(re.findall(r"--(\w+): (#\w+);", dark))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 (relative luminance, contrast ratio)."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_and_bars_have_the_contrast_of_wcag_aa():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    for named in colours(report.html(REPORT, None)):
        for behind in ("card", "back", "note"):
            for text in ("ink", "soft", "bad", "link"):
                assert contrast(named[text], named[behind]) >= 4.5, (text, behind)
        assert contrast(named["edge"], named["note"]) >= 3
        for bar in ("bar", "bad"):
            assert contrast(named[bar], named["card"]) >= 3, bar


def section(text: str, title: str) -> str:
    return text.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def test_nothing_has_no_bar_and_each_table_has_a_scale_and_one_unit():
    phases = (Amount("checkout", 0.0), Amount("fetch", 0.1), Amount("compile", 50.0))
    text = report.html(dataclasses.replace(REPORT, phases=phases, within=()), None)
    times = section(text, "Time")
    assert times.count("<i ") == 2, "0.0 s has none"
    assert re.findall(r"<span>(.*?)</span>", times) == ["0", "50.1 s"]
    assert re.findall(r'"number">(.*?)<', times) == ["0.0 s", "0.1 s", "50.0 s"]
    for title, scale in (
        ("Compile cache", "100%"), ("Slowest units", "s"), ("Slowest kernels", "4:43"), ("The binary", "93.5 MiB"),
        ("Memory", "9.00 GiB"),
    ):  # fmt: skip
        assert re.findall(r"<span>(.*?)</span>", section(text, title))[1].endswith(scale), title
    assert {figure.split()[-1] for figure in re.findall(r'"number">([\d.]+ \w+)<', section(text, "The binary"))} == {
        "MiB"
    }


def test_the_plan_of_memory_flattens_no_bar():
    programs = report_data.largest({"rustc": 300 << 20, "cicc": 100 << 20})
    small = dataclasses.replace(REPORT, memory=400 << 20, programs=programs, parallel=Parallel(16, 8, 50 << 30))
    widths = re.findall(r"width:([\d.]+)%", section(report.html(small, None), "Memory"))
    assert widths == ["100.0", "75.0", "25.0"]


def test_the_page_names_the_builder_and_links_to_what_became_of_the_build():
    machine = Machine("builder1", "AMD EPYC 9B14", 4, 8 << 30, ("cpu.max of /runner: 4",))
    links = (Link("its package, once published", "https://rpm.example.org/Packages/mistralrs-ada.rpm"),)
    found = dataclasses.replace(REPORT, machine=machine, links=links)
    page = Page(report.html(found, None, ["ada-0.9.1-20261120T104833Z.html", "ada-0.9.2^1-20261119T104833Z.html"]))
    assert page.links[2:] == [
        links[0].url, "./ada-0.9.1-20261120T104833Z.html", "./ada-0.9.2%5E1-20261119T104833Z.html",
    ]  # fmt: skip
    for wanted in (
        "on builder1",
        "4 of AMD EPYC 9B14",
        "8.00 GiB",
        "cpu.max of /runner: 4",
        "ada-0.9.1-20261120T104833Z",
    ):
        assert wanted in page.text


def test_everything_is_escaped():
    evil = '"><script>alert(1)</script>&'
    output = dataclasses.replace(
        OUTPUT, kinds=(CacheCount(evil, 1, 2),), not_cached={evil: 1},
        calls=call(f"{evil}/{evil}.cu", 1, 2), cache=Level(evil, 1, 2),
        messages=[{"reason": "compiler-artifact", "package_id": f"path+file:///{evil}#1", "target": {"kind": ["lib"]}}],
        timings=TIMINGS.replace("mistralrs-server-core", evil.replace('"', '\\"')),
    )  # fmt: skip
    artifact = dataclasses.replace(
        ARTIFACT, rustflags=evil, log=f"/srv/{evil}.log", folder=evil,
        flavour=Flavour("ada", evil, "8.9"), source=Source(evil, evil, "tag", "c" * 40, 1, "0.9.2", "0.9.2"), cuda=evil,
    )  # fmt: skip
    host = HOST | {
        "phases": (Amount(evil, 1.0),), "programs": (Amount(evil, 5.0),), "host_compiler": evil, "unprotected": (evil,),
    }  # fmt: skip
    now = build_report(artifact, costs(output), **host)
    before = dataclasses.replace(now, root=evil * 2, kinds=(CacheCount(evil, 999, 0),))
    now = dataclasses.replace(now, kinds=(CacheCount(evil, 1, 998),))
    text = report.html(now, before)
    assert report.drops(now, before)
    assert "<script" not in text
    page = Page(text)
    assert page.text.count("<script>alert(1)</script>&") > 15
    assert all(link.startswith("./") for link in page.links), "no link leaves the folder"


# ---------------------------------------------------------------- fewer cache hits


def with_kinds(base: BuildReport = REPORT, **kinds: tuple[int, int]) -> BuildReport:
    return dataclasses.replace(base, kinds=tuple(CacheCount(name, *counts) for name, counts in kinds.items()))


GOOD = with_kinds(Rust=(580, 20), PTX=(80, 2))
KEPT = "The next build finds this one's results"
POOR = with_kinds(Rust=(12, 588), PTX=(80, 2))


def changed(base: BuildReport, **change: object) -> BuildReport:
    return dataclasses.replace(base, artifact=dataclasses.replace(base.artifact, **change))


NEWER = dataclasses.replace(SOURCE, commit="d" * 40, version="0.9.3")
SOME = dataclasses.replace(POOR, compiled=(*POOR.compiled, "serde 2.0.0", "syn 3.0.0 (build script)", "syn 3.0.0"))


@pytest.mark.parametrize(
    ("now", "cause", "remedy"),
    [
        (changed(POOR, rustc="1.96.0"), "rustc changed from 1.95.0 to 1.96.0", KEPT),
        (changed(POOR, rustflags="-C target-cpu=x86-64-v3"), "RUSTFLAGS changed from -C target-cpu=x86-64 to", KEPT),
        (changed(POOR, flavour=Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda",))),
         "the flavour's features changed from cuda cudnn to cuda", KEPT),
        (dataclasses.replace(POOR, root="/other"), "root changed from /srv/builder to /other", "same builder_root"),
        (dataclasses.replace(POOR, cache=Level("0.17.0", 9 << 30)), "sccache changed from 0.16.0 to 0.17.0", KEPT),
        (dataclasses.replace(POOR, cache=dataclasses.replace(POOR.cache, shared_down=True)),
         "the shared level of the cache is down", "compile_cache_endpoint"),
        (dataclasses.replace(POOR, cache=Level("0.16.0", 19_500_000_000, 20_000_000_000)),
         "the cache is full (18.2 of 18.6 GiB)", "compile_cache_size"),
        (dataclasses.replace(POOR, cache=Level("0.16.0", 600_000_000, 20_000_000_000)),
         "the cache was deleted (8.4 GiB before, now 0.6 GiB)", KEPT),
        (SOME, "2 of 9 crates changed their version", KEPT),
        (changed(POOR, source=NEWER), "upstream went from 0.9.2 to 0.9.3", KEPT),
        (POOR, "Likely cause: unknown", "Compare the reports"),
    ],
)  # fmt: skip
def test_a_fall_names_its_likely_cause_and_a_remedy(now: BuildReport, cause: str, remedy: str) -> None:
    (warning,) = report.drops(now, GOOD)
    assert warning.startswith("ada: the compile cache had only 12 of 600 Rust (2%, 97% before), less than in")
    assert cause in warning
    assert remedy in warning
    assert "PTX" not in warning
    assert warning in Page(report.html(now, GOOD)).text


@pytest.mark.parametrize(
    ("kind", "change", "cause"),
    [
        ("PTX", {"cuda": "13.2.1"}, "CUDA changed from 13.0.88 to 13.2.1"),
        ("PTX", {"rustc": "1.96.0"}, "Likely cause: unknown"),
        ("Rust", {"cuda": "13.2.1"}, "Likely cause: unknown"),
        (
            "CUBIN",
            {"flavour": Flavour("ada", "RTX 40", "9.0", "13.0", ("cuda", "cudnn"))},
            "compute capability changed",
        ),
    ],
)
def test_a_change_is_a_cause_only_for_kinds_that_depend_on_it(kind: str, change: dict[str, object], cause: str) -> None:
    (warning,) = report.drops(changed(with_kinds(**{kind: (0, 90)}), **change), with_kinds(**{kind: (90, 0)}))
    assert cause in warning


def test_kinds_with_the_same_cause_share_a_warning():
    before = with_kinds(Rust=(90, 0), PTX=(90, 0), CUBIN=(90, 0))
    now = changed(with_kinds(Rust=(0, 90), PTX=(0, 90), CUBIN=(0, 90)), rustc="1.96.0", cuda="13.2.1")
    warnings = report.drops(now, before)
    assert len(warnings) == 2
    assert "0 of 90 PTX (0%, 100% before), 0 of 90 CUBIN (0%, 100% before)" in warnings[1]


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (changed(POOR, rustc="1.96.0"), None),
        (GOOD, GOOD),
        (with_kinds(Rust=(480, 120)), GOOD),
        (with_kinds(Rust=(0, 19)), GOOD),
        (POOR, with_kinds(Rust=(5, 14))),
        (changed(POOR, source=NEWER), with_kinds(Rust=(5, 14))),
        (changed(GOOD, rustc="1.96.0"), GOOD),
        (with_kinds(), GOOD),
    ],
    ids=[
        "the first build", "as before", "a small fall", "few requests", "few requests before",
        "few requests before, other sources",
        "another rustc, in the cache", "no cache now",
    ],
)  # fmt: skip
def test_no_warning(now: BuildReport, before: BuildReport | None) -> None:
    assert report.drops(now, before) == []


def test_few_requests_before_count_as_hits_if_the_environment_changed():
    (warning,) = report.drops(changed(POOR, rustc="1.96.0"), with_kinds(Rust=(5, 7)))
    assert "12 of 600 Rust (2%)" in warning
    assert "rustc changed" in warning


# ---------------------------------------------------------------- the folder of logs


def build_at(folder: Path, time: str, flavour: str = "ada", *, finished: bool = True) -> Path:
    log = folder / f"{flavour}-0.9.2-{time}.log"
    log.write_text("a log\n")
    if finished:
        artifact = dataclasses.replace(
            ARTIFACT, log=str(log), flavour=dataclasses.replace(ARTIFACT.flavour, name=flavour)
        )
        page, warnings = report.leave(dataclasses.replace(REPORT, artifact=artifact))
        assert page == str(log.with_suffix(".html"))
        assert warnings == []
    return log


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_page_links_to_the_earlier_pages_of_its_flavour(tmp_path: Path) -> None:
    for number in range(7):
        build_at(tmp_path, f"20261121T10000{number}Z")
    build_at(tmp_path, "20261121T100009Z", "cpu")
    links = Page((tmp_path / "ada-0.9.2-20261121T100006Z.html").read_text()).links
    assert links[2:] == [f"./ada-0.9.2-20261121T10000{number}Z.html" for number in (5, 4, 3, 2, 1)]


def test_a_finished_build_has_json_and_page_beside_its_log(tmp_path: Path) -> None:
    log = build_at(tmp_path, "20261121T100000Z")
    assert names(tmp_path) == [f"{log.stem}.html", f"{log.stem}.json", f"{log.stem}.log"]
    assert BuildReport.read(log.with_suffix(".json")).artifact.log == str(log)


def test_the_last_report_is_the_newest_finished_one_of_the_flavour(tmp_path: Path) -> None:
    assert report.last(tmp_path, "ada") is None
    old = build_at(tmp_path, "20261121T100000Z")
    new = build_at(tmp_path, "20261121T110000Z")
    build_at(tmp_path, "20261121T120000Z", "ada-lite")
    build_at(tmp_path, "20261121T130000Z", "cpu")
    build_at(tmp_path, "20261121T140000Z", finished=False)
    assert report.last(tmp_path, "ada").artifact.log == str(new)
    assert report.last(tmp_path, "ada", incremental=True) is None
    changed(BuildReport.read(new.with_suffix(".json")), incremental=True).write(new.with_suffix(".json"))
    assert report.last(tmp_path, "ada", incremental=True).artifact.log == str(new)
    assert report.last(tmp_path, "ada").artifact.log == str(old)
    new.with_suffix(".json").write_text('{"of": "another version"}')
    assert report.last(tmp_path, "ada").artifact.log == str(old)


def test_the_usual_times_are_those_of_the_last_whole_build(tmp_path: Path) -> None:
    assert report.usual(tmp_path, "ada") == ()
    whole = build_at(tmp_path, "20261121T100000Z")
    part = build_at(tmp_path, "20261121T110000Z")
    small = dataclasses.replace(BuildReport.read(part.with_suffix(".json")), units=REPORT.units[:1])
    small.write(part.with_suffix(".json"))
    assert report.usual(tmp_path, "ada") == REPORT.units
    whole.with_suffix(".json").write_text("of another version")
    assert report.usual(tmp_path, "ada") == REPORT.units[:1]


def test_a_build_before_the_clock_was_set_back_is_no_newest_one(tmp_path: Path) -> None:
    ahead = build_at(tmp_path, "29991121T100000Z")
    newest = build_at(tmp_path, "20251121T100000Z")
    assert report.last(tmp_path, "ada").artifact.log == str(newest)
    report.rotate(tmp_path, "ada", 1)
    assert [path for path in (ahead, newest) if path.exists()] == [newest]


def test_rotation_keeps_the_newest_builds_of_each_flavour(tmp_path: Path) -> None:
    logs = [build_at(tmp_path, f"20261121T10000{n}Z", finished=n != 2) for n in range(5)]
    other = build_at(tmp_path, "20251121T100000Z", "ada-lite")
    Path(f"{logs[0]}.alive").touch()
    (tmp_path / "rpmbuild-ada.log").touch()
    gone = report.rotate(tmp_path, "ada", 2)
    assert len(gone) == 3 + 1 + 3 + 1, "log, JSON and page of two, an alive file, and the log of a failed build"
    left = {path.name.partition(".log")[0] for path in tmp_path.glob("ada-0*.log")}
    assert left == {logs[3].stem, logs[4].stem}
    assert other.exists()
    assert (tmp_path / "rpmbuild-ada.log").exists()
    assert report.rotate(tmp_path, "ada", 2) == []


def test_rotation_never_deletes_the_log_being_written(tmp_path: Path) -> None:
    mine = build_at(tmp_path, "20261121T100000Z", finished=False)
    newer = build_at(tmp_path, "20261121T110000Z")
    report.rotate(tmp_path, "ada", 0, writing=mine)
    assert names(tmp_path) == [mine.name]
    assert not newer.exists()


def test_a_fall_since_the_last_report_warns(tmp_path: Path) -> None:
    for n, now in enumerate((GOOD, GOOD, changed(POOR, rustc="1.96.0"))):
        log = tmp_path / f"ada-0.9.2-20261121T10000{n}Z.log"
        log.write_text("")
        page, warnings = report.leave(changed(now, log=str(log)))
        assert Path(page).is_file()
        assert [("rustc changed" in warning) for warning in warnings] == ([True] if n == 2 else [])
    assert "rustc changed" in Path(page).read_text()


def test_an_unwritable_report_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "ada-0.9.2-20261121T100000Z.html").mkdir()
    log = tmp_path / "ada-0.9.2-20261121T100000Z.log"
    page, (warning,) = report.leave(changed(GOOD, log=str(log)))
    assert page == ""
    assert "could not be written" in warning
    assert "ada-0.9.2-20261121T100000Z.html" in warning


def test_without_jinja2_the_report_is_json_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    log = tmp_path / "ada-0.9.2-20261121T100000Z.log"
    page, (warning,) = report.leave(changed(GOOD, log=str(log)))
    assert page == ""
    assert "install python3-jinja2 on the builder" in warning
    assert names(tmp_path) == [f"{log.stem}.json"]
