"""Shows a build's progress while its module runs, and ends the build with this run.

The module writes its log on the builder. A thread here reads the new part of it every other second, prints the progress
lines, and touches the lease file: the module stops cargo when the touches stop. Ctrl-c on the controller ends this
process and a module on the same machine; a module on another machine ends by the lease.
"""

from __future__ import annotations

import base64
import codecs
import shlex
import threading
import time
from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

LEASE = 60
"""Seconds without a touch after which the module stops."""

PERIOD = 2.0
"""Seconds between two reads of the log."""

MARK = "--log--"

display = Display()


class ActionModule(ActionBase):
    """Runs the module of the same name beside a thread that watches its log."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        flavour, source = arguments.get("flavour") or {}, arguments.get("source") or {}
        name = f"{flavour.get('name', 'build')}-{source.get('rpm_version', '')}"
        log = f"{arguments.get('root', '')}/log/{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.log"
        arguments |= {"log": arguments.get("log") or log, "lease": LEASE}
        arguments["alive"] = f"{arguments['log']}.alive"
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(arguments, f"[{flavour.get('name')}] ", done), daemon=True)
        if not self._task.check_mode:
            watcher.start()
        try:
            result.update(self._execute_module("cargo_build", module_args=arguments, task_vars=task_vars))
        finally:
            done.set()
            if watcher.is_alive():
                watcher.join(timeout=10)
        return result

    def _watch(self, arguments: dict[str, Any], prefix: str, done: threading.Event) -> None:
        """Print new lines of the log that begin with ``prefix``, and renew the lease, until ``done``."""
        log, alive = (shlex.quote(arguments[key]) for key in ("log", "alive"))
        offset, rest = 1, ""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            last = done.wait(PERIOD)
            # The log exists once the module has started; the lease begins with the first touch.
            # In base64: with sudo the command has a terminal, which makes two bytes of the end of a line. Below a mark:
            # an account's shell may print words of its own first.
            script = f"test -e {log} && touch {alive} && echo {MARK} && tail -c +{offset} {log} | base64; true"
            try:
                answer = self._low_level_execute_command(script, executable="/bin/sh")
                data = base64.b64decode(answer.get("stdout", "").partition(MARK)[2])
            except Exception as error:  # noqa: BLE001  a failed read never ends a build
                display.vv(f"{prefix}cannot read the log: {error}")
                if last:
                    return
                time.sleep(PERIOD)
                continue
            offset += len(data)
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            for line in lines:
                if line.startswith(prefix):
                    display.display(line)
            if last:
                self._low_level_execute_command(f"rm -f {alive}", executable="/bin/sh")
                return
