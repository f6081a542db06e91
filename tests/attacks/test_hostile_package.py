"""The proof's client, attacked by a package: by its scriptlet as root and by its program. And the transcript."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.hosts.loopback_site import Site, started, stopped
from pipeline.prove import sandbox
from pipeline.prove.dnf_client import prove
from pipeline.prove.proof import ProofOrder
from pipeline.prove.sandbox import Client
from pipeline.prove.transcript import Transcript
from support.client_channel import FOLDER, Channel, Key
from support.ports import free_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a throw-away client")

INSIDE = Path(__file__).with_name("inside.py").read_text()
MORE = Path(__file__).with_name("inside_client.py").read_text()
OWN = {
    # The attacks were made for builds. A client has these of its own, and some only for its root.
    "find_devices", "find_a_writable_file_of_the_kernel", "find_sys", "see_the_operators_home",
    "see_the_callers_environment", "see_processes_of_host", "read_passwords_of_host", "have_a_capability",
}  # fmt: skip
ROOTS = OWN | {
    "become_root", "write_the_system", "write_the_root", "write_a_read_only_folder",
    "change_mode_in_a_read_only_folder",
}  # fmt: skip


def succeeded(output: str) -> set[str]:
    return {line.split(":")[0] for line in output.splitlines() if ": " in line}


@pytest.fixture
def key(tmp_path: Path) -> Iterator[Key]:
    key = Key.make(tmp_path / "key", "throwaway")
    yield key
    key.close()


@pytest.fixture
def channel(tmp_path: Path, key: Key) -> Iterator[Channel]:
    site = Site(tmp_path / "srv", free_port(), tmp_path / "nginx")
    channel = Channel(site, key, tmp_path)
    channel.folder.mkdir(parents=True)
    started(site)
    yield channel
    stopped(site.state_dir)


def order_of(channel: Channel, transcript: Path) -> ProofOrder:
    return ProofOrder(
        url=channel.site.url,
        channel="stable",
        path=FOLDER,
        trusted_keys=str(channel.key.public),
        packages=(),
        transcript=str(transcript),
    )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What code inside must not reach, each as a word of an attack."""
    # Not below pytest's folder, which only root can enter: the client's program is no root of the host.
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    folder.chmod(0o755)
    (folder / "secret").write_text("password of the signer")
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = f"attacked-{os.getpid()}"
        for address in (f"\0{abstract}", str(folder / "socket")):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        (folder / "socket").chmod(0o777)
        victim = stack.enter_context(subprocess.Popen(["sleep", f"6{os.getpid()}"]))
        disk = Path("/").stat().st_dev
        yield {
            "pid": str(victim.pid),
            "port": str(server.getsockname()[1]),
            "abstract": abstract,
            "socket": str(folder / "socket"),
            "secret": str(folder / "secret"),
            "folder": "/usr/lib",
            "disk": str(disk),
            "transcript": str(tmp_path / "log/client.log"),
        }
        assert victim.poll() is None, "a process of the host was killed"
        victim.kill()
    shutil.rmtree(folder)


def hostile(host: dict[str, str]) -> str:
    """A program that tries everything with the rights that it has, and then looks honest."""
    words = " ".join([host[name] for name in ("pid", "port", "abstract", "socket", "secret", "folder")])
    more = json.dumps(host)
    # dnf does not show what a scriptlet prints, so the program does.
    return f"""\
if [ "$(id -u)" = 0 ]; then exec > /var/tmp/tried; else cat /var/tmp/tried; fi
echo "== as $(id -un)"
python3 - {words} <<'END'
{INSIDE}
END
python3 - '{more}' <<'END'
{MORE}
END
echo "== end"
echo mistralrs 0.9.2
"""


def test_a_hostile_package_reaches_nothing_of_the_verifier(
    channel: Channel, host: dict[str, str], tmp_path: Path
) -> None:
    left = {path: Path(path).read_bytes() for path in ("/etc/passwd", "/proc/sys/kernel/core_pattern")}
    package = channel.package("0.9.2", script=hostile(host), post="/usr/bin/mistralrs-ada || :")
    channel.publish(package)
    order = dataclasses.replace(order_of(channel, tmp_path / "log/client.log"), packages=(package,))
    with pytest.raises(PipelineError) as caught:
        prove(order)
    # All its steps went well but the last: what the package wrote is there after its removal.
    assert "left" in caught.value.what
    assert "mistralrs-stays" in caught.value.what

    tried = (tmp_path / "log/client.log").read_text(errors="replace").split("== as ")
    assert [part.split()[0] for part in tried[1:]] == ["root", "mistralrs"]
    for part, own in zip(tried[1:], (ROOTS, OWN), strict=True):
        mine, _, more = part.partition("attempts\n")
        assert succeeded(mine) <= own
        assert "more attempts" in more
        assert "won: " not in more, more

    # No process remains, and the host's files are as they were.
    for path, content in left.items():
        assert Path(path).read_bytes() == content
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            assert b"left-behind-4711" not in (process / "cmdline").read_bytes()


def test_the_client_lies_about_itself_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its root can end it, forge answers, flood the host and leave any tree: each ends in a message."""
    monkeypatch.setattr(sandbox, "MOST", 2**20)
    monkeypatch.setattr(sandbox, "PATHS", 30_000)
    with Client(Transcript(tmp_path / "log")) as client:
        # Nor can it open the pipe on which a forged answer would come.
        assert client.run("sh", "-c", "(echo 0123456789abcdef 0 > /proc/2/fd/2) 2>&-; exit 7") == (7, "")
        client.run("sh", "-c", "ln -s /etc /opt/mistralrs-link; mkdir /opt/$(printf 'a\\377mistralrs')")
        changed = client.changed()
        assert {"opt/mistralrs-link", "opt/a\ufffdmistralrs"} <= changed
        assert not [path for path in changed if path.startswith("opt/mistralrs-link/")]
        client.run("ln", "-sf", "/etc/shadow", "/run/link")
        assert b"root:*:" in client.read("/run/link")
        assert client.read("/run/link") != Path("/etc/shadow").read_bytes()
        deep = "import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')"
        client.run("sh", "-c", f'cd /opt && python3 -c "{deep}"')
        client.changed()
        status, output = client.run("sh", "-c", "while :; do echo flood; done")
        assert status == 124
        assert "printed over 1048576 bytes" in output
        with pytest.raises(PipelineError, match="the throw-away client has ended"):
            client.run("true")
    assert (tmp_path / "log").stat().st_size < 2 * 2**20

    with (
        Client(Transcript(tmp_path / "log")) as client,
        pytest.raises(PipelineError, match="the throw-away client ended by itself"),
    ):
        client.run("sh", "-c", "kill -9 2")


def account_folder(tmp_path: Path) -> Path:
    """A folder of another account."""
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    return folder


@pytest.mark.parametrize("place", ["client.log", "log", "hard"])
def test_a_link_of_another_account_at_the_transcripts_path_gets_nothing_written(tmp_path: Path, place: str) -> None:
    folder = account_folder(tmp_path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "client.log").write_text("as it was")
    (folder / "log").mkdir()
    if place == "client.log":
        (folder / "log/client.log").symlink_to(victim / "client.log")
    elif place == "log":
        (folder / "log").rmdir()
        (folder / "log").symlink_to(victim)
    else:
        (folder / "log/client.log").hardlink_to(victim / "client.log")
    if (folder / "log").is_dir() and not (folder / "log").is_symlink():
        os.chown(folder / "log", 12345, 12345)
    with pytest.raises(PipelineError) as caught:
        Transcript(folder / "log/client.log")
    assert "the transcript cannot be written" in caught.value.what
    assert caught.value.where == str(folder / "log/client.log")
    assert (victim / "client.log").read_text() == "as it was"
    assert os.geteuid() == 0


def test_a_transcript_at_a_fifo_or_in_a_shared_folder_of_roots_is_refused(tmp_path: Path) -> None:
    folder = account_folder(tmp_path)
    os.mkfifo(folder / "fifo", 0o666)
    with pytest.raises(PipelineError, match="the transcript cannot be written"):
        Transcript(folder / "fifo")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PipelineError, match="other accounts may write in this folder of root's"):
        Transcript(shared / "log/client.log")
    assert list(shared.iterdir()) == []
    # Root's own link is root's choice; the kernel's limit of links holds.
    (tmp_path / "log").symlink_to(folder / "deep")
    Transcript(tmp_path / "log/client.log").close()
    assert (folder / "deep/client.log").stat().st_uid == 12345
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PipelineError, match="it is a link"):
        Transcript(tmp_path / "loop/client.log")
