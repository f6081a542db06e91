"""The audit, attacked by the binary that it starts and reads, and by files that a build left for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base import sandbox
from pipeline.base.errors import PipelineError
from pipeline.base.records import Artifact, Flavour, Source, sha256_file
from pipeline.package import audit, binary
from pipeline.package.binary import read_binary, run_trial, signal_of

Make = Callable[..., Artifact]
SOURCE = Source("https://example.org/mistral.rs.git", "v0.9.2", "tag", "9" * 40, 1_750_000_000, "0.9.2", "0.9.2")
ARTIFACT = Artifact(
    source=SOURCE, flavour=Flavour("cpu", "any x86-64"), inputs="0" * 64, folder="", binary="mistralrs",
    crate_version="0.9.2", sha256="0" * 64, size=0, rustc="1.95.0", cuda="", rustflags="-C target-cpu=x86-64",
    locked=True, seconds=1.0, compiled=1, fresh=0, log="",
)  # fmt: skip
# Prints what it reached.
HOSTILE = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void reached(const char *what) { printf(" %s", what); }
int main(int count, char **word) {
    char text[4096] = SECRET;
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            close(0); close(1); close(2);
            execl("/bin/sleep", "sleep", MARK, NULL);
        }
        _exit(0);
    }
    printf("mistralrs");
    int file = open(text, O_RDONLY);
    if (file >= 0) reached("secret");
    snprintf(text, sizeof text, "%s/manifest.json", FOLDER);
    if (open(text, O_RDONLY) >= 0) reached("manifest");
    snprintf(text, sizeof text, "%s.swapped", word[0]);
    open(text, O_CREAT | O_WRONLY, 0755);
    if (getenv("TOKEN") || getenv("PYTEST_CURRENT_TEST")) reached("environment");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (!connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&address, sizeof address)) reached("network");
    snprintf(text, sizeof text, "/proc/%d/root", PARENT);
    if (!access(text, F_OK)) reached("process");
    puts(" \033]0;owned\a 0.9.2");
    return 0;
}
"""
MARK = f"61.{os.getpid()}"
LOOP = "int main(void) { for (;;); }\n"
PRINT = '#include <stdio.h>\nint main(void) { for (;;) puts("mistralrs 0.9.2 mistralrs 0.9.2 mistralrs 0.9.2"); }\n'
DEEP = "#include <stdio.h>\nint main(void) { for (int i = 0; i < 200000; i++) putchar(91); return 0; }\n"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def compiled(source: str, *words: str, name: str = "one") -> Artifact:
        folder = tmp_path / "builder/artifacts/cpu" / name
        folder.mkdir(parents=True)
        (folder / "main.c").write_text(source)
        subprocess.run(["gcc", *words, "-o", folder / "mistralrs", folder / "main.c"], check=True, capture_output=True)
        found = replace(ARTIFACT, folder=str(folder), sha256=sha256_file(folder / "mistralrs"), size=1)
        found.write(folder / "manifest.json")
        return found

    return compiled


def alive(mark: str) -> int:
    found = subprocess.run(["pgrep", "-fc", f"^sleep {mark}$"], capture_output=True, text=True, check=False)
    return int(found.stdout)


@pytest.mark.parametrize("protected", [True, False], ids=["sandbox", "no sandbox"])
def test_a_hostile_binary_reaches_nothing_and_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Without a sandbox the same binary reaches what no environment and no home hide."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    monkeypatch.setenv("TOKEN", "password")
    with socket.create_server(("127.0.0.1", 0)) as server:
        defines = {"MARK": f'"{MARK}"', "SECRET": f'"{secret}"', "FOLDER": f'"{tmp_path}/builder/artifacts/cpu/one"'}
        numbers = {"PORT": server.getsockname()[1], "PARENT": os.getpid()}
        artifact = make(HOSTILE, *(f"-D{name}={value}" for name, value in (defines | numbers).items()))
        trial = run_trial(Path(artifact.folder, "mistralrs"), (), "", protected=protected)
    if protected:
        assert trial.version == "mistralrs ]0;owned 0.9.2", "nor does its text reach a terminal as a command"
        assert alive(MARK) == 0
    else:
        assert trial.version.split()[1:-2] == ["secret", "manifest", "network", "process"]
        assert alive(MARK) >= 1
        subprocess.run(["pkill", "-f", f"^sleep {MARK}$"], check=True)
    assert Path(artifact.folder, "mistralrs.swapped").exists() != protected
    assert sha256_file(Path(artifact.folder, "mistralrs")) == artifact.sha256


@pytest.mark.parametrize(
    ("source", "reason"),
    [(LOOP, "mistralrs did not end within 0.5 s"), (PRINT, "mistralrs printed more than 64 MiB"), (DEEP, "")],
    ids=["loops", "prints", "nests"],
)
def test_a_binary_without_an_end_ends(make: Make, monkeypatch: pytest.MonkeyPatch, source: str, reason: str) -> None:
    monkeypatch.setattr(binary, "_SECONDS", 0.5 if source == LOOP else 30)
    began = time.monotonic()
    trial = run_trial(Path(make(source).folder, "mistralrs"), (), "")
    assert time.monotonic() - began < 20
    assert trial.build == {}
    assert len(trial.version) <= 520
    assert trial.version.startswith(f"does not start: {reason}" if reason else "[[[")


def test_the_emulated_run_is_in_the_sandbox_too(make: Make) -> None:
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu-user is not installed")
    seen = make("#include <signal.h>\nint main(void) { return !kill(PARENT, 0); }", f"-DPARENT={os.getpid()}")
    assert run_trial(Path(seen.folder, "mistralrs"), (), "x86-64").fault == ""
    fault = make('int main(void) { __asm__("ud2"); }', name="two")
    found = run_trial(Path(fault.folder, "mistralrs"), (), "x86-64").fault
    assert found == "--version ends with an illegal instruction"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "empty"])
def test_a_binary_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path, secret = tmp_path / "mistralrs", tmp_path / "secret"
    secret.write_text("password")
    {
        "link": lambda: path.symlink_to(secret), "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir, "empty": path.touch,
    }[kind]()  # fmt: skip
    with pytest.raises(PipelineError) as caught:
        read_binary(path)
    assert str(caught.value.where) == str(path)
    assert "build again" in caught.value.remedy
    assert "password" not in str(caught.value)


def test_a_binary_of_names_is_read_with_limits(make: Make) -> None:
    """Millions of GPU architectures, and one of a gigabyte."""
    artifact = make("int main(void) { return 0; }")
    path = Path(artifact.folder, "mistralrs")
    with path.open("ab") as stream:
        stream.writelines(b"\n.target sm_%d" % number for number in range(10_000))
        stream.write(b"\n.target sm_" + b"a" * 1_000_000)
    found = read_binary(path)
    assert len(found.ptx) == 100
    assert max(map(len, found.ptx)) < 30


def test_files_of_build_scripts_are_read_in_a_sandbox(tmp_path: Path) -> None:
    """Neither a link to another file nor a fifo nor a hostile name reaches the audit."""
    build, secret = tmp_path / "target/release/build", tmp_path / "secret"
    secret.mkdir()
    (secret / "output").write_text("-march=native")
    for name in ("plain-1", "quiet-2", "fifo-3", "link-4", "bad\033[2J\n-5"):
        (build / name).mkdir(parents=True)
    (build / "plain-1/output").write_text("cc -march=native")
    (build / "quiet-2/output").write_text("cc -march=nativeish")
    os.mkfifo(build / "fifo-3/output")
    (build / "link-4/output").symlink_to(secret / "output")
    (build / "folder-6").symlink_to(secret)
    (build / "bad\033[2J\n-5/stderr").write_text("-mcpu=native")
    assert audit.native_scripts([tmp_path / "target"]) == ["bad [2J -5", "plain-1"]


def test_without_a_sandbox_no_part_of_the_audit_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a host may not be able to."""
    (tmp_path / "target/release/build/plain-1").mkdir(parents=True)
    (tmp_path / "target/release/build/plain-1/output").write_text("cc -march=native")
    monkeypatch.setattr(sandbox, "_system", lambda: pytest.fail("a sandbox"))
    assert audit.native_scripts([tmp_path / "target"], protected=False) == ["plain-1"]


def test_a_status_of_a_signal() -> None:
    assert (signal_of(-4), signal_of(132), signal_of(139)) == ("SIGILL", "SIGILL", "SIGSEGV")
    assert [signal_of(status) for status in (1, 101, 127, 128, 255)] == [""] * 5
