"""Unknown, misspelt and wrong variables are refused before anything else, by make and -e; texts stay as given."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from pipeline.plan import variables

PROJECT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
# What make, the shell, Ansible's parser of words and Jinja would each take for something of their own.
TEXT = """it's the "bad" $kernels, $(touch pwned) `touch pwned` {{ nothing }} {% x %} \\n ü #1 a=b"""
GIVEN = {
    "NAMES": TEXT, "REASON": f"{TEXT}\nand {TEXT}", "UPSTREAM": f"/srv/{TEXT}", "SOURCE": TEXT, "REF": TEXT,
    "INVENTORY": TEXT,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is set up, with an ansible-playbook that prints its words."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "scripts").mkdir()
    for name in ("Makefile", "scripts/target", "requirements.lock", "bindep.txt", ".python-version", "ansible.cfg"):
        shutil.copy(PROJECT / name, folder / name)
    for name in ("module_utils", "plugins", "inventory", "roles", "library"):
        (folder / name).symlink_to(PROJECT / name)
    setup = folder / "scripts/setup"
    setup.write_text("#!/bin/sh\ntouch set-up\n")
    setup.chmod(0o755)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    program = folder / ".venv/bin/ansible-playbook"
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint('WORDS', json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    (folder / ".venv/.ready").write_text(str(folder))
    return folder


def make(checkout: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=checkout, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def words_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("WORDS ")[2])


def extra_of(words: list[str]) -> dict[str, object]:
    """The extra variables of a command, as Ansible reads them."""
    from ansible.parsing.splitter import parse_kv

    given = [word for before, word in pairwise(words) if before == "-e"]
    return {
        key: value
        for word in given
        for key, value in (json.loads(word) if word.startswith("{") else parse_kv(word)).items()
    }


# make


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("release FLAVOR=ampere", "FLAVOR: there is no such variable; did you mean FLAVOUR?"),
        ("release flavour=ampere", "flavour: there is no such variable; did you mean FLAVOUR?"),
        ("dev UNCOMITTED=true", "UNCOMITTED: there is no such variable; did you mean UNCOMMITTED?"),
        ("release PORT=abc", "PORT: 'abc' is not a port from 1 to 65535"),
        ("serve PORT=70000", "PORT: '70000' is not a port from 1 to 65535"),
        ("release dry_run=true", "dry_run: it is no variable any more: --check is the only dry run"),
        ("prune CHANNEL=unstable", "CHANNEL: make prune does not take it; it takes ARGS, INVENTORY, PORT, PYTHON"),
        ("prerelease VERSION=0.9.2", "VERSION: make prerelease does not take it"),
        ("rollback TO=yesterday", "TO: 'yesterday' is not a snapshot's id such as 2"),
        ("clean CHANNEL=unstable", "CHANNEL: make clean does not take it; it takes no variables"),
        ("release X=$(touch${IFS}pwned)", "X: there is no such variable"),
    ],
)
def test_make_refuses_a_wrong_variable_before_anything_is_set_up(checkout, words, message):
    (checkout / ".venv/.ready").rename(checkout / "aside")
    try:
        (checkout / ".local").mkdir(exist_ok=True)
        done = make(checkout, *words.split(" "))
    finally:
        (checkout / "aside").rename(checkout / ".venv/.ready")
    assert done.returncode != 0
    assert message in done.stderr
    assert "nothing was done, a variable is wrong" in done.stderr
    assert not done.stdout
    assert (checkout / ".local").is_dir()
    assert not (checkout / "set-up").exists()
    assert not (checkout / "pwned").exists()


def test_make_names_all_wrong_variables_at_once(checkout):
    done = make(checkout, "release", "FLAVOR=ada", "PORT=0", "VERSION=a b")
    assert "nothing was done, 3 variables are wrong" in done.stderr


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_any_text_reaches_ansible_through_make_as_it_is(checkout, given):
    values = {name: value for name, value in GIVEN.items() if name in ("NAMES", "REASON", "INVENTORY")}
    words = [f"{name}={value}" for name, value in values.items()]
    done = make(checkout, "yank", *words) if given == "argument" else make(checkout, "yank", **values)
    assert extra_of(words_of(done)) == {"names": GIVEN["NAMES"], "reason": GIVEN["REASON"]}
    assert words_of(done)[:3] == ["-i", TEXT, "playbooks/yank.yml"]
    dev = make(checkout, "dev", *(f"{name}={GIVEN[name]}" for name in ("UPSTREAM", "SOURCE", "REF")))
    assert extra_of(words_of(dev)) == {"upstream_url": GIVEN["UPSTREAM"], "source": TEXT, "ref": TEXT}
    assert not (checkout / "pwned").exists()


def test_make_prints_the_command_that_a_person_could_type(checkout):
    done = make(checkout, "release", "FLAVOUR=ada", "VERSION=v0.9.2", "ARGS=--check -e 'jobs=4'")
    command = "ansible-playbook playbooks/release.yml -e flavour=ada -e version=v0.9.2 --check -e jobs=4"
    assert done.stdout.splitlines()[0] == command
    assert words_of(make(checkout, "release")) == ["playbooks/release.yml"]
    assert words_of(make(checkout, "provision")) == ["-i", "inventory/production.yml", "playbooks/provision.yml"]


def test_help_fits_80_columns_and_has_each_target_and_variable(checkout):
    done = make(checkout)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)) - {
        "checked",
        "moved",
        "writable",
    }
    assert set(re.findall(r"^  make ([a-z-]+) +\S", done.stdout.split("Examples")[0], re.MULTILINE)) == targets
    assert set(re.findall(r"^  ([A-Z]+)=", done.stdout, re.MULTILINE)) == set(variables.BY_MAKE)
    columns = {
        len(line) - len(line.split(maxsplit=2)[2]) for line in lines if line.startswith("  make ") and "=" not in line
    }
    assert len(columns - {49}) == 1


# -e


REASON = "{{ [reason | default('none'), together] | to_json }}"


def playbook(checkout: Path, name: str, *words: str, shown: str = REASON) -> subprocess.CompletedProcess[str]:
    """Run a playbook of this name that shows what it is given."""
    book = checkout / f"playbooks/{name}.yml"
    book.parent.mkdir(exist_ok=True)
    show = {"ansible.builtin.debug": {"msg": f"SHOWN {shown.replace('}}', '| b64encode }}')}"}}
    book.write_text(json.dumps([{"name": "Show", "hosts": "signer", "gather_facts": False, "tasks": [show]}]))
    return subprocess.run(
        [ANSIBLE, f"playbooks/{name}.yml", *words], cwd=checkout, capture_output=True, text=True, check=False,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )  # fmt: skip


def shown_by(done: subprocess.CompletedProcess[str]) -> object:
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.search(r"SHOWN (\S+)", done.stdout)
    assert shown
    return json.loads(base64.b64decode(shown[1].strip("'\"")))


@pytest.fixture(scope="module")
def real(checkout: Path) -> Path:
    """The same checkout with a plugin of its own: the project of a plugin is where it lies."""
    (checkout / "plugins").unlink()
    shutil.copytree(PROJECT / "plugins", checkout / "plugins")
    return checkout


def test_every_wrong_variable_of_a_run_is_named_before_its_first_play(real, tmp_path):
    file = tmp_path / "vars.yml"
    file.write_text(yaml.safe_dump({"dry_run": True, "my_note": "free", "site_names": ["x"]}))
    done = playbook(
        real, "release", "-e", "flavor=ada FLAVOUR=ada", "-e", f"@{file}", "-e", "snapshot=x reason='a b' c",
        "-e", "publisher_reserv_mib=3 mistralrs_package_state=latest ansible_become=false zzz=1 names='a\\tb'",
    )  # fmt: skip
    assert done.returncode == 5
    assert "PLAY [" not in done.stdout
    assert done.stderr.splitlines()[:10] == [
        "[ERROR]: nothing was done, 9 variables are wrong:",
        "  reason: 'c' belongs to no variable. Quote the value once more, or use JSON: -e '{\"reason\": \"...\"}'",
        '  names: a backslash would change it. Quote the value once more, or use JSON: -e \'{"names": "..."}\'',
        "  flavor: there is no such variable; did you mean flavour?",
        "  FLAVOUR: there is no such variable; did you mean flavour?",
        "  dry_run: it is no variable any more: --check is the only dry run (make: ARGS=--check)",
        "  site_names: there is no such variable; did you mean site_name?",
        "  snapshot: it is a variable of rollback.yml, and has no effect here",
        "  reason: it is a variable of rollback.yml, yank.yml, hold.yml, and has no effect here",
        "  publisher_reserv_mib: there is no such variable; did you mean publisher_reserve_mib?",
    ]


def test_values_are_compared_with_the_table_and_the_inventory(real, tmp_path):
    """Those of an inventory too: here a new channel, and a count that is none."""
    inventory = tmp_path / "hosts.yml"
    table = {"channels": {"testing": {}}, "agreement": "both", "low_memory": "{{ nobody }}", "own_thing": 1}
    hosts = {"localhost": {"ansible_connection": "local", **table}}
    inventory.write_text(yaml.safe_dump({"all": {"children": {"signer": {"hosts": hosts}}}}))
    words = ("-e", "channel=stable local_port=abc together=maybe own_thing=2", "-e", '{"flavour": null, "jobs": -1}')
    done = playbook(real, "release", "-i", str(inventory), *words)
    assert done.returncode == 5
    assert [line for line in done.stderr.splitlines() if line.startswith("  ")] == [
        "  flavour: it must be a name of letters, digits and . _ -",
        "  channel: 'stable' is none of testing",
        "  jobs: '-1' is not a number of 0 or more",
        "  local_port: 'abc' is not a port from 1 to 65535",
        "  together: 'maybe' is not true or false",
        "  agreement: 'both' is not a number of 1 or more",
    ]


def test_an_inventory_outside_of_the_checkout_needs_only_what_differs(real, tmp_path):
    """The project's group_vars are below it, file by file; a misspelt variable of it is named."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups = {name: {"hosts": {"localhost": local}} for name in ("standalone", "signer", "repo_host", "builders")}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    for folder, text in (("group_vars", "flavour: cpu\n"), ("host_vars", "own_list: [1]\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("standalone.yml" if folder == "group_vars" else "localhost.yml")).write_text(text)
    shown = "{{ [flavour, local_root, rpm_spec_folder, publisher_root, own_list] | to_json }}"
    done = playbook(real, "doctor", "-i", str(tmp_path / "hosts.yml"), shown=shown)
    expected = ["cpu", f"{real}/.local", f"{real}/rpm", f"{real}/.local/srv/rpm", [1]]
    assert shown_by(done) == expected
    (tmp_path / "host_vars/localhost.yml").write_text("site_adresses: []\nbuilder_flavor: [ada]\nzone: mine\n")
    done = playbook(real, "doctor", "-i", str(tmp_path / "hosts.yml"))
    assert done.returncode == 5
    assert [line for line in done.stderr.splitlines() if line.startswith("  ")] == [
        "  builder_flavor: the inventory sets it, and there is no such variable; did you mean builder_flavours?",
        "  site_adresses: the inventory sets it, and there is no such variable; did you mean site_addresses?",
    ]


def test_a_text_is_no_template_and_a_flag_no_text(real):
    given = ("-e", json.dumps({"reason": TEXT}), "-e", "together=off jobs=2 my_own=3")
    done = playbook(real, "yank", *given)
    assert shown_by(done) == [TEXT, False]


# the table


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flavour", "all"), ("version", "v0.9.2"), ("version", "0.9.0-rc1"), ("version", 0.9), ("jobs", 4),
        ("local_port", "8643"), ("uncommitted", "True"), ("deep", True), ("build_free_gib", 1e6),
        ("accept_head", "empty,20261121T113154Z-2f7b86af"), ("accept_head", ["empty"]), ("accept_head", []),
        ("commit", "4048d65f02c3"), ("sandbox", "none"), ("flavour", ""),
    ],
)  # fmt: skip
def test_right_values_fit(name, value):
    assert variables.misfit(variables.BY_NAME[name], value) == ""


def test_a_playbook_that_covers_all_channels_takes_none():
    assert variables.wrong_names(["channel"], ["prune"], ["channel"], ()) == [
        "channel: this playbook covers all channels"
    ]
    assert variables.wrong_names(["channel"], ["release"], ["channel"], ()) == []


def test_the_table_agrees_with_the_page_and_the_inventory():
    text = (PROJECT / "docs/variables.md").read_text().split("## On the command line")[1].split("\n## ")[0]
    cells = " ".join(line.split("|")[1] for line in text.splitlines() if re.match(r"\| [(`]", line))
    names = set(re.findall(r"`([^`]+)`", cells))
    files = [yaml.safe_load(path.read_text()) for path in (PROJECT / "inventory/group_vars").rglob("*.yml")]
    inventory = {name for file in files for name in file}
    assert {row.name for row in variables.TABLE if row.name} - inventory <= names
    assert set(variables.BY_MAKE) <= names
    assert names <= set(variables.BY_NAME) | set(variables.BY_MAKE)


def test_each_target_of_the_table_is_one_of_make_and_each_playbook_is_one():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for row in variables.TABLE:
        assert set(row.targets) <= targets, row
    for target in variables.PLAYBOOKS:
        assert (PROJECT / f"playbooks/{target.replace('-', '_')}.yml").is_file()
