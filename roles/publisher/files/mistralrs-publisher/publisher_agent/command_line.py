"""The command line: reads the configuration, serves one command, and logs it.

Every command becomes one line of ``<root>/.publisher/log``, also a refused or an interrupted one. A refusal goes
to stderr and syslog. The answer goes to stdout, one line of JSON; rsync has stdout to itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import syslog
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .command import parse
from .disk import ENVIRONMENT, PROGRAMS, locked
from .host import Config, caller_address
from .prune import prune
from .publish import drop, stage_or_publish
from .refusal import Refused, refusal
from .report import status, verify
from .staged import interrupted, recover
from .upload import free_files, receive, room, slot

MAX_LOG = 1 << 20  # bytes until the log is rotated


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="mistralrs-publisher", description="The publisher agent of a repo host.")
    parser.add_argument("--config", type=Path, required=True, help="the configuration, a JSON file")
    parser.add_argument("--only", action="append", default=[], metavar="CHANNEL", help="serve no other channel")
    parser.add_argument("--as", dest="caller", default="", metavar="NAME", help="the caller's name, for the log")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--ssh", action="store_true", help="serve the command in SSH_ORIGINAL_COMMAND")
    way.add_argument("--rsh", nargs=argparse.REMAINDER, metavar="HOST WORD", help="serve these words, in place of ssh")
    way.add_argument("--check", action="store_true", help="only check the configuration and the required programs")
    options = parser.parse_args(argv)
    os.umask(0o022)
    syslog.openlog("mistralrs-publisher", syslog.LOG_PID, syslog.LOG_DAEMON)
    try:
        config = Config.read(options.config)._replace(caller=options.caller, remote=options.ssh)
        if options.check:
            if absent := [name for name in PROGRAMS if not shutil.which(name, path=ENVIRONMENT["PATH"])]:
                raise Refused(f"programs are not installed: {', '.join(absent)}", ENVIRONMENT["PATH"], "Install them")
            return 0
        text = os.environ.get("SSH_ORIGINAL_COMMAND", "") if options.ssh else " ".join(options.rsh[1:])
        return serve_and_log(config, text, options.only)
    except Refused as refused:
        syslog.syslog(syslog.LOG_WARNING, refused.line())
        print(refused.line(), file=sys.stderr)
        return refused.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def serve_and_log(config: Config, text: str, only: Iterable[str]) -> int:
    """Serve a command and log its outcome; the exit status."""
    status_, outcome = 1, "it was interrupted"
    try:
        status_ = serve(config, text, only)
        outcome = f"rsync ended with status {status_}" if status_ else ""
    except Exception as error:
        refused = refusal(error)
        status_, outcome = refused.status, refused.what
        raise refused from error
    finally:
        log(config, text, status_, outcome)
    return status_


def serve(config: Config, text: str, only: Iterable[str]) -> int:
    """Run one command and print its answer; the exit status."""
    command = parse(text)
    channel = config.channel(command.channel, only)
    channel.check_folders()
    if command.verb not in ("drop", "prune") and interrupted(channel):  # these two take the lock at once
        channel.make_state()
        with locked(channel.state / "lock") as idle:
            if idle:  # else a command is running, and the incomplete transaction is its own
                recover(channel)
    answer: dict[str, Any]
    match command.verb:
        case "rsync":
            return receive(channel, command)
        case "stage" | "publish":
            answer = {"snapshot": stage_or_publish(channel, command)}
        case "drop":
            answer = {"snapshot": drop(channel, command)}
        case "prune":
            answer = prune(channel, dry_run=command.dry_run)
        case "verify":
            with slot(channel):
                answer = verify(channel)
        case "status":
            answer = status(channel)
        case _:
            answer = {
                "snapshot": channel.head(),
                "path": channel.row.path,
                "room": room(channel),
                "files": free_files(channel.config),
                "time": time.time(),
            }
    print(json.dumps(answer))
    return 0


def log(config: Config, text: str, status: int, error: str) -> None:
    """Append a line to the log; a log that cannot be written stops no command."""
    folder = config.root / ".publisher"
    line = {"time": int(time.time()), "who": config.caller, "from": caller_address(), "command": text[:500]}
    line |= {"status": status, "error": error[:500]}
    with contextlib.suppress(OSError):
        folder.mkdir(0o700, exist_ok=True)
        with locked(folder, 1):
            path = folder / "log"
            if path.exists() and path.stat().st_size > MAX_LOG:
                path.replace(folder / "log.1")
            with path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
