"""The page of a build's report: one file of HTML, read at any hour, on any screen.

No script, nothing from elsewhere; what comes from a build is escaped, all of it, by the one function that makes an
element. Bars are styled boxes, and repeat what the number beside them says.
"""

from __future__ import annotations

import datetime as dt
import typing
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from .progress import clock

if typing.TYPE_CHECKING:
    from ..base.records import CacheCount
    from .report import BuildReport, Unit

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --line: #dde4ea; --back: #f6f8fa; --card: #fff;
  --bar: #9cc3ea; --bad: #b42318; --note: #fff4e0; --edge: #e0a030; --link: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #dbe4ec; --soft: #93a4b4; --line: #2b3742; --back: #11181f;
  --card: #182129; --bar: #2f5d8c; --bad: #ff8f82; --note: #35290f; --edge: #b98022; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: .2rem 0; font-size: 1.5rem; line-height: 1.2; }
h2 { margin: 0 0 .6rem; font-size: 1.05rem; }
p { margin: .3rem 0; }
a { color: var(--link); }
.soft, small { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.cards { display: grid; gap: .7rem; margin: 1rem 0; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.cards div, section { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.cards b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
section { margin: .7rem 0; }
section.note { background: var(--note); border-color: var(--edge); }
.beside { display: grid; gap: 0 .7rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .25rem .5rem .25rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { color: var(--soft); font-weight: 400; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.bar { width: 34%; padding: .45rem 0; }
td.bar i { display: block; height: .75rem; min-width: 2px; border-radius: .2rem; background: var(--bar); }
td small { display: block; }
.facts th { width: 1%; padding-right: 1rem; white-space: nowrap; }
code, .names { font: .85rem/1.5 ui-monospace, monospace; }
details summary { cursor: pointer; }
.names { columns: 14rem; margin: .5rem 0; }
.names span { display: block; }
@media (max-width: 34rem) { td.bar { width: 22%; } th, td { padding-right: .35rem; } }
"""


class _Html(str):
    """Text that is HTML already; other text is escaped where it is put into an element."""

    __slots__ = ()


def _e(tag: str, *content: str, **attributes: str) -> _Html:
    """An element. ``class_`` is the attribute class."""
    inner = "".join(part if isinstance(part, _Html) else escape(part) for part in content)
    given = "".join(f' {name.rstrip("_")}="{escape(value)}"' for name, value in attributes.items() if value)
    return _Html(f"<{tag}{given}>{inner}</{tag}>")


def _cell(content: str, sort: str = "") -> _Html:
    return _e("td", content, class_=sort)


def _bar(share: float, begins: float = 0.0) -> _Html:
    """A bar of ``share`` of its cell, which begins at that share of it."""
    width, left = (f"{min(max(part, 0.0), 1.0) * 100:.1f}%" for part in (share, begins))
    return _e("td", _e("i", style=f"width:{width};margin-left:{left}"), class_="bar")


def _table(rows: Iterable[Sequence[_Html]], headings: Sequence[str] = ()) -> _Html:
    """Rows of cells; a heading that ends in ``>`` stands at the right."""
    lines = [_e("tr", *cells) for cells in rows]
    if headings:
        cells = [_e("th", text.rstrip(">"), class_="number" if text.endswith(">") else "") for text in headings]
        lines.insert(0, _e("tr", *cells))
    return _e("table", *lines)


def _section(title: str, *content: str, sort: str = "") -> _Html:
    return _e("section", _e("h2", title), *content, class_=sort)


def page(report: BuildReport, previous: BuildReport | None, warnings: Sequence[str]) -> str:
    """The page. ``previous`` is the build before of the same flavour, ``warnings`` what the operator should know."""
    artifact, source = report.artifact, report.artifact.source
    title = f"{artifact.flavour.name} {source.rpm_version}"
    log = Path(artifact.log).name
    links = [
        _e("a", name, href=f"./{quote(target)}")
        for name, target in (("log", log), ("report as JSON", Path(log).with_suffix(".json").name))
    ]
    body = [
        _e("p", f"Build of {source.ref}, {_time(report.began)}", class_="soft"),
        _e("h1", title),
        _e("p", artifact.flavour.summary, " · ", links[0], " · ", links[1]),
        _cards(report, previous),
        *([_section("Look at this", *(_e("p", text) for text in warnings), sort="note")] if warnings else []),
        _e("div", *filter(None, [_times(report), _cache(report, previous)]), class_="beside"),
        *filter(None, [_slowest(report), _kernels(report)]),
        _e("div", *filter(None, [_sizes(report), _memory(report)]), class_="beside"),
        _what(report),
        _units(report),
    ]
    head = _e(
        "head",
        _Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        _e("title", f"{title}: build report"),
        _e("style", _Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{_e('html', head, _e('body', *body), lang='en')}\n"


def _cards(report: BuildReport, previous: BuildReport | None) -> _Html:
    artifact = report.artifact
    before = previous.artifact if previous else None
    hits, asked = _sum(report.kinds)
    return _e(
        "div",
        _card(clock(artifact.seconds), "in all", _against(artifact.seconds, before.seconds if before else None, clock)),
        _card(str(artifact.compiled), "units compiled", f"{artifact.fresh} were fresh"),
        _card(f"{hits / asked:.0%}" if asked else "none", "from the cache", f"{hits} of {asked} compiles"),
        _card(_bytes(artifact.size), "binary", _against(artifact.size, before.size if before else None, _bytes)),
        class_="cards",
    )


def _card(number: str, what: str, more: str) -> _Html:
    return _e("div", _e("b", number), what, _Html("<br>"), _e("small", more))


def _against(now: float, was: float | None, told: typing.Callable[[float], str]) -> str:
    if was is None:
        return "the first of this flavour"
    share = f", {now / was - 1:+.1%}" if was else ""
    return f"last {told(was)}{share}"


def _times(report: BuildReport) -> _Html | None:
    whole = sum(phase.amount for phase in report.phases) or 1.0
    rows = []
    for phase in report.phases:
        parts = [(part, "soft") for part in report.within] if phase.name == "compile" else []
        for part, sort in [(phase, ""), *parts]:
            name = f"of that {part.name}" if sort else part.name
            rows.append([_cell(name, sort), _cell(_seconds(part.amount), "number"), _bar(part.amount / whole)])
    return _section("Time", _table(rows)) if rows else None


def _cache(report: BuildReport, previous: BuildReport | None) -> _Html | None:
    before = {kind.kind: _sum([kind]) for kind in previous.kinds} if previous else {}
    rows = []
    for kind in report.kinds:
        hits, asked = _sum([kind])
        then, of = before.get(kind.kind, (0, 0))
        share = f"{hits / asked:.0%}" if asked else "none"
        last = _e("small", f"last {then / of:.0%}") if of else _Html("")
        counts = _e("td", f"{hits} of {asked}", class_="number")
        rows.append([_cell(_KINDS.get(kind.kind, kind.kind)), counts, _e("td", share, last, class_="number"),
                     _bar(hits / asked if asked else 0)])  # fmt: skip
    cache = report.cache
    told = []
    if cache.version:
        told.append(f"sccache {cache.version}")
    if cache.size:
        told.append(f"holds {_bytes(cache.size)}" + (f" of {_bytes(cache.limit)}" if cache.limit else ""))
    if cache.shared_down:
        told.append("its shared level was down")
    if report.not_cached:
        count = sum(reason.amount for reason in report.not_cached)
        reasons = ", ".join(f"{reason.name.strip('-') or 'other'} {reason.amount:.0f}" for reason in report.not_cached)
        told.append(f"{count:.0f} that it cannot keep ({reasons})")
    if not rows and not told:
        return _section("Compile cache", _e("p", "This build had none, or did not ask it.", class_="soft"))
    return _section("Compile cache", _table(rows), _e("p", "; ".join(told), class_="soft"))


_KINDS = {
    "CUDA": "CUDA, host part",
    "CUDA (Device code)": "CUDA, front end (cudafe++)",
    "PTX": "PTX (cicc)",
    "CUBIN": "GPU code (ptxas)",
}
"""sccache's words for what nvcc starts, with the program that does it."""


def _slowest(report: BuildReport) -> _Html | None:
    units: Sequence[Unit] = report.slowest
    if not units:
        return None
    whole = max(unit.began + unit.seconds for unit in units)
    rows = [
        [_e("td", unit.crate, _e("small", unit.part)), _cell(_seconds(unit.seconds), "number"),
         _bar(unit.seconds / whole, unit.began / whole)]
        for unit in units
    ]  # fmt: skip
    return _section("Slowest units", _table(rows, ("unit", "time>", "when it ran")))


def _kernels(report: BuildReport) -> _Html | None:
    if not report.slowest_kernels:
        return None
    longest = report.slowest_kernels[0].seconds or 1.0
    rows = []
    for kernel in report.slowest_kernels:
        folder, _, name = kernel.source.rpartition("/")
        more = f"{folder}{' · PTX' if kernel.ptx else ''}"
        rows.append([_e("td", name, _e("small", more)), _cell(_seconds(kernel.seconds), "number"),
                     _bar(kernel.seconds / longest)])  # fmt: skip
    told = f"{report.kernels} calls of nvcc, {_seconds(report.kernel_seconds)} in all, {report.parallel.nvcc} at once."
    return _section("Slowest kernels", _e("p", told, class_="soft"), _table(rows))


def _sizes(report: BuildReport) -> _Html | None:
    if not report.sections:
        return None
    whole = report.artifact.size or 1
    rows = [
        [_cell(part.name), _cell(_bytes(part.amount), "number"), _cell(f"{part.amount / whole:.0%}", "number"),
         _bar(part.amount / whole)]
        for part in report.sections
    ]  # fmt: skip
    return _section("The binary", _table(rows))


def _memory(report: BuildReport) -> _Html:
    plan = report.parallel
    over = report.memory > plan.memory
    scale = max(report.memory, plan.memory, 1)
    rows = [[_cell("planned"), _cell(_gib(plan.memory), "number"), _bar(plan.memory / scale)]]
    if report.memory:
        peak = _e("td", _gib(report.memory), class_="number bad" if over else "number")
        rows.insert(0, [_cell("peak, all together"), peak, _bar(report.memory / scale)])
    rows += [
        [_e("td", "largest ", _e("code", program.name)), _cell(_gib(program.amount), "number"),
         _bar(program.amount / scale)]
        for program in report.programs
    ]  # fmt: skip
    parts = [f"{plan.jobs} jobs of cargo", *([f"{plan.nvcc} of nvcc"] if plan.nvcc else [])]
    told = f"{' and '.join(parts)} at once."
    if over:
        told += " More than planned: with -e low_memory=true, or a lower -e jobs=, it takes less."
    return _section("Memory", _table(rows), _e("p", told, class_="soft"))


def _what(report: BuildReport) -> _Html:
    artifact, source = report.artifact, report.artifact.source
    facts = [
        ("source", f"{source.url} {source.ref}"),
        ("commit", f"{source.commit}, {_time(source.commit_time)}"),
        ("version", f"{source.version}, packaged as {source.rpm_version}; the binary says {artifact.crate_version}"),
        ("flavour", f"{artifact.flavour.name} {artifact.flavour.arch}"),
        ("features", ", ".join(artifact.flavour.features)),
        ("rustc", artifact.rustc),
        ("RUSTFLAGS", artifact.rustflags),
        ("CUDA", artifact.cuda),
        ("host compiler", report.host_compiler),
        ("Cargo.lock", "kept to" if artifact.locked else "not kept to: cargo changed it, since it does not fit"),
        ("upstream's crates", "compiled incrementally" if artifact.incremental else "compiled whole, as for a release"),
        ("SHA-256", artifact.sha256),
        ("inputs", artifact.inputs),
        ("artifact", artifact.folder),
        ("log", artifact.log),
    ]
    rows = [[_e("th", name), _e("td", _e("code", value))] for name, value in facts if value]
    return _section("What was built", _table(rows), sort="facts")


def _units(report: BuildReport) -> _Html:
    lists = [
        _e("details", _e("summary", f"{len(units)} {what}"), _e("div", *(_e("span", name) for name in units),
                                                                class_="names"))
        for what, units in (("compiled", report.compiled), ("fresh", report.fresh)) if units
    ]  # fmt: skip
    return _section("Units", *lists)


def _sum(kinds: Iterable[CacheCount]) -> tuple[int, int]:
    """Hits, and what was asked for."""
    counts = [(kind.hits, kind.hits + kind.misses) for kind in kinds]
    return sum(hits for hits, _ in counts), sum(asked for _, asked in counts)


def _bytes(size: float) -> str:
    """Bytes in the units of disks: 97.7 MB."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.2f} GB"


def _gib(size: float) -> str:
    """Bytes in the units of memory: 12.3 GiB."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def _time(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"
