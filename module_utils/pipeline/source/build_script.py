"""The commits of CUTLASS that a build script uses for one GPU and one set of features, read from its text.

    .with_cutlass(Some(COMMIT))     the call; COMMIT is a literal, or leads to one through const and let
    if compute_cap == 90 { … }      a condition around it; so are else, #[cfg(…)], and a name that let binds to one

Rules:

1. A call counts unless a condition around it is certainly false. All else of Rust is unknown here, and unknown counts:
   a build may use fewer commits than are found, never more.
2. A feature that the package does not have is false. One that it has may still be missing where a build script is
   compiled (The Cargo Book, "Features", resolver 2): unknown.
3. A call whose commit cannot be traced counts with every commit that the script names.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

CALL = "with_cutlass("

_HEX = r"[0-9a-f]{40}"
_LITERAL = re.compile(r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\'', re.DOTALL)
_BOUND = re.compile(r"\b(?:const|static|let)\s+(?:mut\s+)?(\w+)\s*(?::[^=;]*)?=(?!=)([^;]*);")
_IF = re.compile(r"\bif\b(?!\s+let\b)(?P<condition>[^{}]*)$")
_CFG = re.compile(r"#\s*\[\s*cfg\s*\(")
_TOKEN = re.compile(r'\s*(&&|\|\||[<>=!]=|[<>!(),=]|"[^"]*"|[\w.:]+!?)')
_COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DEEPEST = 20
_CAPS = ("compute_cap", "cuda_compute_cap")

Truth = bool | None
"""True, False, or None where this is not known."""


def used_commits(text: str, default: str, compute_cap: str, features: Collection[str] | None) -> tuple[str, ...]:
    """The commits that the script's calls use, each once, with "" for an unknown one; empty without a call that counts.

    ``default`` is cudaforge's own commit, for ``None`` and where the script names none; "" where it is not known.
    ``compute_cap`` is that of CUDA_COMPUTE_CAP ("89"), ``features`` the package's; "" and None are unknown.
    """
    script = _Script(text, compute_cap, features)
    every = dict.fromkeys(re.findall(rf'"({_HEX})"', script.text))
    found: dict[str, None] = {}
    for at in script.calls():
        argument = _enclosed(script.text, at + len(CALL) - 1)
        traced = [default] if argument.strip() == "None" else script.commits(argument)
        found |= dict.fromkeys(traced or every or [default])
    return tuple(found)


@dataclass
class _Script:
    """A script's text without comments, in which strings hold no character that structures Rust."""

    text: str
    compute_cap: str
    features: Collection[str] | None
    bound: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = _LITERAL.sub(_plain, self.text)
        for name, value in _BOUND.findall(self.text):
            self.bound.setdefault(name, []).append(value)

    def calls(self) -> Iterator[int]:
        """The places of the calls that count."""
        for found in re.finditer(re.escape(CALL), self.text):
            if all(self.holds(opened) is not False for opened in self._around(found.start())):
                yield found.start()

    def _around(self, at: int) -> list[int]:
        """The places of the braces that are open there."""
        opened: list[int] = []
        for found in re.finditer(r"[{}]", self.text[:at]):
            if found[0] == "{":
                opened.append(found.start())
            elif opened:
                opened.pop()
        return opened

    def holds(self, brace: int) -> Truth:
        """Whether the block of this brace is compiled and entered."""
        head = re.split(r"[;{}]", self.text[:brace])[-1]
        compiled = [self.truth(_enclosed(head, found.end() - 1)) for found in _CFG.finditer(head)]
        if (found := _IF.search(head)) is not None:
            return _all([*compiled, self.truth(found["condition"]), self._otherwise(head, brace)])
        return _all([*compiled, self._otherwise(head, brace)])

    def _otherwise(self, head: str, brace: int) -> Truth:
        """For ``else``: that the block before it is not entered. True for all other heads."""
        if not re.match(r"\s*else\b", head):
            return True
        end = brace - len(head) - 1
        depth = 0
        for at in range(end, -1, -1):
            depth += (self.text[at] == "}") - (self.text[at] == "{")
            if depth == 0:
                found = _IF.search(re.split(r"[;{}]", self.text[:at])[-1])
                return _not(self.truth(found["condition"])) if found else None
        return None

    def truth(self, expression: str, depth: int = 0) -> Truth:
        """The value of a condition of Rust, or of the predicate in ``cfg(…)``."""
        tokens = _TOKEN.findall(expression)
        if depth > _DEEPEST or "".join(tokens) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", expression):
            return None
        value, rest = _Parser(self, depth).any(tokens)
        return value if not rest else None

    def named(self, name: str, depth: int) -> Truth:
        """The value of a name: that of all its bindings, where they agree."""
        values = {self.truth(value, depth + 1) for value in self.bound.get(name, [])}
        return values.pop() if len(values) == 1 else None

    def commits(self, expression: str, depth: int = 0) -> list[str]:
        """The commits to which an expression leads."""
        found = re.findall(rf'"({_HEX})"', expression)
        for name in re.findall(r"\b[A-Za-z_]\w*\b", expression) if depth < _DEEPEST else ():
            for value in self.bound.get(name, []):
                found += self.commits(value, depth + 1)
        return found


@dataclass(frozen=True)
class _Parser:
    """Each method takes tokens and returns the value of the longest expression of its kind, and the tokens after it."""

    script: _Script
    depth: int

    def any(self, tokens: list[str]) -> tuple[Truth, list[str]]:
        value, rest = self.all(tokens)
        while rest and rest[0] == "||":
            other, rest = self.all(rest[1:])
            value = _not(_all([_not(value), _not(other)]))
        return value, rest

    def all(self, tokens: list[str]) -> tuple[Truth, list[str]]:
        value, rest = self.one(tokens)
        while rest and rest[0] == "&&":
            other, rest = self.one(rest[1:])
            value = _all([value, other])
        return value, rest

    def one(self, tokens: list[str]) -> tuple[Truth, list[str]]:
        match tokens:
            case ["!", *rest]:
                value, rest = self.one(rest)
                return _not(value), rest
            case ["(", *rest]:
                value, rest = self.any(rest)
                return (value, rest[1:]) if rest[:1] == [")"] else (None, rest)
            case ["all" | "any" | "not" | "cfg!" as word, "(", *rest]:
                return self.predicate(word, rest)
            case ["feature", "=", name, *rest]:
                features = self.script.features
                return (False if features is not None and name.strip('"') not in features else None), rest
            case [name, operation, number, *rest] if operation in _COMPARE:
                return self.compared(name, operation, number), rest
            case [_, "=", _, *rest]:
                return None, rest
            case [name, "(", *rest]:
                # A call: no value, and the tokens after it.
                return None, _after(rest)
            case [name, *rest]:
                return self.script.named(name, self.depth), rest
        return None, []

    def predicate(self, word: str, tokens: list[str]) -> tuple[Truth, list[str]]:
        values, rest = [], tokens
        while rest and rest[0] != ")":
            value, rest = self.any(rest)
            values.append(value)
            if rest and rest[0] not in (",", ")"):
                return None, []
            rest = rest[1:] if rest and rest[0] == "," else rest
        if word == "any":
            return _not(_all([_not(value) for value in values])), rest[1:]
        return (_not(_all(values)) if word == "not" else _all(values)), rest[1:]

    def compared(self, name: str, operation: str, number: str) -> Truth:
        """A comparison with the GPU's number, 50 or more; a smaller one may be that of its generation alone."""
        script, cap = self.script, self.script.compute_cap
        values = script.bound.get(name, [])
        whole = all("compute_cap" in value.lower() and not re.search(r"[/%*]", value) for value in values)
        if not cap or name not in _CAPS or not whole or not re.fullmatch(r"[5-9]\d|1\d\d", number):
            return None
        return bool(_COMPARE[operation](int(cap), int(number)))


def _plain(found: re.Match[str]) -> str:
    literal = found[0]
    if literal.startswith("/"):
        return " "
    return re.sub(r"[^\w\"./:-]", " ", literal) if '"' in literal else '""'


def _enclosed(text: str, opening: int) -> str:
    """The text inside the parenthesis that opens there."""
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return text[opening + 1 : at]
    return text[opening + 1 :]


def _after(tokens: list[str]) -> list[str]:
    """The tokens after the parenthesis that is open before them."""
    depth = 1
    for at, word in enumerate(tokens):
        depth += (word == "(") - (word == ")")
        if depth == 0:
            return tokens[at + 1 :]
    return []


def _all(values: Collection[Truth]) -> Truth:
    if False in values:
        return False
    return None if None in values else True


def _not(value: Truth) -> Truth:
    return None if value is None else not value
