"""What the integration tests have for a signer and a repo host serves here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "integration"))
