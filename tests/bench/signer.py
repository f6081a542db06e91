"""A signer's program for the benchmark, which imports what the module imports and no more.

python signer.py compose|add|hold ORDER.json
"""

import json
import sys
import time
from pathlib import Path

from pipeline.base.records import Package
from pipeline.channel.agent_client import Publisher
from pipeline.channel.changes import added
from pipeline.channel.engine import Engine, Signer, compose, workplace
from pipeline.channel.reader import Channel

order = json.loads(Path(sys.argv[2]).read_text())
key, root = Path(order["trusted_keys"]), Path(order["root"])
engine = Engine(
    "stable",
    Channel(order["location"], key),
    Publisher(order["rsh"], "local"),
    Signer(Path(order["home"]), None, key),
    root,
)
packages = [Package.from_dict(order["package"])]
if sys.argv[1] == "compose":
    # The process of the engine without the repo host: head, parent, change, metadata, signatures.
    parent = engine.channel.state(engine.channel.head())
    change = added(parent, packages)
    with workplace(root / "compose") as work:
        compose(work, "stable", engine.channel, parent, change, engine.signer, "bench", int(time.time()))
else:
    done = engine.add(packages, reason="bench", hold=sys.argv[1] == "hold")
    assert done.changed
    if done.transaction:
        print(f"{done.transaction.id} {done.transaction.snapshot.parent}", file=sys.stderr)
