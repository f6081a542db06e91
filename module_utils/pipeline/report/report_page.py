"""The page of a build's report: one HTML file without scripts and external resources.

Jinja2 renders it, with autoescape on: every text of a build is escaped. Bars are styled boxes that repeat the number
beside them. ``page`` imports Jinja2 itself, since a builder may lack it (ImportError).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.text import clock
from .report_data import BuildReport, hit_share, requests

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}: build report</title>
<style>
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --line: #dde4ea; --back: #f6f8fa; --card: #fff;
  --bar: #2f74b5; --bad: #b42318; --note: #fff4e0; --edge: #9a6700; --link: #0b5cb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #dbe4ec; --soft: #93a4b4; --line: #2b3742; --back: #11181f;
  --card: #182129; --bar: #5b9bd8; --bad: #ff8f82; --note: #35290f; --edge: #b98022; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: .2rem 0; font-size: 1.5rem; line-height: 1.2; }
h2 { margin: 0 0 .6rem; font-size: 1.05rem; }
p { margin: .3rem 0; }
a { display: inline-block; color: var(--link); }
.soft, small, .scale { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.cards { display: grid; gap: .7rem; margin: 1rem 0; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.cards div, section { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.cards b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards small { display: block; }
section { margin: .7rem 0; }
section.note { background: var(--note); border-color: var(--edge); }
.beside { display: grid; gap: 0 .7rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .25rem .5rem .25rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { color: var(--soft); font-weight: 400; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { width: 34%; }
td.bar { padding: .45rem 0; }
td.bar i { display: block; height: .75rem; min-width: 1px; border-radius: .2rem; background: var(--bar); }
td.bar i.bad { background: var(--bad); }
.scale .bar { font-size: .85rem; }
.scale .bar div { display: flex; justify-content: space-between; border-bottom: 1px solid var(--soft); }
td small { display: block; }
.facts th { width: 1%; padding-right: 1rem; white-space: nowrap; }
code, .names { font: .85rem/1.5 ui-monospace, monospace; }
details summary { cursor: pointer; }
.names { columns: 14rem; margin: .5rem 0; }
.names span { display: block; }
@media (max-width: 34rem) { .bar { width: 28%; } th, td { padding-right: .35rem; } }
</style>
</head>
<body>
<p class="soft">{{ subtitle }}</p>
<h1>{{ title }}</h1>
<p>{{ summary }} · <a href="./{{ log | urlencode }}">log</a> · <a href="./{{ json | urlencode }}">report as JSON</a>
{%- for link in links %} · <a href="{{ link.url }}">{{ link.name }}</a>{% endfor %}</p>
{% if earlier %}
<p class="soft">Earlier:{% for name in earlier %} <a href="./{{ name | urlencode }}">{{ name | stem }}</a>
{%- if not loop.last %} ·{% endif %}{% endfor %}</p>
{% endif %}
<div class="cards">
{% for number, what, more in cards %}
<div><b>{{ number }}</b>{{ what }}<small>{{ more }}</small></div>
{% endfor %}
</div>
{% if warnings %}
<section class="note"><h2>Warnings</h2>
{% for text in warnings %}
<p>{{ text }}</p>
{% endfor %}
</section>
{% endif %}
{% for group in groups %}
<div class="beside">
{% for section in group %}
<section><h2>{{ section.title }}</h2>
<table>
{% if section.scale %}
<tr class="scale"><td colspan="{{ 1 + (section.rows[0].figures | length) }}"></td>
<td class="bar"><div><span>0</span><span>{{ section.scale }}</span></div></td></tr>
{% endif %}
{% for row in section.rows %}
<tr><td{% if row.soft %} class="soft"{% endif %}>{{ row.name }}
{%- if row.more %}<small>{{ row.more }}</small>{% endif %}</td>
{% for figure in row.figures %}
<td class="number{% if row.bad %} bad{% endif %}">{{ figure }}</td>
{% endfor %}
<td class="bar">{% if row.share %}<i{% if row.bad %} class="bad"{% endif %} style="width:
{{- row.share | percent }};margin-left:{{ row.begins | percent }}"></i>{% endif %}</td></tr>
{% endfor %}
</table>
{% if section.note %}
<p class="soft">{{ section.note }}</p>
{% endif %}
</section>
{% endfor %}
</div>
{% endfor %}
<section class="facts"><h2>Inputs and results</h2>
<table>
{% for name, value in facts if value %}
<tr><th>{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table>
</section>
<section><h2>Units</h2>
{% for what, units in units if units %}
<details><summary>{{ units | length }} {{ what }}</summary>
<div class="names">{% for name in units %}<span>{{ name }}</span>{% endfor %}</div>
</details>
{% endfor %}
</section>
</body>
</html>
"""

_KINDS = {
    "CUDA": "CUDA, host part",
    "CUDA (Device code)": "CUDA, front end (cudafe++)",
    "PTX": "PTX (cicc)",
    "CUBIN": "GPU code (ptxas)",
}
"""sccache's names for the steps of nvcc, with the program that runs each."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a name with a line below it, figures, and a bar of ``share`` that starts at ``begins``.

    A share of 0 has no bar.
    """

    name: str
    figures: tuple[str, ...]
    share: float
    begins: float = 0.0
    more: str = ""
    soft: bool = False
    bad: bool = False


@dataclass(frozen=True)
class Section:
    """A table below a title, with a note. ``scale`` is what the whole width of the bars stands for."""

    title: str
    rows: Sequence[Row]
    note: str = ""
    scale: str = ""


def page(
    report: BuildReport, previous: BuildReport | None, warnings: Sequence[str], earlier: Sequence[str] = ()
) -> str:
    """The page of a build. ``previous`` is the flavour's build before it, for comparison; ``earlier`` names pages.

    Raises ImportError where Jinja2 is not installed.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  a builder may lack it

    artifact, source = report.artifact, report.artifact.source
    log, host = Path(artifact.log), report.machine.host
    groups = (
        [_times(report), _cache(report, previous)],
        [_slowest(report)],
        [_kernels(report)],
        [_sizes(report), _memory(report)],
    )
    jinja = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    jinja.filters["percent"] = lambda part: f"{min(max(part, 0.0), 1.0) * 100:.1f}%"
    jinja.filters["stem"] = lambda name: name.removesuffix(".html")
    return jinja.from_string(_TEMPLATE).render(
        title=f"{artifact.flavour.name} {source.rpm_version}",
        subtitle=f"Build of {source.ref}, {_time(report.began)}" + (f", on {host}" if host else ""),
        summary=artifact.flavour.summary,
        log=log.name,
        json=log.with_suffix(".json").name,
        cards=_cards(report, previous),
        warnings=warnings,
        links=report.links,
        earlier=earlier,
        groups=[shown for group in groups if (shown := [section for section in group if section])],
        facts=_facts(report),
        units=[("compiled", report.compiled), ("fresh", report.fresh)],
    )


# ---------------------------------------------------------------- the parts


def _cards(report: BuildReport, previous: BuildReport | None) -> list[tuple[str, str, str]]:
    """The main figures: each a number, its name, and a line of detail."""
    artifact, before = report.artifact, previous.artifact if previous else None
    asked, size = requests(*report.kinds), _sizes_like(artifact.size)
    return [
        (clock(artifact.seconds), "in all", _change(artifact.seconds, before.seconds if before else None, clock)),
        (str(artifact.compiled), "units compiled", f"{artifact.fresh} were fresh"),
        (
            f"{hit_share(*report.kinds):.0%}" if asked else "none",
            "from the cache",
            f"{sum(kind.hits for kind in report.kinds)} of {asked} compiles",
        ),
        (size(artifact.size), "binary", _change(artifact.size, before.size if before else None, size)),
    ]


def _change(now: float, before: float | None, shown: Callable[[float], str]) -> str:
    if before is None:
        return "the first of this flavour"
    share = f", {now / before - 1:+.1%}" if before else ""
    return f"last {shown(before)}{share}"


def _times(report: BuildReport) -> Section | None:
    whole = sum(phase.amount for phase in report.phases) or 1.0
    shown = _times_like(whole)
    rows = []
    for phase in report.phases:
        rows.append(Row(phase.name, (shown(phase.amount),), phase.amount / whole))
        rows += [
            Row(f"of that {part.name}", (shown(part.amount),), part.amount / whole, soft=True)
            for part in (report.within if phase.name == "compile" else ())
        ]
    return Section("Time", rows, scale=shown(whole)) if rows else None


def _cache(report: BuildReport, previous: BuildReport | None) -> Section:
    before = {kind.kind: hit_share(kind) for kind in previous.kinds if requests(kind)} if previous else {}
    rows = [
        Row(
            _KINDS.get(kind.kind, kind.kind),
            (f"{kind.hits} of {requests(kind)}", f"{hit_share(kind):.0%}" if requests(kind) else "none"),
            hit_share(kind),
            more=f"last {before[kind.kind]:.0%}" if kind.kind in before else "",
        )
        for kind in report.kinds
    ]
    cache, notes = report.cache, []
    if cache.version:
        notes.append(f"sccache {cache.version}")
    if cache.size:
        held, limit = (_sizes_like(size)(size) for size in (cache.size, cache.limit))
        notes.append(f"holds {held}" + (f" of {limit}" if cache.limit else ""))
    if cache.shared_down:
        notes.append("its shared level was down")
    if report.not_cached:
        count = sum(reason.amount for reason in report.not_cached)
        reasons = ", ".join(f"{reason.name.strip('-') or 'other'} {reason.amount:.0f}" for reason in report.not_cached)
        notes.append(f"{count:.0f} not cacheable ({reasons})")
    note = "; ".join(notes) or ("" if rows else "No requests in this build.")
    return Section("Compile cache", rows, note, scale="100%" if rows else "")


def _slowest(report: BuildReport) -> Section | None:
    if not report.slowest:
        return None
    whole = max(unit.began + unit.seconds for unit in report.slowest)
    shown = _times_like(whole)
    rows = [
        Row(unit.crate, (shown(unit.seconds),), unit.seconds / whole, unit.began / whole, more=unit.part)
        for unit in report.slowest
    ]
    return Section("Slowest units", rows, "Each bar shows when the unit ran, from cargo's start on.", shown(whole))


def _kernels(report: BuildReport) -> Section | None:
    if not report.slowest_kernels:
        return None
    longest = report.slowest_kernels[0].seconds or 1.0
    shown = _times_like(longest)
    rows = []
    for kernel in report.slowest_kernels:
        folder, _, name = kernel.source.rpartition("/")
        more = f"{folder}{' · PTX' if kernel.ptx else ''}"
        rows.append(Row(name, (shown(kernel.seconds),), kernel.seconds / longest, more=more))
    in_all = _times_like(report.kernel_seconds)(report.kernel_seconds)
    note = f"{report.kernels} calls of nvcc, {in_all} in all, {report.parallel.nvcc} at once."
    return Section("Slowest kernels", rows, note, shown(longest))


def _sizes(report: BuildReport) -> Section | None:
    whole = report.artifact.size or 1
    shown = _sizes_like(whole)
    rows = [
        Row(part.name, (shown(part.amount), f"{part.amount / whole:.0%}"), part.amount / whole)
        for part in report.sections
    ]
    return Section("The binary", rows, scale=shown(whole)) if rows else None


def _memory(report: BuildReport) -> Section:
    plan = report.parallel
    over = report.memory > plan.memory
    # The plan is for the worst case, and has no bar: beside it those of most builds would be none.
    scale = max([report.memory, *(p.amount for p in report.programs)])
    shown = _sizes_like(scale)
    peak = (
        [Row("peak, all together", (shown(report.memory),), report.memory / scale, bad=over)] if report.memory else []
    )
    largest = [Row(f"largest {p.name}", (shown(p.amount),), p.amount / (scale or 1)) for p in report.programs]
    programs = f"{plan.jobs} jobs of cargo{f' and {plan.nvcc} of nvcc' if plan.nvcc else ''} at once"
    note = f"Planned: {_sizes_like(plan.memory)(plan.memory)} for {programs}."
    if over:
        note += " It took more than planned: set -e low_memory=true or a lower -e jobs=."
    return Section("Memory", [*peak, *largest], note, shown(scale) if scale else "")


def _facts(report: BuildReport) -> list[tuple[str, str]]:
    artifact, source, host = report.artifact, report.artifact.source, report.machine
    memory = _sizes_like(host.memory)(host.memory)
    return [
        ("host", host.host),
        ("processors", f"{host.processors} of {host.cpu or 'an unknown model'}" if host.processors else ""),
        ("memory", memory if host.memory else ""),
        ("limits", "; ".join(host.limits)),
        ("source", f"{source.url} {source.ref}"),
        ("commit", f"{source.commit}, {_time(source.commit_time)}"),
        ("version", f"{source.version}, packaged as {source.rpm_version}; the binary reports {artifact.crate_version}"),
        ("flavour", f"{artifact.flavour.name} {artifact.flavour.arch}"),
        ("features", ", ".join(artifact.flavour.features)),
        ("rustc", artifact.rustc),
        ("RUSTFLAGS", artifact.rustflags),
        ("CUDA", artifact.cuda),
        ("host compiler", report.host_compiler),
        ("Cargo.lock", "used as it is" if artifact.locked else "stale: cargo changed it"),
        ("incremental", "yes" if artifact.incremental else "no"),
        ("trust", report.trust),
        ("SHA-256", artifact.sha256),
        ("inputs", artifact.inputs),
        ("artifact", artifact.folder),
        ("log", artifact.log),
    ]


# ---------------------------------------------------------------- units of measure


def _sizes_like(largest: float) -> Callable[[float], str]:
    """How a table shows bytes: all in the unit that fits its largest, so that they can be compared at a glance."""
    factor, unit = next((row for row in _UNITS if largest >= row[0]), _UNITS[-1])
    digits = 2 if unit == "GiB" else 1
    return lambda size: f"{size / factor:.{digits}f} {unit}"


_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def _times_like(longest: float) -> Callable[[float], str]:
    """How a table shows seconds: all as seconds, or all on a clock."""
    return clock if longest >= 60 else lambda seconds: f"{seconds:.1f} s"


def _time(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"
