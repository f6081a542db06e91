"""The documents say what the tables and the code say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (PROJECT / "library").glob("*.py"))
ROLES = sorted(path.name for path in (PROJECT / "roles").iterdir() if path.name != "_common")
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def ansible_doc(*words: str) -> str:
    program = Path(sys.executable).with_name("ansible-doc")
    plain = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run([program, *words], cwd=PROJECT, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ansible_doc_knows_each_module():
    text = ansible_doc("-t", "module", *MODULES)
    for module in MODULES:
        assert re.search(rf"MODULE {module}\b", text), module
    assert "ERROR" not in text


@pytest.mark.parametrize("role", ROLES)
def test_ansible_doc_knows_each_role_and_it_has_a_readme(role):
    assert f"ROLE: *{role}*" in ansible_doc("-t", "role", "-r", "roles", role)
    assert (PROJECT / "roles" / role / "README.md").is_file()


@pytest.mark.parametrize("role", ROLES)
def test_each_default_of_a_role_is_in_its_argument_specs(role):
    defaults = yaml.safe_load((PROJECT / f"roles/{role}/defaults/main.yml").read_text())
    specs = yaml.safe_load((PROJECT / f"roles/{role}/meta/argument_specs.yml").read_text())
    assert set(defaults) <= set(specs["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("name", ["ampere", "ada", "blackwell"])
@pytest.mark.parametrize("document", ["README.md", "docs/user.md"])
def test_the_flavours_of_the_documents_are_those_of_the_table(document, name, flavours):
    row = flavours[name]
    lines = [line for line in (PROJECT / document).read_text().splitlines() if f"mistralrs-{name}`" in line]
    assert any(
        all(str(row[key]) in line for key in ("summary", "compute_capability", "driver", "cuda")) for line in lines
    ), lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_each_make_target_that_the_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, (document.name, named - targets)
