"""The documents agree with the tables and the code."""

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
DOCUMENTS = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
GROUP_VARS = PROJECT / "inventory/group_vars"
VARIABLES = sorted(GROUP_VARS.rglob("*.yml"))


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


def test_ansible_doc_knows_each_role_and_it_has_a_readme():
    text = ansible_doc("-t", "role", "-r", "roles", *ROLES)
    for role in ROLES:
        assert f"ROLE: *{role}*" in text, role
        assert (PROJECT / "roles" / role / "README.md").is_file(), role


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
def test_links_lead_to_a_file_and_a_heading(document):
    for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", document.read_text()):
        file = document.parent / target if target else document
        assert file.exists(), target
        if heading:
            assert heading in anchors(file), (target, heading)


def anchors(document: Path) -> set[str]:
    """The anchors that a forge gives to headings."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_each_make_target_that_the_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, (document.name, named - targets)


@pytest.mark.parametrize("path", VARIABLES, ids=lambda path: path.name)
def test_the_page_of_variables_has_each_variable_of_a_file_of_the_inventory(path):
    documented = sections(PROJECT / "docs/variables.md")[str(path.relative_to(GROUP_VARS))]
    assert sorted(documented) == sorted(yaml.safe_load(path.read_text()))


def test_the_page_of_variables_has_no_file_that_the_inventory_lacks():
    files = {name for name in sections(PROJECT / "docs/variables.md") if name.endswith(".yml")}
    assert files == {str(path.relative_to(GROUP_VARS)) for path in VARIABLES}


def sections(document: Path) -> dict[str, list[str]]:
    """By heading, the names in the first column of its table."""
    found = {}
    for section in re.split(r"^## ", document.read_text(), flags=re.MULTILINE)[1:]:
        cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
        found[section.splitlines()[0]] = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    return found


def test_the_page_of_failures_has_messages_of_the_code():
    code = code_texts()
    rows = re.findall(r"^\| (`.*?) \| ", (PROJECT / "docs/failures.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 100
    assert [message for message in messages if not found_in(message, code)] == []


def code_texts() -> str:
    """The texts of the code, adjacent literals joined: as they are, and again with a NUL for each placeholder."""
    folders = ("module_utils", "library", "plugins", "roles", "playbooks")
    files = [
        path for folder in folders for path in (PROJECT / folder).rglob("*") if path.suffix in {".py", ".yml", ".j2"}
    ]
    files += [path for path in (PROJECT / "roles").glob("*/files/**/*") if path.is_file() and not path.suffix]
    text = "\n".join(path.read_text(errors="replace") for path in files)
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    folded = re.sub(r"(?<=\w)\n\s+(?=\w)", " ", joined).replace('\\"', '"')
    return folded + re.sub(r"\{\{.*?\}\}|\{[^{}\n]*\}", "\0", folded)


def found_in(message: str, code: str) -> bool:
    """Whether each part of a message between its placeholders stands in the code."""
    parts = [part.strip(" :()") for part in re.split(r"…|\b(?:CRATE|CAUSE|ada|forge)\b|, needed|: found", message)]
    return all(part in code for part in parts if len(part.split()) > 1)


def hops() -> list[tuple[str, str]]:
    """The files and places of the two walks of docs/architecture.md."""
    rows = re.findall(
        r"^\| \d+ \| `([^`]+)` \| `([^`]+)` \|", (PROJECT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 30
    return rows


@pytest.mark.parametrize(("path", "place"), hops())
def test_each_hop_of_the_walks_is_where_the_architecture_says(path, place):
    text = (PROJECT / path).read_text()
    if path.startswith(("module_utils/", "roles/")):
        *owner, name = place.split(".")
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), name
        assert all(re.search(rf"^class {name}\b", text, re.MULTILINE) for name in owner)
    else:
        assert place in text


def test_the_architecture_names_each_room_and_each_module_once():
    text = (PROJECT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.* \|.*) \|$", text.split("## Rooms")[1].split("\n## ")[0], re.MULTILINE))
    rooms = {path.parent.name for path in (PROJECT / "module_utils/pipeline").glob("*/__init__.py")}
    assert set(rows) == rooms
    named = re.findall(r"`(\w+)`", " ".join(rows.values()))
    assert sorted(named) == sorted(set(MODULES) - {"role_inputs"})


def test_each_test_that_the_threat_model_names_exists() -> None:
    text = (PROJECT / "docs/threat-model.md").read_text()
    named = re.findall(r"`((?:unit|integration|attacks|e2e|faults)/\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 50
    for file, name in named:
        path = PROJECT / "tests" / file
        assert path.is_file(), file
        assert not name or f"\ndef {name}(" in path.read_text(), f"{file}::{name}"


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports each file by its name."""
    names = [path.name for path in (PROJECT / "tests").rglob("test_*.py") if path.parent.name != "bench"]
    assert len(names) == len(set(names))
