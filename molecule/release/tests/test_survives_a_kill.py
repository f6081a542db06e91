"""A host dies during provisioning: the playbook reports it, and the same command completes the host once it is back.

Five minutes, so only in the long run of `make faults`. Each case begins with a bare host.
"""

from __future__ import annotations

import os
import re

import pytest
from runs import hosts, playbook

pytestmark = pytest.mark.skipif(os.environ.get("FAULTS") != "long", reason="make faults runs it")


@pytest.mark.parametrize(
    ("name", "host", "task"),
    [
        pytest.param("builders", "forge", "cuda_toolkit : Provide the CUDA toolkit", id="a builder while it gets CUDA"),
        pytest.param(
            "repo_host", "oolon", "tls_certificate : Get the certificate]", id="the repo host before it has TLS"
        ),
    ],
)
def test_the_same_command_completes_a_killed_host(name, host, task):
    hosts("reset", host)
    status, output = playbook(name, "-v", kill=(host, rf"^TASK \[{re.escape(task)}"))
    assert status != 0
    assert re.search(rf"{host} +: .*unreachable=1", output), output

    hosts("boot", host)
    status, output = playbook(name)
    assert status == 0, output
    status, output = playbook(name)
    assert status == 0, output
    assert re.search(rf"{host} +: .*changed=0 ", output), output
