# ruff: noqa: PTH115, PTH208
"""What a hostile build script tries. Writes the names of the attempts that succeeded to a file, as JSON.

The first argument is a JSON file of the facts that an attacker may know: paths of the builder, the operator and the
signer, a process, a port and sockets of the host. An attempt that succeeds leaves nothing outside of the test's own
folder; ``only``, where it is not empty, names the attempts that run.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FACTS = json.loads(Path(sys.argv[1]).read_text())
ROOT, SECRET = Path(FACTS["root"]), Path(FACTS["secret"])
# cargo waits for the end of a build script's output.
SILENT = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
ATTEMPTS: dict[str, Callable[[], object]] = {}


def attempt(name: str, function: Callable[[], object]) -> None:
    """It succeeds unless it raises OSError or returns a false value."""
    ATTEMPTS[name] = function


def writes(path: Path) -> Callable[[], object]:
    """Whether a file can be created at a path, its folders too, or opened for writing where it exists."""

    def work() -> bool:
        there = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o755))
        if not there:
            path.unlink()
        return True

    return work


# To stay: whatever runs or decides later.
for name in (
    "src/.git/hooks/post-checkout", "src/.git/config", "src/.git/HEAD", "src/.git/info/attributes", "src/Cargo.toml",
    "src/.cargo/config.toml", ".cargo/config.toml", "cargo/config.toml", "cargo/env", "cargo/registry/src/x/lib.rs",
    "cargo/git/db/x", "cargo/bin/cargo", "toolchain/nvcc-1/bin/nvcc", "toolchain/rust-1/bin/rustc",
    "cudaforge/../toolchain/x", "artifacts/cpu/x/manifest.json", "packages/x.rpm", "log/x.log", "lock", "generation",
    "home/.netrc", "home/.gitconfig", "try/target/x", "cache/sccache.env", "cache/trials.json", "reproduce/.reproduce",
):  # fmt: skip
    attempt(f"write {name}", writes(ROOT / name))
for name in (".bashrc", ".profile", ".config/systemd/user/x.service", ".ssh/authorized_keys", ".cargo/bin/cargo"):
    attempt(f"write the operator's {name}", writes(Path(FACTS["home"], name)))
for path in (
    FACTS["rustc"], "/etc/cron.d/x", "/etc/profile.d/x.sh", "/etc/systemd/system/x.service", "/var/spool/cron/x",
    "/var/spool/at/x", "/usr/local/bin/gcc", "/usr/bin/gcc", "/etc/ld.so.preload", "/etc/gitconfig", "/run/x",
):  # fmt: skip
    attempt(f"write {path}", writes(Path(path)))

# To read: whatever is not its own.
for path in (
    SECRET, ROOT / "cache/sccache.env", ROOT / "home/.netrc", Path("/proc", FACTS["process"], "environ"),
    Path("/proc", FACTS["process"], "root", str(SECRET)[1:]), Path("/proc/1/root", str(SECRET)[1:]),
    Path("/etc/shadow"), Path("/dev/mem"), Path("/dev/kmsg"), Path(FACTS["disk"]),
):  # fmt: skip
    attempt(f"read {path}", lambda path=path: path.open("rb").read(1))
attempt("list artifacts", lambda: os.listdir(ROOT / "artifacts"))
attempt("read the caller's environment", lambda: any("password" in value for value in os.environ.values()))
attempt(
    "read a process of the host",
    lambda: any(
        b"password" in Path("/proc", name, "environ").read_bytes() for name in os.listdir("/proc") if name.isdecimal()
    ),
)


def leaked_descriptor() -> bool:
    """Whether a process in sight holds a file that this one cannot see."""
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            name = os.readlink(path)
            if name.startswith(str(ROOT)) and not Path(name.removesuffix(" (deleted)")).parent.exists():
                return True
    return False


attempt("find a leaked descriptor", leaked_descriptor)


# To get out.
def connects(family: int, address: object) -> Callable[[], object]:
    def work() -> bool:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(address)
        return True

    return work


attempt("reach a server on loopback", connects(socket.AF_INET, ("127.0.0.1", FACTS["port"])))
attempt("reach the network", connects(socket.AF_INET, ("192.0.2.1", 80)))
attempt("reach a socket of the host", connects(socket.AF_UNIX, FACTS["socket"]))
attempt("reach an abstract socket of the host", connects(socket.AF_UNIX, "\0" + FACTS["abstract"]))
OWN = Path(FACTS["result"]).with_name("own")
OWN.mkdir(parents=True, exist_ok=True)
for words in (
    ["unshare", "--user", "--map-root-user", "true"], ["mount", "-t", "tmpfs", "tmpfs", str(OWN)],
    ["chroot", "/proc/1/root", "true"], ["nsenter", "--target", "1", "--mount", "true"],
    ["mount", "-o", "remount,rw,bind", str(ROOT / "src")], ["mount", "--bind", str(OWN), str(ROOT / "src")],
):  # fmt: skip
    attempt(" ".join(words), lambda words=words: not subprocess.run(words, capture_output=True, check=False).returncode)
attempt("signal a process of the host", lambda: not os.kill(int(FACTS["process"]), 0))

# To be heard later, whatever becomes of the build.
if FACTS["left"]:
    for words in (
        ["setsid", "--fork", "sleep", FACTS["left"]],
        ["sh", "-c", f"trap '' HUP INT TERM; sleep {FACTS['left']} & wait"],
    ):
        subprocess.Popen(words, start_new_session=True, **SILENT)

succeeded = []
for title, function in ATTEMPTS.items():
    with contextlib.suppress(OSError):
        if (not FACTS["only"] or title in FACTS["only"]) and function():
            succeeded.append(title)
place = Path(FACTS["result"])
place.parent.mkdir(parents=True, exist_ok=True)
place.write_text(json.dumps({"attempts": len(ATTEMPTS), "succeeded": succeeded}))

if FACTS["poison"]:
    # The state of other builds: machine code, fingerprints, build scripts' output, the cache's entries.
    for folder in ("target/release", "cache/sccache"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and os.access(path, os.W_OK) and "mcp" not in path.name:
                with contextlib.suppress(OSError):
                    path.write_bytes(b"poison" + path.read_bytes()[6:])

if FACTS["swap"]:
    # The driver of the build is stopped between the copy of the binary and its end.
    code = f"""
import os, signal, time
from pathlib import Path
binary = Path({FACTS["swap"]!r})
while not binary.exists():
    time.sleep(0.0005)
driver = next(p.name for p in Path("/proc").glob("[0-9]*") if b"pipeline.build.inside" in (p / "cmdline").read_bytes())
os.kill(int(driver), signal.SIGSTOP)
binary.unlink()
binary.symlink_to({str(SECRET)!r})
os.kill(int(driver), signal.SIGCONT)
time.sleep(60)
"""
    subprocess.Popen(["/usr/bin/python3", "-c", code], start_new_session=True, **SILENT)
    time.sleep(0.1)

if FACTS["forge"]:
    # cargo's messages: the program that writes them is in sight.
    line = json.dumps({
        "reason": "compiler-artifact", "executable": FACTS["forge"], "fresh": False, "filenames": [],
        "package_id": "x", "target": {"name": "mistralrs", "kind": ["bin"]},
    })  # fmt: skip
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if b"--message-format" in path.parents[1].joinpath("cmdline").read_bytes():
                # Behind all that cargo will write.
                with path.open("r+b") as stream:
                    stream.seek(1 << 20)
                    stream.write(f"\n{line}\n".encode())
