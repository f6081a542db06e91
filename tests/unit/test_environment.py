"""Programs get the project's environment: what it holds, and that nothing is started without it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pipeline.base.environment import AUTHORITIES, HOME, PROXIES, SSH_AGENT, environment
from pipeline.base.git import configured, mirrors

PROJECT = Path(__file__).resolve().parents[2]
# Functions that start a program, by their last name; those of gnupg do so too.
STARTERS = {"Popen", "GPG", "check_call", "check_output", "create_subprocess_exec", "create_subprocess_shell"}
STARTERS_OF = {
    "subprocess": {"run", "call", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "posix_spawn", "posix_spawnp"},
}
FOREVER = ("exec", "spawn")
# The build's wrapper of nvcc: cargo started it, in the build's own environment.
INHERITING = {"module_utils/pipeline/toolchain/nvcc_wrapper.py"}
ALLOWED_WHOLE = {"module_utils/pipeline/base/environment.py"}


def test_the_caller_decides_only_what_is_listed():
    caller = dict.fromkeys(("PATH", "TMPDIR", *PROXIES, *AUTHORITIES), "kept") | {
        "HOME": "/home/me", "LC_ALL": "ru_RU.UTF-8", "TZ": "Asia/Tokyo", "LANGUAGE": "ru", "LC_MESSAGES": "ru_RU.UTF-8",
        "GIT_DIR": "/x", "GNUPGHOME": "/x", "RUSTFLAGS": "-C opt-level=0", "CARGO_HOME": "/x", "RPM_CONFIGDIR": "/x",
        "TAR_OPTIONS": "--x", "LD_PRELOAD": "/x", "PYTHONPATH": "/x", "SSH_AUTH_SOCK": "/run/agent",
    }  # fmt: skip
    kept = dict.fromkeys(("PATH", "TMPDIR", *PROXIES, *AUTHORITIES), "kept")
    fixed = {"HOME": HOME, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    assert environment(caller=caller) == kept | fixed
    assert environment(keep=("HOME", *SSH_AGENT), caller=caller) == kept | fixed | {
        "HOME": "/home/me",
        "SSH_AUTH_SOCK": "/run/agent",
    }
    assert environment({"HOME": "/own"}, keep=("HOME",), caller=caller)["HOME"] == "/own"


def test_proxies_are_kept_in_both_spellings():
    assert {"http_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "ALL_PROXY"} <= set(PROXIES)


def test_of_the_callers_git_only_mirrors_are_kept():
    pairs = [
        ("url.https://m/.insteadOf", "https://github.com/"),
        ("core.hooksPath", "/tmp/hooks"),
        ("url.https://m/.pushInsteadOf", "https://github.com/"),
    ]
    assert list(mirrors(configured(pairs))) == pairs[:1]
    assert list(mirrors({})) == []


def starts(source: str) -> list[tuple[int, str, set[str]]]:
    """The calls that start a program: line, name and the names of their keywords."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        module = owner.id if isinstance(owner, ast.Name) else ""
        if name in STARTERS | STARTERS_OF.get(module, set()) or (module == "os" and name.startswith(FOREVER)):
            found.append((node.lineno, f"{module}.{name}", {str(keyword.arg) for keyword in node.keywords}))
    return found


def whole_environments(source: str) -> list[int]:
    """The lines that copy the caller's whole environment."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if any(map(_environ, _copied(node)))]


def _copied(node: ast.AST) -> list[ast.expr]:
    """The values that an expression copies as a whole."""
    match node:
        case ast.Dict():
            return [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
        case ast.BinOp():
            return [node.left, node.right]
        case ast.Call(func=ast.Name(id="dict")):
            return node.args
        case ast.Attribute(attr="copy"):
            return [node.value]
        case ast.keyword() if node.arg in ("env", None):
            return [node.value]
        case _:
            return []


def _environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def violations(name: str, source: str) -> list[str]:
    """Every start of a program without an environment of its own, and every copy of the caller's."""
    found = [] if name in INHERITING else [
        f"{name}:{line} starts {call} without env=" for line, call, keywords in starts(source) if "env" not in keywords
    ]  # fmt: skip
    if "run_command" in source:
        found.append(f"{name} uses run_command: it passes the caller's environment on")
    return found + [
        f"{name}:{line} copies the caller's environment"
        for line in whole_environments(source)
        if name not in ALLOWED_WHOLE
    ]


def test_no_program_is_started_in_the_callers_environment():
    files = [path for folder in ("module_utils", "library", "plugins") for path in (PROJECT / folder).rglob("*.py")]
    assert len(files) > 80
    found = [line for path in files for line in violations(str(path.relative_to(PROJECT)), path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("subprocess.run(['x'])", "starts subprocess.run"),
        ("Popen(['x'])", "starts .Popen"),
        ("gnupg.GPG(gnupghome='x')", "starts gnupg.GPG"),
        ("os.execv('x', [])", "starts os.execv"),
        ("os.system('x')", "starts os.system"),
        ("subprocess.run(['x'], env=os.environ)", "copies"),
        ("subprocess.run(['x'], env={**os.environ, 'A': 'b'})", "copies"),
        ("a = os.environ | {'A': 'b'}", "copies"),
        ("a = dict(os.environ)", "copies"),
        ("a = os.environ.copy()", "copies"),
        ("module.run_command(['x'])", "uses run_command"),
    ],
)
def test_another_way_is_found(source, message):
    assert any(message in line for line in violations("x.py", source))


def test_a_start_with_an_environment_of_its_own_is_fine():
    assert violations("x.py", "subprocess.run(['x'], env=environment({'A': os.environ.get('A', '')}))") == []
