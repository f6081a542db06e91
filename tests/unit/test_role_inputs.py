"""One error names every missing or wrong input of a play's roles, before any change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]


def play(tmp_path, **variables):
    touched = tmp_path / "touched"
    content = [
        {
            "name": "Try the inputs",
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"project_root": str(PROJECT), "publisher_program": str(touched), **variables},
            "pre_tasks": [{"name": "Check all inputs", "role_inputs": {"roles": ["publisher", "cuda_toolkit"]}}],
            "tasks": [
                {"name": "Touch", "ansible.builtin.file": {"path": str(touched), "state": "touch", "mode": "0644"}}
            ],
        },
    ]
    file = tmp_path / "play.yml"
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", file],
        cwd=PROJECT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, touched.exists()


def test_one_error_names_all_wrong_inputs_of_all_roles_and_nothing_changes(tmp_path):
    status, output, touched = play(
        tmp_path,
        publisher_reserve_mib="much",
        publisher_root="{{ a_folder_that_nobody_named }}",
        cuda_toolkit_source="{{ lookup('secret', 'source', folder='/nowhere') }}",
        cuda_toolkit_components="some",
    )
    assert status != 0
    assert "nothing was changed on localhost, its inputs are wrong" in output
    assert "publisher: argument 'publisher_reserve_mib' is of type str" in output
    assert "publisher: publisher_root: 'a_folder_that_nobody_named' is undefined" in output
    assert "cuda_toolkit: cuda_toolkit_source: There is no secret source: neither the file /nowhere/source" in output
    assert "cuda_toolkit: value of cuda_toolkit_components must be one of: compiler, full, got: some" in output
    assert not touched


@pytest.mark.parametrize("empty", ["", None, []])
def test_a_required_input_that_is_empty_is_missing(tmp_path, empty):
    specs = yaml.safe_load((PROJECT / "roles/publisher/meta/argument_specs.yml").read_text())
    required = [name for name, option in specs["argument_specs"]["main"]["options"].items() if option.get("required")]
    status, output, touched = play(tmp_path, **dict.fromkeys(required, empty))
    if required:
        assert status != 0
        assert all(name in output for name in required)
    assert touched == (not required)


def test_right_inputs_let_the_play_go_on(tmp_path):
    status, output, touched = play(tmp_path, publisher_trusted_keys="/etc/hostname", publisher_keys=[])
    assert status == 0, output
    assert "changed=1" in output
    assert touched
