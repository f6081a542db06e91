"""Run a command and print its cost as JSON: seconds, and the peak memory (MiB) of its largest process.

    python -S measured.py COMMAND...

A process inherits the peak memory of its parent. This program is small, so the figure is the command's own.
"""

import json
import os
import sys
import time

began = time.monotonic()
child = os.posix_spawnp(
    sys.argv[1],
    sys.argv[1:],
    os.environ,
    file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],  # stdout is for the result
)
_, status, usage = os.wait4(child, 0)
print(json.dumps({"seconds": time.monotonic() - began, "mib": usage.ru_maxrss / 1024}))
sys.exit(os.waitstatus_to_exitcode(status))
