"""The registration of a runner with Gitea.

Rules:

1. A runner registers once: its file records the address of its Gitea. With another address it registers again.
2. The runner gets the token by its environment, since every user can read argv. No error contains the token or the
   secret that Gitea returns for it.
3. If Gitea does not answer, the runner retries forever: after a time limit it is stopped, and that is an error.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..base.environment import environment
from ..base.errors import PipelineError
from ..base.text import last_words

PATIENCE = 60
"""Seconds for a registration."""


@dataclass(frozen=True)
class Registration:
    """A runner and its Gitea. The runner writes ``file`` in its home when it is registered."""

    program: Path
    config: Path
    file: Path
    instance: str
    name: str

    @property
    def done(self) -> bool:
        """Whether ``file`` records a registration with this Gitea."""
        try:
            found = json.loads(self.file.read_text())
            address = found["address"].rstrip("/")
            whole = bool(found["uuid"] and found["token"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return whole and address == self.instance.rstrip("/")

    def argv(self) -> list[str]:
        return [
            *(str(self.program), "register", "--no-interactive", "--config", str(self.config)),
            *("--instance", self.instance, "--name", self.name),
        ]

    def register(self, token: str, patience: float = PATIENCE) -> None:
        """Register, and check that ``file`` records it. Only the account can read the file."""
        if not token:
            raise PipelineError(
                "the runner is not registered, and there is no token to register it",
                self.instance,
                "Copy a token from Gitea's page Actions, Runners, into the secret gitea_runner_token",
            )
        variables = {"HOME": str(self.file.parent), "GITEA_RUNNER_REGISTRATION_TOKEN": token}
        try:
            done = subprocess.run(  # noqa: S603  argv is a list, no shell reads it
                self.argv(), cwd=self.file.parent, env=environment(variables), stdin=subprocess.DEVNULL, umask=0o077,
                capture_output=True, text=True, errors="replace", timeout=patience, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            stderr = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
            raise PipelineError(
                f"Gitea did not answer within {patience:g} s: {_last_error(stderr or '', token)}",
                self.instance,
                "Check gitea_runner_instance, and that this host can reach it",
            ) from error
        except OSError as error:
            raise PipelineError(f"the runner does not start: {error.strerror}", str(self.program)) from error
        if done.returncode != 0 or not self.done:
            raise PipelineError(
                f"Gitea did not register the runner: {_last_error(done.stderr + done.stdout, token)}",
                self.instance,
                "Check that the secret gitea_runner_token is the newest of Gitea's page Actions, Runners",
            )


def _last_error(output: str, token: str) -> str:
    """The last line of the runner's output that reports an error, else its last line; without the token."""
    lines = output.replace(token, "***").splitlines()
    errors = [line for line in lines if re.search(r"level=(error|fatal)|Error", line)]
    return last_words("\n".join(errors or lines), 1)[:400]
