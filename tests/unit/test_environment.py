"""Programs get the project's environment: what it holds, and that nothing is started without it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ansible.plugins.loader import lookup_loader
from pipeline.base.environment import (
    AUTHORITIES,
    HOME,
    PROXIES,
    SSH_AGENT,
    Proxy,
    environment,
    proxies,
    proxy_of,
    reaching,
)
from pipeline.base.errors import PipelineError
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
    kept |= dict.fromkeys(("no_proxy", "NO_PROXY"), "kept,localhost,127.0.0.1,::1")
    fixed = {"HOME": HOME, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    assert environment(caller=caller) == kept | fixed
    assert environment(keep=("HOME", *SSH_AGENT), caller=caller) == kept | fixed | {
        "HOME": "/home/me",
        "SSH_AUTH_SOCK": "/run/agent",
    }
    assert environment({"HOME": "/own"}, keep=("HOME",), caller=caller)["HOME"] == "/own"


P, HERE = "http://proxy.lan:3128", "localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("caller", "found"),
    [
        ({}, {}),
        ({"NO_PROXY": "a.lan"}, {"no": "a.lan"}),
        ({"HTTPS_PROXY": P}, {"https": P, "no": HERE}),
        ({"https_proxy": P, "HTTPS_PROXY": "http://other"}, {"https": P, "no": HERE}),
        ({"HTTP_PROXY": P, "NO_PROXY": "a.lan  .b.lan,"}, {"http": P, "no": f"a.lan,.b.lan,{HERE}"}),
        ({"all_proxy": P}, {"http": P, "https": P, "ftp": P, "all": P, "no": HERE}),
        ({"ALL_PROXY": P, "https_proxy": ""}, {"http": P, "https": "", "ftp": P, "all": P, "no": HERE}),
        ({"ALL_PROXY": P, "no_proxy": "*"}, {"http": P, "https": P, "ftp": P, "all": P, "no": "*"}),
        ({"ALL_PROXY": P, "no_proxy": "localhost"}, {"http": P, "https": P, "ftp": P, "all": P, "no": HERE}),
    ],
)
def test_each_spelling_of_a_proxy_counts(caller: dict[str, str], found: dict[str, str]) -> None:
    assert proxies(caller) == found
    # A program gets the same in both spellings: some read the one, some the other.
    assert reaching(caller) == {
        name: value
        for scheme, value in found.items()
        for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("", False),
        ("*", True),
        ("rpm.lair.cafe", True),
        ("RPM.lair.cafe", True),
        ("lair.cafe", True),
        (".lair.cafe", True),
        ("*.lair.cafe", True),
        ("other, lair.cafe", True),
        ("other lair.cafe", True),
        ("lair.cafe:8443", True),
        ("lair.cafe:443", False),
        ("air.cafe", False),
        ("rpm.lair", False),
    ],
)
@pytest.mark.parametrize("spelling", ["no_proxy", "NO_PROXY"])
def test_no_proxy_names_hosts_domains_and_ports(spelling: str, no_proxy: str, direct: bool) -> None:
    caller = {"ALL_PROXY": P, spelling: no_proxy}
    assert proxy_of("https://rpm.lair.cafe:8443/x", caller) == ("" if direct else P)


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.3.0/24", False),
        ("[2001:db8::7]", "2001:db8::/32", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("[2001:db8::7]", "[2001:db8::7]:80", True),
        ("[2001:db8::7]", "2001:db9::/32", False),
        ("127.0.0.3", "", True),
        ("localhost", "", True),
        ("[::1]", "", True),
    ],
)
def test_no_proxy_names_networks_and_this_machine_is_always_direct(host: str, no_proxy: str, direct: bool) -> None:
    assert proxy_of(f"http://{host}:80/", {"http_proxy": P, "NO_PROXY": no_proxy}) == ("" if direct else P)


def test_a_proxy_is_parsed_with_its_login() -> None:
    found = Proxy.parse("http://me:p%40ss@proxy.lan:3128/", "https://x")
    assert (found, found.headers) == (
        Proxy("proxy.lan", 3128, "me:p@ss"),
        {"Proxy-Authorization": "Basic bWU6cEBzcw=="},
    )
    assert Proxy.parse("proxy.lan:1", "http://x") == Proxy("proxy.lan", 1)
    with pytest.raises(PipelineError, match="cannot use a proxy of the kind socks5") as caught:
        Proxy.parse("socks5://proxy.lan", "https://x/y")
    assert caught.value.where == "https_proxy or all_proxy in the environment, for https://x/y"


def test_an_address_of_a_proxy_that_cannot_be_read_shows_no_password() -> None:
    with pytest.raises(PipelineError, match="the proxy's address cannot be read .*%2F") as caught:
        Proxy.parse("http://user:se/cret@proxy.lan:3128", "https://x/y")
    assert "cret" not in str(caught.value)
    assert "'se'" not in str(caught.value)


def test_only_one_place_reads_the_variables_of_proxies() -> None:
    """urllib knows no all_proxy; what opens a URL by it alone refuses a host that can fetch."""
    own = re.compile(r"urlopen\(|getproxies|proxy_bypass|build_opener\((?!\s*urllib\.request\.ProxyHandler\(\{\}\))")
    files = [path for folder in ("module_utils", "library", "plugins") for path in (PROJECT / folder).rglob("*.py")]
    found = [
        str(path.relative_to(PROJECT))
        for path in files
        if own.search(path.read_text()) or re.search(r"environ\S*proxy", path.read_text(), re.IGNORECASE)
    ]
    assert found == ["module_utils/pipeline/base/environment.py"]


def test_a_task_of_this_machine_that_becomes_another_account_gets_the_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", P)
    lookup_loader.add_directory(str(PROJECT / "plugins/lookup"))
    lookup = lookup_loader.get("proxies")
    (found,) = lookup.run(["local"])
    assert {"https_proxy": P, "HTTPS_PROXY": P, "no_proxy": HERE, "NO_PROXY": HERE}.items() <= found.items()
    assert lookup.run(["ssh"]) == [{}]
    monkeypatch.setenv("NO_PROXY", "*")
    assert lookup.run(["local"]) == [{}]


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
