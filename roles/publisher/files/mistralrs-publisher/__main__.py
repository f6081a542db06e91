"""Runs the agent from this folder: ``python3 -I <folder> --config FILE --rsh local head stable``.

On a repo host the launcher does the same for an installed version (LAUNCHER in
module_utils/pipeline/hosts/python_program.py).
Isolated mode keeps the caller's environment and current directory out of the import path; Python puts the
folder itself there.
"""

import sys

from publisher_agent.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
