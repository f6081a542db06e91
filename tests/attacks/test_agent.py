"""Attacks on the repo host by the holder of a publishing key, who has no signing key.

The agent runs as its own account, as in production. Each attack is refused or contained: what clients reach is as it
was, every other command works, and the next honest transaction is published. A part of the attacks assumes that the
attacker runs code in rsync, by a defect of rsync: a program in its place does what such code would try.
"""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot, Transaction, sha256_file
from pipeline.channel.engine import transaction_id
from publisher_agent import metadata
from publisher_agent.confine import Limits, confined, landlock
from publisher_agent.formats import check_rpm, packet, signature_packet
from publisher_agent.refusal import Refused
from support.channel_maker import Maker
from support.publisher_fixtures import account_host, first, keys, maker, published, rpms, second
from support.publisher_host import CHANNELS, Host, own, ssh

__all__ = ["account_host", "first", "keys", "maker", "published", "rpms", "second"]

UPLOAD = "rsync --server -tre.iLsfxCIvu --partial --timeout=9999 . stable/{}/"


@pytest.fixture
def host(account_host: Host) -> Host:
    return account_host


@pytest.fixture
def honest(maker: Maker, rpms: dict[str, Path], first: Snapshot) -> Transaction:
    """The transaction of somebody else, which must succeed."""
    return maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])


@contextmanager
def contained(host: Host, honest: Transaction) -> Iterator[None]:
    """Assert that the block changes nothing, and that everybody else can work after it."""
    before = host.tree()
    yield
    assert host.tree() == before
    assert host.publisher.head("stable") == honest.snapshot.parent
    assert host.publisher.status("stable")["snapshot"] == honest.snapshot.parent
    host.publish(honest)


def refuses(host: Host, transaction: Transaction, message: str) -> None:
    """Assert that stage and publish refuse an upload in a few seconds, each with a remedy."""
    for ask in (host.publisher.stage, host.publisher.publish):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with pytest.raises(PipelineError, match=message) as error:
            ask(transaction)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert error.value.remedy
        assert after.ru_utime - before.ru_utime < 5, "processor time of the refusal"


def changed_agent(host: Host, *lines: str) -> Host:
    """The same host, with these lines run in its agent before a command."""
    start = f"import sys; sys.path.insert(0, {host.program[-1]!r}); from publisher_agent import "
    code = "\n".join(
        [f"{start}command_line, confine, disk, upload", *lines, "sys.exit(command_line.main(sys.argv[1:]))"]
    )
    return replace(host, program=(*host.program[:-1], "-c", code))


# Modes


def closed(folder: Path, upload: Path) -> None:
    """Close a folder that the client sends: rsync gives the copy the same mode."""
    (folder / "Packages").chmod(0)


def closed_file(folder: Path, upload: Path) -> None:
    next((folder / "Packages").iterdir()).chmod(0)


@pytest.mark.parametrize("close", [closed, closed_file])
def test_a_closed_folder_or_file_is_opened_again(
    host: Host, second: Transaction, first: Snapshot, close: Callable[[Path, Path], None]
) -> None:
    close(Path(second.folder), host.incoming(second))
    try:
        host.publisher.upload(second)
    finally:
        (Path(second.folder) / "Packages").chmod(0o755)
    assert host.publisher.head("stable") == first.id
    assert host.publisher.status("stable")["incoming"][0]["bytes"] > 0
    host.publish(second)


@pytest.mark.parametrize("where", ["snapshot/repodata", "strange/deep/deeper", ""])
def test_closed_folders_that_are_there_fail_their_own_upload_alone(
    host: Host, second: Transaction, honest: Transaction, where: str
) -> None:
    host.publisher.upload(second)
    upload = host.incoming(second)
    (upload / where).mkdir(parents=True, exist_ok=True)
    (upload / "strange").mkdir(exist_ok=True)
    own(host)
    (upload / where).chmod(0)
    with contained(host, honest):
        refuses(host, second, "something that is not a plain file of a snapshot")
    host.publisher.drop("stable", second.id)
    assert not upload.exists()


# Signatures, packages and metadata that are expensive to read


def armored(data: bytes) -> bytes:
    text = base64.encodebytes(data)
    return b"-----BEGIN PGP SIGNATURE-----\n\n" + text + b"-----END PGP SIGNATURE-----\n"


def compressed(data: bytes, times: int) -> bytes:
    """Nested packets of bzip2 (RFC 9580, 5.6), of indeterminate length as GnuPG writes them."""
    data = b"\xa3\x02" + zlib.compress(data)  # the large one faster
    for _ in range(times):
        data = b"\xa3\x03" + bz2.compress(data)
    return data


@functools.cache
def bomb() -> bytes:
    """64 MiB of literal data in a kilobyte; gpgv unpacks larger ones as well."""
    literal = b"\xaf" + b"b\0\0\0\0\0" + bytes(64 << 20)
    return armored(compressed(literal, 2))


def genuine(signature: bytes) -> bytes:
    return signature_packet(signature)


SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "nested bzip2": lambda _: bomb(),
    "ten thousand signatures": lambda good: armored(genuine(good) * 10_000),
    "two signatures": lambda good: armored(genuine(good) * 2),
    "two armors": lambda good: good + bomb(),
    "text before the armor": lambda good: b"x" * 4096 + b"\n" + good,
    "20 MiB of armor": lambda _: armored(bytes(20 << 20)),
    "a marker packet": lambda good: armored(b"\xca\x03PGP" + genuine(good)),
    "a key": lambda good: armored(b"\xc6" + genuine(good)[1:]),
    "a partial length": lambda good: armored(b"\xc2\xe9" + genuine(good)[2:]),
    "a length beyond the end": lambda good: armored(b"\xc2\xff\xff\xff\xff\xff" + genuine(good)),
    "not ASCII": lambda good: good.replace(b"BEGIN", b"BEGIN\xff"),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("name", ["nested bzip2", "ten thousand signatures"])
def test_a_signature_bomb_costs_nothing(host: Host, second: Transaction, honest: Transaction, name: str) -> None:
    file = Path(second.folder, "snapshot/snapshot.json.asc")
    file.write_bytes(SIGNATURES[name](file.read_bytes()))
    host.publisher.upload(second)
    with contained(host, honest):
        refuses(host, second, "this is not a detached armored signature")


@pytest.mark.parametrize("name", SIGNATURES)
def test_only_one_signature_packet_reaches_gpgv(second: Transaction, name: str) -> None:
    good = Path(second.folder, "snapshot/snapshot.json.asc").read_bytes()
    assert packet(genuine(good)) == (2, len(genuine(good)))
    with pytest.raises(ValueError, match=r"signature|armor|packet|bytes"):
        signature_packet(SIGNATURES[name](good))


def header(entries: int, size: int) -> bytes:
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", entries, size)


LEAD = b"\xed\xab\xee\xdb" + bytes(92)
PACKAGES = {
    "2 GiB of signatures": LEAD + header(1, 2 << 30),
    "2^31 entries": LEAD + header(1 << 31, 0),
    "2 GiB of header": LEAD + header(0, 0) + header(1, 2 << 30),
    "no second header": LEAD + header(0, 0),
    "no RPM": b"x" * 200,
    "empty": b"",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_header_beyond_its_limits_does_not_reach_rpm(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(PACKAGES[name])
    with path.open("rb") as stream, pytest.raises(ValueError, match="RPM"):
        check_rpm(stream, 4 << 30)


def test_a_package_that_claims_two_gib_is_refused(
    host: Host, maker: Maker, second: Transaction, honest: Transaction, rpms: dict[str, Path]
) -> None:
    """The signer signed metadata with its digest: what the builder brought was not read."""
    package = Path(second.folder, "Packages", rpms["1.1"].name)
    digest, data = sha256_file(package), bytearray(package.read_bytes())
    data[96 + 8 : 96 + 16] = struct.pack(">II", 1, 2 << 30)
    package.write_bytes(data)
    forged = maker.forge_primary(second, digest, sha256_file(package))
    listed = Path(second.folder, "snapshot/packages.txt")
    listed.write_text(listed.read_text().replace(digest, sha256_file(package)))
    host.publisher.upload(forged)
    with contained(host, honest):
        refuses(host, forged, "the package cannot be read: an RPM header claims 1 entries and 2147483648 bytes")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(cpu=1, memory=1 << 30), "while True: pass"),
        (Limits(cpu=9, memory=256 << 20), "bytes(1 << 30)"),
        (Limits(cpu=9, memory=1 << 30), "open('/dev/shm/agent-attack', 'w').write('x')"),
    ],
)
def test_a_program_that_reads_hostile_bytes_is_limited(limits: Limits, code: str) -> None:
    program = [shutil.which("python3", path="/usr/bin:/bin") or sys.executable, "-I", "-c", code]
    done = subprocess.run(program, preexec_fn=confined(limits), capture_output=True, check=False, timeout=30)
    assert done.returncode
    assert not Path("/dev/shm/agent-attack").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><repomd>&b;</repomd>',
            "declares entities",
        ),
        ("<repomd>" + "<a>" * 100_000, "repomd.xml is not fit"),
        ("<repomd>" + " " * (2 << 20) + "</repomd>", "has more than 1048576 bytes"),
    ],
)
def test_hostile_xml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "repomd.xml"
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}')
    with pytest.raises(Refused, match=message):
        metadata.parse_repomd(path)


def test_xml_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "repomd.xml"
    path.write_bytes('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x><repomd/>'.encode("utf-16"))
    with pytest.raises(Refused, match="it is not what createrepo_c writes"):
        metadata.parse_repomd(path)


def test_a_bomb_of_primary_metadata_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_METADATA", 1 << 20)
    path = tmp_path / "primary.xml.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(Refused, match="the primary metadata is not fit"):
        metadata.parse_primary(path)


NESTED = {
    "lists": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "a number": "1" * 1_000_000,
    "40 MiB": '"' + "x" * (40 << 20) + '"',
}


@pytest.mark.parametrize("name", NESTED)
def test_a_hostile_record_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text(NESTED[name])
    with pytest.raises(Refused, match="snapshot.json is not a snapshot's record"):
        metadata.parse_snapshot(path)


def test_a_hostile_record_beside_a_staged_snapshot_is_refused(
    host: Host, second: Transaction, honest: Transaction
) -> None:
    """The agent compares the record of an upload with the staged one before it verifies a signature."""
    host.publisher.upload(second)
    host.publisher.stage(second)
    Path(second.folder, "snapshot/snapshot.json").write_text(NESTED["lists"])
    host.publisher.upload(second)
    with contained(host, honest):
        refuses(host, second, "snapshot.json is not a snapshot's record")


# Uploads that never end


def receive(host: Host, name: str, *options: str) -> subprocess.Popen[bytes]:
    """The agent, receiving an upload of which nothing comes."""
    argv = [*host.program, "--config", str(host.config), *options, "--rsh", "local", UPLOAD.format(name)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(1), "rsync did not start"
    return process


def test_a_silent_upload_ends_whatever_timeout_its_client_asks_for(host: Host, honest: Transaction) -> None:
    hasty = changed_agent(host, "upload.SILENCE = 1")
    with contained(host, honest), receive(hasty, "silent-upload") as process:
        process.wait(20)
        assert process.stderr
        assert b"timeout in data send/receive" in process.stderr.read()


def test_an_upload_kept_open_byte_by_byte_ends(host: Host, honest: Transaction) -> None:
    hasty = changed_agent(host, "upload.LONGEST = 1")
    with contained(host, honest), receive(hasty, "endless-upload") as process:
        process.wait(20)
        assert process.stderr
        answer = json.loads(process.stderr.read().splitlines()[-1])
        assert (answer["error"], process.returncode) == ("the upload took longer than 1 s", 1)
        assert answer["remedy"] == "Run again: what was sent is kept"


def test_an_id_is_known_to_its_signer_alone(tmp_path: Path) -> None:
    mine, theirs = (transaction_id(tmp_path / name, "yank") for name in ("mine", "theirs"))
    assert mine != theirs
    assert mine == transaction_id(tmp_path / "mine", "yank"), "a killed run resumes its upload"
    assert mine != transaction_id(tmp_path / "mine", "another request")
    assert (tmp_path / "mine/transaction-secret").stat().st_mode & 0o777 == 0o600


def test_no_answer_over_ssh_shows_an_id(host: Host, second: Transaction, first: Snapshot) -> None:
    secret = replace(second, id="tx-0123456789abcdef0123456789abcdef")
    host.publisher.upload(secret)
    ssh(host, f"publish stable {secret.id} --parent - --force")
    answer = ssh(host, "status stable").stdout
    assert json.loads(answer)["incoming"][0]["transaction"] == "tx-01234567"
    assert "89abcdef0" not in answer
    host.publish(secret)
    assert "89abcdef0" not in ssh(host, "status stable").stdout
    # On the host itself the operator sees it, to drop it.
    assert host.publisher.status("stable")["journal"][-1]["transaction"] == secret.id


def test_a_key_receives_a_few_uploads_at_once(host: Host, honest: Transaction) -> None:
    processes = [receive(host, f"flood-{number:06}", "--as", "stolen") for number in range(8)]
    try:
        with pytest.raises(AssertionError, match="rsync did not start"):
            receive(host, "flood-000009", "--as", "stolen")
        done = ssh(host, UPLOAD.format("flood-000009"), "--as", "stolen")
        assert done.returncode == 4
        assert "8 uploads of this key" in json.loads(done.stderr)["error"]
        with contained(host, honest):
            pass
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_stale_uploads_make_way(host: Host, honest: Transaction) -> None:
    for number in range(200):
        (host.state / f"incoming/occupied-{number}").mkdir()
    own(host)
    with pytest.raises(PipelineError, match="200 uploads wait already"):
        host.publisher.upload(honest)
    later = changed_agent(host, "upload.STALE = -1")
    with contained(later, honest):
        later.publisher.upload(honest)
    assert not list((host.state / "incoming").glob("occupied-*"))


# Links


@pytest.mark.parametrize("folder", [CHANNELS["unstable"], CHANNELS["stable"], ".publisher/unstable/incoming"])
def test_a_folder_that_became_a_link_is_not_followed(
    host: Host, maker: Maker, rpms: dict[str, Path], folder: str
) -> None:
    upload = replace(maker, channel="unstable").compose([rpms["1.2"]])
    host.publisher.upload(upload)
    place, outside = host.root / folder, host.folder.parent / "outside"
    outside.mkdir()
    os.chown(outside, 65534, 65534)
    shutil.rmtree(place)
    place.symlink_to(outside)
    os.chown(place, 65534, 65534, follow_symlinks=False)
    for ask in (host.publisher.stage, host.publisher.publish, host.publisher.upload):
        with pytest.raises(PipelineError, match="a folder of the channel is a link") as error:
            ask(upload)
        assert "Remove the link" in error.value.remedy
    assert list(outside.iterdir()) == []


def test_a_link_of_the_operator_is_followed(host: Host, honest: Transaction) -> None:
    """A large disk elsewhere, by a link that the account cannot make."""
    (host.root / "fedora").rename(host.folder / "disk")
    (host.root / "fedora").symlink_to(host.folder / "disk")
    host.publish(honest)


def files_of(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (place, *place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("name", "staged"),
    [
        ("snapshot", True),
        ("snapshot/repodata", False),
        ("Packages", False),
        ("snapshot/snapshot.json", True),
        ("", True),
    ],
)
def test_a_link_in_an_upload_is_not_followed(
    host: Host, second: Transaction, honest: Transaction, name: str, staged: bool
) -> None:
    host.publisher.upload(second)
    if staged:
        host.publisher.stage(second)
    path = host.incoming(second) / name
    aside = path.rename(host.folder.parent / "aside")
    path.symlink_to(aside)
    own(host)
    before = files_of(aside)
    Path(second.folder, "snapshot/snapshot.json.asc").write_text("changed\n")
    for ask in (host.publisher.upload, host.publisher.stage):
        with pytest.raises(PipelineError):
            ask(second)
    assert files_of(aside) == before
    with contained(host, honest):
        pass


@pytest.mark.parametrize("name", ["snapshot/snapshot.json", "Packages/x-1-1.noarch.rpm"])
def test_a_fifo_blocks_nobody(host: Host, second: Transaction, honest: Transaction, name: str) -> None:
    host.publisher.upload(second)
    host.publisher.stage(second)
    path = host.incoming(second) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    own(host)
    shell = [*host.program, "--config", str(host.config), "--rsh", "local"]
    stage = f"stage stable {second.id} --parent {second.snapshot.parent}"
    with contained(host, honest):
        subprocess.run([*shell, stage], capture_output=True, timeout=20, check=False)
    host.publisher.drop("stable", second.id)


# Files that change after their verification


def test_a_file_that_is_still_open_changes_nothing_after_staging(
    host: Host, second: Transaction, rpms: dict[str, Path]
) -> None:
    host.publisher.upload(second)
    upload, name = host.incoming(second), rpms["1.1"].name
    files = [upload / "Packages" / name, upload / "snapshot/packages.txt", upload / "snapshot/snapshot.json"]
    streams = [path.open("r+b") for path in files]
    host.publisher.stage(second)
    tree = host.tree()
    for stream in streams:
        stream.write(b"overwritten")
        stream.close()
    assert host.tree() == tree
    assert (host.stable / "Packages" / name).read_bytes() == rpms["1.1"].read_bytes()
    (upload / "snapshot/snapshot.json").unlink()
    assert host.publisher.publish(second) == second.snapshot.id
    assert host.publisher.verify("stable")["findings"] == []


def test_a_hard_link_of_an_upload_is_not_published(host: Host, second: Transaction, rpms: dict[str, Path]) -> None:
    host.publisher.upload(second)
    package = host.incoming(second) / "Packages" / rpms["1.1"].name
    (host.folder / "second name").hardlink_to(package)
    host.publisher.publish(second)
    pooled = host.stable / "Packages" / rpms["1.1"].name
    assert pooled.stat().st_nlink == 1
    (host.folder / "second name").write_text("overwritten")
    assert pooled.read_bytes() == rpms["1.1"].read_bytes()


def test_a_sparse_file_of_a_terabyte_fails_its_own_upload(host: Host, second: Transaction, honest: Transaction) -> None:
    host.publisher.upload(second)
    with (host.incoming(second) / "Packages/large-1-1.noarch.rpm").open("wb") as stream:
        stream.truncate(1 << 40)
    own(host)
    refuses(host, second, "the upload is too large")
    later = changed_agent(host, "upload.STALE = -1")
    with contained(later, honest):
        later.publisher.upload(honest)


# Code in rsync

STEPS = {
    "read the log": "cat {state}/../log",
    "read another upload": "ls {state}/incoming",
    "write to the pool": "echo x >>{stable}/Packages/{name}",
    "add to the pool": "echo x >{stable}/Packages/evil-1-1.noarch.rpm",
    "move the head": "echo x >{stable}/mirrorlist",
    "stage": "echo x >{state}/staged/evil-transaction",
    "trust another key": "echo x >>$(echo {state}/../.trust/*)/trusted.gpg",
    "change a lock": "echo x >{state}/lock",
    "change another upload": "mkdir {state}/incoming/another-upload",
    "link": "ln -s /etc evil",
    "link hard": "ln {stable}/Packages/{name} evil",
    "fifo": "mkfifo evil",
    "write elsewhere": "echo x >{folder}/evil",
    "signal the agent": "kill -9 $PPID",
}


def hostile_rsync(host: Host, script: str) -> subprocess.CompletedProcess[str]:
    """Receive an upload by an agent whose rsync is this script of sh."""
    programs = host.folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "rsync").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "rsync").chmod(0o755)
    path = f"{programs}:/usr/bin:/bin"
    lines = [f"upload.ENVIRONMENT['PATH'] = {path!r}", f"confine.SYSTEM = (*confine.SYSTEM, {str(programs)!r})"]
    shell = changed_agent(host, *lines).publisher.rsh
    return subprocess.run(
        [*shell, "local", UPLOAD.format("hostile-0001")], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def _landlock() -> None:
    if not landlock():
        pytest.skip("this kernel has no Landlock")


@pytest.mark.usefixtures("_landlock")
def test_code_in_rsync_reaches_its_own_upload_alone(host: Host, honest: Transaction, rpms: dict[str, Path]) -> None:
    (host.folder / "open").mkdir(mode=0o777)
    (host.folder / "open").chmod(0o777)
    places = {"state": host.state, "stable": host.stable, "folder": host.folder / "open", "name": rpms["1.0"].name}
    host.publisher.status("stable")
    script = "\n".join(
        f"({step.format(**places)}) >/dev/null 2>&1 && echo '{name}' >>reached" for name, step in STEPS.items()
    )
    state = host.state / "incoming/hostile-0001"
    with contained(host, honest):
        done = hostile_rsync(host, f"{script}\necho done >ended")
        assert (state / "ended").read_text() == "done\n", done.stderr
        assert not (state / "reached").exists(), (state / "reached").read_text()
    assert list((host.folder / "open").iterdir()) == []


def test_no_process_of_an_upload_outlives_it(host: Host, honest: Transaction) -> None:
    """Also not in another session, without the lock of the upload."""
    with contained(host, honest):
        done = hostile_rsync(host, "(setsid sleep 4711 9>&- <&- >/dev/null 2>&1 &)\nsleep 0.2\necho x >ended")
        assert (host.state / "incoming/hostile-0001/ended").exists(), done.stderr
        left = subprocess.run(["pgrep", "-f", "^sleep 4711"], capture_output=True, text=True, check=False).stdout
        assert left == ""


@pytest.mark.parametrize("version", [0, 1])
def test_an_older_kernel_confines_less_and_status_shows_it(host: Host, second: Transaction, version: int) -> None:
    old = changed_agent(
        host,
        f"confine.landlock = lambda: {version}",
        "from publisher_agent import report",
        "report.landlock = confine.landlock",
    )
    old.publish(second)
    assert old.publisher.status("stable")["landlock"] == version
    assert host.publisher.status("stable")["landlock"] == landlock()
