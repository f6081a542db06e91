"""The sandbox of upstream's code, attacked from inside, as root and as an unprivileged account."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import CommandFailed
from pipeline.base.sandbox import Layer, Sandbox

ACCOUNT = 65534
LEFT = "import os,time; os.fork() or (os.setsid(), os.fork() or (time.sleep(61.7),))"
# Runs the attacks from a process of an unprivileged account, which has the sandbox's code alone.
START = """
import sys
from pathlib import Path
from pipeline.base.sandbox import Sandbox
sandbox = Sandbox(readable=[Path(sys.argv[1])])
print(sandbox.run(["/usr/bin/python3", *sys.argv[2:]]).stdout)
"""


@pytest.fixture
def host() -> Iterator[Path]:
    """A folder that all accounts can enter, with a file that code inside must not read or change."""
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    folder.chmod(0o755)
    (folder / "shown").mkdir()
    (folder / "shown" / "file").touch()
    (folder / "secret").write_text("password")
    for path in folder.rglob("*"):
        os.chown(path, ACCOUNT, ACCOUNT)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("account", [0, ACCOUNT], ids=["root", "unprivileged"])
def test_hostile_code_reaches_nothing_of_the_host(host: Path, account: int) -> None:
    shutil.copytree(Path(sys.modules["pipeline"].__path__[0]), host / "code" / "pipeline")
    shutil.copy(Path(__file__).with_name("inside.py"), host / "shown")
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract, path = f"attacked-{os.getpid()}", host / "socket"
        for address in (f"\0{abstract}", str(path)):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        path.chmod(0o777)
        victim = stack.enter_context(subprocess.Popen(["sleep", "60"], user=account or None))
        try:
            words = [
                *(host / "shown", host / "shown" / "inside.py", victim.pid, server.getsockname()[1]),
                *(abstract, path, host / "secret", host / "shown"),
            ]
            done = subprocess.run(
                ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups", "/usr/bin/python3", "-c",
                 START, *map(str, words)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(host / "code"), "TOKEN": "password"},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.stdout.strip(), done.stderr) == ("44 attempts", "")
            assert victim.poll() is None
        finally:
            victim.kill()
    assert not (host / "shown" / "hostile").exists()


def test_without_a_sandbox_the_same_attacks_succeed(host: Path) -> None:
    """The attacks are real: most of them succeed where nothing protects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [os.getpid(), server.getsockname()[1], "x", host / "x", host / "secret", host / "shown"]
        # Only those that change nothing of this machine.
        code = (
            Path(__file__).with_name("inside.py").read_text().partition("for each in ATTEMPTS")[0]
            + "for each in (read_secret_of_host, see_processes_of_host, read_environment_of_host_process,\n"
            "    reach_loopback_of_host, have_a_capability, gain_privileges_by_setuid, make_user_namespace_by_clone,\n"
            "    make_user_namespace_by_clone3, use_the_kernels_keyring, reach_the_virtual_machines_host,\n"
            "    see_the_operators_home, find_sys, read_passwords_of_host, write_a_read_only_folder):\n"
            "    assert each(), each.__name__\n"
        )
        Sandbox(protected=False).run(["/usr/bin/python3", "-c", code, *map(str, words)])


def test_nothing_outlives_a_sandbox() -> None:
    """Neither after success nor after an end from outside: daemons, new sessions, ignored signals."""
    stubborn = f"import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; {LEFT}"
    Sandbox().run(["/usr/bin/python3", "-c", LEFT])
    assert _alive("61.7") == 0
    with Sandbox().start(["/usr/bin/python3", "-c", f"{stubborn}; time.sleep(61.7)"]):
        _wait_for("61.7", 3)
    assert _alive("61.7") == 0


def test_a_sandbox_ends_with_the_process_that_made_it() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.base.sandbox import Sandbox\n"
        f"Sandbox().run(['/usr/bin/python3', '-c', {LEFT + '; time.sleep(61.8)'!r}])\n"
    )
    folder = str(Path(sys.modules["pipeline"].__path__[0]).parent)
    maker = subprocess.Popen([sys.executable, "-c", code, folder])
    _wait_for("61.8", 1)
    maker.kill()
    maker.wait()
    deadline = time.monotonic() + 10
    while _alive("61.8") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _alive("61.8") == 0


def test_a_layer_shows_the_lower_folder_and_never_changes_it(tmp_path: Path) -> None:
    lower, upper, place = tmp_path / "lower", tmp_path / "upper", Path("/builder/target")
    lower.mkdir()
    (lower / "kept").write_text("release")
    sandbox = Sandbox(layers=[Layer(place, lower, upper)])
    script = "cat kept; echo try > kept; echo new > added; mkdir folder; mv added folder"
    done = Sandbox(layers=sandbox.layers, cwd=place).run(["sh", "-euc", script])
    assert done.stdout == "release"
    assert [path.name for path in lower.iterdir()] == ["kept"]
    assert (lower / "kept").read_text() == "release"
    again = sandbox.run(["cat", f"{place}/kept", f"{place}/folder/added"])
    assert again.stdout == "try\nnew\n"
    sandbox.layers[0].discard()
    assert [path.name for path in tmp_path.iterdir()] == ["lower"]
    assert sandbox.run(["cat", f"{place}/kept"]).stdout == "release"


def test_a_layer_works_for_an_unprivileged_account(host: Path) -> None:
    shutil.copytree(Path(sys.modules["pipeline"].__path__[0]), host / "code" / "pipeline")
    os.chown(host, ACCOUNT, ACCOUNT)
    code = (
        "import sys; from pathlib import Path; from pipeline.base.sandbox import *\n"
        "top = Path(sys.argv[1]); layer = Layer(Path('/place'), top / 'shown', top / 'upper')\n"
        "print(Sandbox(layers=[layer]).run(['sh', '-euc', 'ls /place; rm /place/file; ls /place; echo >/place/new']))\n"
        "layer.discard()\n"
    )
    done = subprocess.run(
        ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "/usr/bin/python3", "-c", code, host],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(host / "code")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "stdout='file\\n'" in done.stdout, done.stderr
    assert sorted(path.name for path in host.iterdir()) == ["code", "secret", "shown"]
    assert [path.name for path in (host / "shown").iterdir()] == ["file"]


def test_output_and_time_are_bounded() -> None:
    with pytest.raises(PipelineError, match="yes printed more than 64 MiB"):
        Sandbox().run(["yes"])
    with pytest.raises(PipelineError, match=r"sleep did not end within 0\.2 s"):
        Sandbox().run(["sleep", "61.9"], timeout=0.2)
    assert _alive("61.9") == 0


def test_a_failure_is_the_programs_own() -> None:
    with pytest.raises(CommandFailed, match="sh ended with status 3: no"):
        Sandbox().run(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(PipelineError, match=r"the sandbox cannot be made: bwrap: .*/missing"):
        Sandbox(readable=[Path("/missing")]).run(["true"])


def _alive(mark: str) -> int:
    """The processes of this machine with a mark in their command line."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += any(mark.encode() in word for word in words) and b"bwrap" not in words[0]
    return found - _mentioned(mark)


def _mentioned(mark: str) -> int:
    return mark.encode() in Path("/proc/self/cmdline").read_bytes()


def _wait_for(mark: str, count: int) -> None:
    deadline = time.monotonic() + 10
    while _alive(mark) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _alive(mark) >= count
