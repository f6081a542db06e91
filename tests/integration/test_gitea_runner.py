"""A runner registers with Gitea once, and nothing shows its token.

The program is the stand-in of the molecule scenario, which records its calls.
"""

import hashlib
import json
import stat
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.hosts.gitea_runner import Registration

STAND_IN = Path(__file__).parents[2] / "molecule/release/files/gitea/gitea-runner-4.0.0-linux-amd64"


@pytest.fixture
def registration(tmp_path: Path) -> Registration:
    home = tmp_path / "home"
    home.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(f"runner:\n  file: {home}/.runner\n")
    return Registration(STAND_IN, config, home / ".runner", "https://git.example.org", "forge")


def calls(registration: Registration) -> list[dict[str, object]]:
    path = registration.file.parent / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_runner_registers_once_and_argv_does_not_contain_the_token(registration: Registration) -> None:
    assert not registration.done
    registration.register("stand-in-token")
    assert registration.done
    assert stat.S_IMODE(registration.file.stat().st_mode) == 0o600
    (call,) = calls(registration)
    assert call["argv"] == [
        "register", "--no-interactive", "--config", str(registration.config), "--instance", "https://git.example.org",
        "--name", "forge",
    ]  # fmt: skip
    assert "stand-in-token" not in registration.file.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"address": "https://git.example.org"}', '{"address": 1}'])
def test_half_a_registration_is_none(registration: Registration, text: str) -> None:
    registration.file.write_text(text)
    assert not registration.done


def test_another_gitea_is_another_registration(registration: Registration) -> None:
    found = {"uuid": "u", "token": "t", "address": "https://other.example.org"}
    registration.file.write_text(json.dumps(found))
    assert not registration.done
    registration.file.write_text(json.dumps(found | {"address": "https://git.example.org/"}))
    assert registration.done, "a trailing slash makes no other Gitea"


@pytest.mark.parametrize(
    ("instance", "token", "message"),
    [
        ("https://git.example.org", "", "there is no token to register it"),
        (
            "https://git.example.org",
            "of-yesterday",
            r"did not register the runner: .*registration token \*\*\* not",
        ),
        ("https://down.example.org", "stand-in-token", "Gitea did not answer within 1 s: .*Cannot ping"),
    ],
)
def test_an_error_has_a_remedy_and_no_token(
    registration: Registration, instance: str, token: str, message: str
) -> None:
    wrong = Registration(registration.program, registration.config, registration.file, instance, "forge")
    with pytest.raises(PipelineError, match=message) as caught:
        wrong.register(token, patience=1)
    assert instance in str(caught.value)
    assert not token or token not in str(caught.value)
    assert not registration.file.exists()


def test_the_module_supports_check_mode(registration: Registration, run_module) -> None:
    arguments = {
        "program": "/nonexistent", "config": str(registration.config), "file": str(registration.file),
        "instance": registration.instance, "name": "forge",
    }  # fmt: skip
    assert run_module("gitea_runner_registration", arguments, check=True)["changed"]
    assert "no token" in run_module("gitea_runner_registration", arguments)["msg"]
    arguments |= {"program": str(STAND_IN), "token": "stand-in-token"}
    assert run_module("gitea_runner_registration", arguments)["changed"]
    assert not run_module("gitea_runner_registration", arguments | {"token": ""})["changed"]


def test_the_stand_ins_checksum_matches() -> None:
    listed = STAND_IN.with_name(f"{STAND_IN.name}.sha256").read_text().split()
    assert listed == [hashlib.sha256(STAND_IN.read_bytes()).hexdigest(), STAND_IN.name]
