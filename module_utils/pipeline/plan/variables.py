"""The variables of one run: the names and values that ``-e`` and make take. Checked before anything else happens.

Rules:

1. ``TABLE`` has each variable of the command line that is in no file of the inventory, each that make takes, and each
   of the inventory whose value is one of a few. All others are known by the inventory's files and the roles' argument
   specs.
2. A name that nobody knows is refused, with the nearest known one. Free are Ansible's own names (``ansible_``), those
   that the operator's inventory has, and those that begin with ``OWN``.
3. A variable of another playbook or target is refused too: it would have no effect, and the run would do something
   else.
4. The values of the table are plain data: what looks like Jinja in them is text.

It runs before the project's Python environment is made: Python's own library only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..base.patterns import Pattern
from ..base.text import SNAPSHOT_ID, shown

OWN = "my_"
"""The prefix of an operator's own variables."""
ALIKE = 0.85
"""How alike two names are (difflib) if one is a slip of the other: operators may have variables of their own."""
PAGE = f"docs/variables.md lists all; a variable of your own begins with {OWN}"

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
FLAG = Pattern(f"(?i:{'|'.join(TRUE + FALSE)})", "true or false")
TEXT = Pattern(r"(?s:[^\0]*)", "text")
LINE = Pattern(r"[^\x00-\x1f\x7f]*", "one line of text")
PORT = Pattern(r"0*(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])", "a port from 1 to 65535")
COUNT = Pattern(r"\d{1,9}", "a number of 0 or more")
SOME = Pattern(r"0*[1-9]\d{0,8}", "a number of 1 or more")
AMOUNT = Pattern(r"\d{1,9}(?:\.\d+)?(?:[eE]\+?\d)?", "a number of 0 or more")
NAME = Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "a name of letters, digits and . _ -")
VERSION = Pattern(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,127}", "a version such as 0.9.2")
COMMIT = Pattern(r"[0-9a-fA-F]{7,64}", "a commit's id, or seven or more digits of it")
SNAPSHOT = Pattern(SNAPSHOT_ID, "a snapshot's id such as 20261121T113154Z-2f7b86af")
HEADS = Pattern(
    f"(?:{SNAPSHOT_ID}|empty)(?: *, *(?:{SNAPSHOT_ID}|empty))*", "a snapshot's id or empty, or more by commas"
)


def one_of(*values: str) -> Pattern:
    return Pattern("|".join(map(re.escape, values)), " or ".join((", ".join(values[:-1]), values[-1])))


@dataclass(frozen=True)
class Variable:
    """A variable as ``-e`` calls it (``name``, empty for those of make alone) and as make does (``make``, if it does).

    ``targets`` are the targets of make that take it, which are playbooks too. ``everywhere`` allows ``-e`` with other
    playbooks. ``among`` is the variable of the inventory whose keys or names are the only values.
    """

    name: str
    value: Pattern
    make: str = ""
    targets: tuple[str, ...] = ()
    everywhere: bool = False
    among: str = ""
    example: str = ""
    meaning: str = ""


RELEASES = ("release", "prerelease", "reproduce", "doctor", "dev", "warm")
REPOSITORY = ("release", "reproduce", "doctor", "rollback", "yank")
OPERATIONS = ("status", "rollback", "yank", "prune", "rotate-key", "fingerprint", "hold", "resume")
PLAYBOOKS = (*RELEASES, *OPERATIONS, "provision")
TESTS = ("test", "unit", "faults", "bench", "bench-build", "bench-channel")

TABLE = (
    Variable("flavour", NAME, "FLAVOUR", RELEASES, everywhere=True, among="flavours",
             example="ada|...|all", meaning="the GPU generation; default: the inventory's"),
    Variable("version", VERSION, "VERSION", ("release", "reproduce", "doctor"), everywhere=True,
             example="0.9.2", meaning="the release; default: the newest"),
    Variable("channel", NAME, "CHANNEL", REPOSITORY, everywhere=True, among="channels",
             example="stable|unstable", meaning="the channel; default: stable"),
    Variable("upstream_url", LINE, "UPSTREAM", RELEASES, everywhere=True,
             example="<git URL>", meaning="the repository to package"),
    Variable("source", LINE, "SOURCE", ("dev",), example="<clone>", meaning="a clone on this machine"),
    Variable("ref", LINE, "REF", ("dev",), example="<ref>", meaning="a branch, tag or commit of it; default: HEAD"),
    Variable("uncommitted", FLAG, "UNCOMMITTED", ("dev",), example="true", meaning="its work tree as it is"),
    Variable("commit", COMMIT, "COMMIT", ("dev",), example="<id>", meaning="a commit of upstream instead"),
    Variable("publish", NAME, "PUBLISH", ("dev",), example="unstable", meaning="publish it as a prerelease"),
    Variable("incremental", FLAG, targets=("dev",)),
    Variable("names", LINE, "NAMES", ("yank",), example="<name,...>", meaning="the packages to remove"),
    Variable("keep_file", FLAG, targets=("yank",)),
    Variable("snapshot", SNAPSHOT, "TO", ("rollback",), example="<snapshot>", meaning="default: the one before"),
    Variable("reason", TEXT, "REASON", ("rollback", "yank", "hold"), example="'<why>'", meaning="for the journal"),
    Variable("deep", FLAG, targets=("status",)),
    Variable("status_file", LINE, targets=("status",)),
    Variable("report", LINE, targets=("doctor",)),
    Variable("signing_next_key", LINE, targets=("rotate-key",)),
    Variable("signing_retire", LINE, targets=("rotate-key",)),
    Variable("only_first", FLAG, targets=("release", "prerelease", "reproduce", "doctor", "provision")),
    Variable("jobs", COUNT, everywhere=True),
    Variable("accept_head", HEADS, everywhere=True),
    Variable("local_port", PORT, "PORT", (*RELEASES, *OPERATIONS, "serve"), everywhere=True,
             example="8643", meaning="the port of the local site"),
    Variable("", LINE, "INVENTORY", PLAYBOOKS, example="<file>", meaning="the hosts; default: this machine is all"),
    Variable("", TEXT, "ARGS", (*PLAYBOOKS, *TESTS), example="'<words>'", meaning="more words for Ansible or pytest"),
    Variable("", NAME, "SCENARIO", ("molecule",), example="<name>", meaning="one scenario; default: all"),
    Variable("", one_of("files", "parts"), "PARTS", ("test",), example="files", meaning="a row of times for each file"),
    Variable("", LINE, "PYTHON", ("setup", *PLAYBOOKS, *TESTS, "lint", "lock", "molecule", "serve"),
             example="<python3>", meaning="the Python for .venv"),
    Variable("together", FLAG, everywhere=True),
    Variable("agreement", SOME, everywhere=True),
    Variable("package_release", SOME, everywhere=True),
    Variable("fedora_release", SOME, everywhere=True),
    Variable("build_jobs", COUNT, everywhere=True),
    Variable("build_logs_kept", COUNT, everywhere=True),
    Variable("artifacts_kept", COUNT, everywhere=True),
    Variable("build_free_gib", AMOUNT, everywhere=True),
    Variable("signing_overlap_days", COUNT, everywhere=True),
    Variable("low_memory", FLAG, everywhere=True),
    Variable("warm_incremental", FLAG, everywhere=True),
    Variable("builder_share_trust", FLAG, everywhere=True),
    Variable("sandbox", one_of("bubblewrap", "none"), everywhere=True),
    Variable("cuda_source", one_of("auto", "wheels", "dnf", "system"), everywhere=True),
    Variable("cuda_toolkit_components", one_of("full", "compiler"), everywhere=True),
    Variable("rust_source", one_of("dist", "system"), everywhere=True),
)  # fmt: skip
BY_NAME: Mapping[str, Variable] = {row.name: row for row in TABLE if row.name}
BY_MAKE: Mapping[str, Variable] = {row.make: row for row in TABLE if row.make}

GONE: Mapping[str, str] = {
    "dry_run": "it is no variable any more: --check is the only dry run (make: ARGS=--check)",
}
"""Names of older versions that are in the fingers of operators, each with its replacement."""
FIXED: Mapping[str, str] = {
    "prerelease": "this playbook releases to the channel unstable",
    "warm": "this playbook builds for both channels",
    "status": "this playbook covers all channels",
    "prune": "this playbook covers all channels",
    "hold": "a hold is for all channels",
    "resume": "a hold is for all channels",
    "rotate-key": "this playbook covers all channels",
    "fingerprint": "all channels have one key",
}
"""Why a playbook takes no ``channel``; dev.yml has a message of its own."""


def of_target(target: str) -> Iterator[Variable]:
    """The rows of a target of make that make calls by a name."""
    return (row for row in TABLE if row.make and target in row.targets)


def wrong_for_make(targets: Collection[str], given: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """What is wrong with the variables ``given`` to make on its command line, and with the ``values`` that it has."""
    known = {row.make for target in targets for row in of_target(target)}
    found = []
    for name in given:
        if name not in BY_MAKE:
            found.append(f"{name}: {_unknown(name, BY_MAKE, {row.make: row.name for row in TABLE if row.make})}")
        elif name not in known:
            takes = ", ".join(sorted(known)) or "no variables"
            found.append(f"{name}: make {' '.join(targets)} does not take it; it takes {takes}")
    fits = {name: misfit(BY_MAKE[name], values.get(name, "")) for name in sorted(known)}
    return found + [f"{name}: {why}" for name, why in fits.items() if why]


def wrong_names(
    given: Iterable[str], playbooks: Iterable[str], known: Collection[str], own: Collection[str]
) -> list[str]:
    """What is wrong with the names ``given`` by ``-e`` to playbooks, which are named as make's targets.

    ``known`` are the inventory's and the roles' variables, ``own`` those that the operator's inventory has.
    """
    found, targets = [], tuple(playbooks)
    for name in given:
        row = BY_NAME.get(name)
        if row and name not in known and not row.everywhere and not set(targets) & set(row.targets):
            other = ", ".join(f"{target.replace('-', '_')}.yml" for target in row.targets)
            found.append(f"{name}: it is a variable of {other}, and has no effect here")
        elif name == "channel" and (fixed := [FIXED[target] for target in targets if target in FIXED]):
            found.append(f"{name}: {fixed[0]}")
        elif not row and name not in known and name not in own and not name.startswith((OWN, "ansible_")):
            found.append(
                f"{name}: {_unknown(name, {*BY_NAME, *known}, {row.name: row.make for row in TABLE if row.name})}"
            )
    return found


def misspelt(own: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of an operator's inventory that are none of ours, and look like one."""
    everything, found = {*BY_NAME, *known}, []
    for name in sorted(set(own) - everything):
        near = difflib.get_close_matches(name, everything, 1, ALIKE)
        if near and not name.startswith((OWN, "ansible_")):
            found.append(f"{name}: the inventory sets it, and there is no such variable; did you mean {near[0]}?")
    return found


def _unknown(name: str, known: Collection[str], elsewhere: Mapping[str, str]) -> str:
    """The sentence about a name that is not ``known``; ``elsewhere`` has the known ones' other spellings."""
    if name in GONE:
        return GONE[name]
    spelt = {known_name: known_name for known_name in known} | {
        other: known_name for known_name, other in elsewhere.items() if other
    }
    near = difflib.get_close_matches(name, spelt, 1, 0.6) or difflib.get_close_matches(
        name.lower(), {spelling.lower(): 0 for spelling in spelt}, 1, 0.6
    )
    lowered = {spelling.lower(): right for spelling, right in spelt.items()} | spelt
    return f"there is no such variable; did you mean {lowered[near[0]]}?" if near else "there is no such variable"


def misfit(row: Variable, value: object, choices: Collection[str] = ()) -> str:
    """Why a value does not fit its row; "" if it does. ``choices`` are those of the row's ``among``, if known."""
    values = value if isinstance(value, (list, tuple)) else [value]
    for one in values:
        if isinstance(one, Mapping) or one is None:
            return f"it must be {row.value.meaning}"
        text = str(one).lower() if isinstance(one, bool) else str(one)
        if not text:
            continue
        if choices and text not in choices:
            return f"{shown(text, 80)!r} is none of {', '.join(choices)}"
        if not row.value.fits(text):
            return f"{shown(text, 80)!r} is not {row.value.meaning}"
    return ""


def plain(row: Variable, value: object) -> object:
    """A value as data: text without its tags, by which Ansible would take it for a template; a flag as a boolean."""
    if not isinstance(value, str):
        return value
    if row.value is FLAG and value:
        return value.lower() in TRUE
    return f"{value}"


def lost_words(raw: str, parsed: Mapping[str, object]) -> str:
    """Why Ansible's reading of one ``-e`` is not what was given; "" if it is.

    In its form ``name=value`` spaces separate, quotes group, and a backslash escapes. A text changes silently.
    """
    if raw[:1] in "@{[":
        return ""
    words = str(parsed.get("_raw_params", ""))
    changed = [name for name, value in parsed.items() if name in BY_NAME and str(value) not in raw]
    if not words and not changed:
        return ""
    texts = [name for name in parsed if name in BY_NAME and BY_NAME[name].value in (TEXT, LINE)]
    name = [*changed, *texts, *parsed][0]
    what = f"{shown(words, 80)!r} belongs to no variable" if words else "a backslash would change it"
    return f'{name}: {what}. Quote the value once more, or use JSON: -e \'{{"{name}": "..."}}\''


def report(wrong: list[str], page: str = PAGE) -> str:
    """The error for everything that is wrong: lines that begin with a name."""
    names = len({line.partition(":")[0] for line in wrong})
    count = "a variable is wrong" if names == 1 else f"{names} variables are wrong"
    lines = "".join(f"\n  {line}" for line in wrong)
    return f"nothing was done, {count}:{lines}\n{page}"
