"""The registration of a runner with Gitea.

Rules:

1. A runner is registered once: the file that the runner leaves tells with whom. With another address it registers anew.
2. The token goes to the runner by its environment: argv is everyone's to read. Neither it nor what it is
   exchanged for is in an error.
3. The runner asks a Gitea that does not answer for ever: after a time it is stopped, and the error says so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError

PATIENCE = 60
"""Seconds that a registration may take."""


@dataclass(frozen=True)
class Registration:
    """Who registers where: ``file`` is what the runner leaves, in its own home."""

    program: Path
    config: Path
    file: Path
    instance: str
    name: str

    @property
    def done(self) -> bool:
        """Whether the file tells of a registration with this Gitea."""
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
        """Register, and see that it was done. The file is the account's alone."""
        if not token:
            raise PipelineError(
                "the runner is not registered, and there is no token to register it with",
                self.instance,
                "Take a token from Gitea's page Actions, Runners, and make it the secret gitea_runner_token",
            )
        environment = {
            **{key: os.environ[key] for key in ("PATH", "http_proxy", "https_proxy", "no_proxy") if key in os.environ},
            "HOME": str(self.file.parent),
            "LANG": "C.UTF-8",
            "GITEA_RUNNER_REGISTRATION_TOKEN": token,
        }
        try:
            done = subprocess.run(  # noqa: S603  argv is a list, no shell reads it
                self.argv(), cwd=self.file.parent, env=environment, stdin=subprocess.DEVNULL, umask=0o077,
                capture_output=True, text=True, errors="replace", timeout=patience, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
            raise PipelineError(
                f"Gitea did not answer within {patience:g} s: {last_words(said or '', token)}",
                self.instance,
                "See that gitea_runner_instance is right and that this host reaches it",
            ) from error
        except OSError as error:
            raise PipelineError(f"the runner does not start: {error.strerror}", str(self.program)) from error
        if done.returncode != 0 or not self.done:
            raise PipelineError(
                f"Gitea did not register the runner: {last_words(done.stderr + done.stdout, token)}",
                self.instance,
                "See that the secret gitea_runner_token is the newest of Gitea's page Actions, Runners",
            )


def last_words(said: str, token: str) -> str:
    """The last error that the runner told, without the token."""
    lines = [line for line in said.replace(token, "***").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"level=(error|fatal)|Error", line)]
    return (errors or lines or ["it said nothing"])[-1].strip()[:400]
