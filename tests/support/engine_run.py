"""Publishes packages with the channel engine, as a program (see ``site_copies.publish_argv``).

Fault tests run many of them in parallel, or kill one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.base.errors import PipelineError
from pipeline.base.records import Package
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine
from pipeline.channel.heads import Memory
from pipeline.channel.reader import Repository
from pipeline.sign.signer import Signer


def main() -> None:
    known = json.loads(Path(sys.argv[1]).read_text())
    key = Path(known["trusted_keys"])
    signer = Signer(Path(known["root"]), Path(known["home"]), None, key)
    engine = Engine(
        "stable",
        repository=Repository(known["location"], key, Memory.of(signer, "stable", known["location"])),
        agent=AgentClient(known["rsh"], known["host"]),
        signer=signer,
    )
    try:
        outcome = engine.publish([Package.from_dict(row) for row in known["packages"]], reason="a trial")
    except PipelineError as error:
        sys.exit(f"error: {error}")
    print(outcome.head)


if __name__ == "__main__":
    main()
