"""When the repo host's certificate is due: the program in the ExecCondition of its service."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PROGRAM = Path(__file__).resolve().parents[2] / "roles/tls_certificate/files/mistralrs-certificate-due"
NAME, DIRECTORY = "rpm.lair.test", "https://acme.test:14000/dir"
DAY = timedelta(days=1)


def certificate(left: timedelta, lifetime: timedelta, *names: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now + left - lifetime).not_valid_after(now + left)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def lineage(tmp_path: Path):
    """A function that creates certbot's folder with a certificate that has ``left`` of its ``lifetime``."""

    def lay(left: timedelta, lifetime: timedelta, *names: str, server: str = DIRECTORY) -> Path:
        for folder in (f"live/{NAME}", "renewal"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"live/{NAME}/fullchain.pem").write_bytes(certificate(left, lifetime, *(names or (NAME,))))
        (tmp_path / f"renewal/{NAME}.conf").write_text(f"[renewalparams]\naccount = b2\nserver = {server}\n")
        return tmp_path

    return lay


def ask(folder: Path, *words: str, names: str = NAME, directory: str = DIRECTORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, "--folder", folder, "--names", names, "--directory", directory, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_host_without_a_certificate_needs_one(tmp_path):
    done = ask(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{NAME} is due: there is none\n")


@pytest.mark.parametrize(
    ("left", "lifetime", "due"),
    [
        (29 * DAY, 90 * DAY, True),
        (31 * DAY, 90 * DAY, False),
        (14 * DAY, 45 * DAY, True),
        (16 * DAY, 45 * DAY, False),
        (1.9 * DAY, 6 * DAY, True),
        (2.1 * DAY, 6 * DAY, False),
        (-1 * DAY, 90 * DAY, True),
    ],
)
def test_the_limit_is_a_third_of_the_own_lifetime(lineage, left, lifetime, due):
    done = ask(lineage(left, lifetime))
    assert done.returncode == (0 if due else 1), done.stdout
    assert ("is due:" in done.stdout) == due


def test_the_operator_sets_the_fraction(lineage):
    folder = lineage(40 * DAY, 90 * DAY)
    assert ask(folder, "--fraction", "1/3").returncode == 1
    assert ask(folder, "--fraction", "0.5").returncode == 0
    assert "40 days of 90 days are left, and it is renewed below 45 days" in ask(folder, "--fraction", "1/2").stdout
    assert ask(folder, "--fraction", "0.99999999").returncode == 0


def test_other_names_need_another_certificate(lineage):
    folder = lineage(80 * DAY, 90 * DAY, NAME, "*.lair.test")
    assert ask(folder, names=f"{NAME},*.LAIR.test").returncode == 1
    done = ask(folder)
    assert done.returncode == 0
    assert f"it is for *.lair.test, {NAME}, and {NAME} is wanted" in done.stdout


def test_another_directory_needs_another_certificate(lineage):
    done = ask(lineage(80 * DAY, 90 * DAY, server="https://staging.test/dir"))
    assert done.returncode == 0
    assert f"it is from https://staging.test/dir, and {DIRECTORY} is wanted" in done.stdout


@pytest.mark.parametrize("fraction", ["2", "0", "-1/3", "1/0", "a third"])
def test_an_invalid_fraction_fails_the_service_instead_of_passing_for_not_due(lineage, fraction):
    done = ask(lineage(80 * DAY, 90 * DAY), f"--fraction={fraction}")
    assert done.returncode == 255
    assert f"{fraction} is no fraction between 0 and 1" in done.stderr


def test_an_unreadable_certificate_fails_the_service_instead_of_passing_for_not_due(lineage):
    folder = lineage(80 * DAY, 90 * DAY)
    (folder / f"live/{NAME}/fullchain.pem").write_text("nonsense")
    done = ask(folder)
    assert done.returncode == 255
    assert "cannot decide whether the certificate is due: ValueError" in done.stderr
    assert ask(folder, names=" , ").returncode == 255


def test_json_has_the_account_too(lineage):
    folder = lineage(80 * DAY, 90 * DAY)
    assert json.loads(ask(folder, "--json").stdout)["account"] == ""
    for account in ("a1", "b2"):
        registration = folder / f"accounts/acme.test:14000/dir/{account}/regr.json"
        registration.parent.mkdir(parents=True)
        registration.write_text(json.dumps({"body": {}, "uri": f"https://acme.test/account/{account}"}))
    answer = json.loads(ask(folder, "--json").stdout)
    assert answer == {
        "due": "",
        "message": f"{NAME} is not due: 80 days of 90 days are left",
        "account": "https://acme.test/account/b2",
    }
    assert json.loads(ask(folder, "--json", directory="https://other.test/dir").stdout)["account"] == ""
    assert ask(folder, "--json", "--fraction=7").returncode == 2


def test_only_files_of_a_killed_first_issue_are_removed(lineage):
    folder = lineage(80 * DAY, 90 * DAY)
    archive, other = folder / f"archive/{NAME}", folder / "live/other.test"
    archive.mkdir(parents=True)
    other.mkdir()
    assert ask(folder, "--clear").stdout == f"{NAME}: nothing is unfinished\n"
    assert (folder / f"live/{NAME}/fullchain.pem").exists()
    (folder / f"renewal/{NAME}.conf").write_text("")
    assert ask(folder).returncode == 0
    assert ask(folder, "--clear").stdout == f"{NAME}: removed an unfinished certificate\n"
    assert not (folder / f"live/{NAME}").exists()
    assert not archive.exists()
    assert not (folder / f"renewal/{NAME}.conf").exists()
    assert other.exists()
    assert ask(folder, "--clear").returncode == 0
