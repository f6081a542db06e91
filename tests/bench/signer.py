"""A signer as a program for the benchmark; it imports as much as the module does.

python signer.py compose|publish|stage ORDER.json
"""

import json
import sys
import time
from pathlib import Path

from pipeline.base.records import Package
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.changes import added
from pipeline.channel.engine import Engine, compose, workplace
from pipeline.channel.reader import Repository
from pipeline.sign.signer import Signer

order = json.loads(Path(sys.argv[2]).read_text())
key, root = Path(order["trusted_keys"]), Path(order["root"])
engine = Engine(
    "stable",
    Repository(order["location"], key),
    AgentClient(order["rsh"], "local"),
    Signer(root, Path(order["home"]), None, key),
)
packages = [Package.from_dict(order["package"])]
if sys.argv[1] == "compose":
    # The engine's work without the agent: head, parent, change, metadata, signatures.
    parent = engine.repository.state(engine.repository.head())
    change = added(parent, packages)
    with workplace(root / "compose") as work:
        compose(work, "stable", engine.repository, parent, change, engine.signer, "bench", int(time.time()))
else:
    operation = engine.stage if sys.argv[1] == "stage" else engine.publish
    done = operation(packages, reason="bench")
    assert done.changed
    if done.transaction:
        print(f"{done.transaction.id} {done.transaction.snapshot.parent}", file=sys.stderr)
