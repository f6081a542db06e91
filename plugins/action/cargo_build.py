"""Shows a build's progress while its module runs, and keeps it alive only as long as this run is.

The module writes its log on the builder. A thread here reads what was added, every other second, prints the
progress lines, and touches the file whose silence makes the module stop cargo (its lease). Ctrl-c on the
controller ends this process and, on the same machine, the module with it; on another machine the lease does.
"""

from __future__ import annotations

import shlex
import threading
import time
from datetime import UTC, datetime

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

LEASE = 60
# Seconds between two looks at the log.
PERIOD = 2.0
display = Display()


class ActionModule(ActionBase):
    """Runs the module of the same name with a watcher beside it."""

    def run(self, tmp=None, task_vars=None):
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

    def _watch(self, arguments, prefix, done):
        log, alive = (shlex.quote(arguments[key]) for key in ("log", "alive"))
        offset, rest = 1, ""
        while True:
            last = done.wait(PERIOD)
            # Nothing to do before the module has made the folder; the lease starts with the file's first touch.
            script = f"test -e {log} && touch {alive} && tail -c +{offset} {log}; true"
            try:
                answer = self._low_level_execute_command(script, executable="/bin/sh")
            except Exception as error:  # noqa: BLE001  watching must never end a build
                display.vv(f"{prefix}the log could not be read: {error}")
                if last:
                    return
                time.sleep(PERIOD)
                continue
            text = answer.get("stdout", "")
            offset += len(text.encode())
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                if line.startswith(prefix):
                    display.display(line)
            if last:
                self._low_level_execute_command(f"rm -f {alive}", executable="/bin/sh")
                return
