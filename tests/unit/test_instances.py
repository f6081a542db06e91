"""The servers of a GPU host: the operator's data, their files, and the changes to make."""

from __future__ import annotations

import math
import runpy
import tomllib
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail
from pipeline.base.errors import PipelineError
from pipeline.hosts import instances as logic
from pipeline.hosts.instances import (
    FolderContent,
    changes,
    is_loopback,
    merge,
    quoted,
    read_instances,
    shown,
    to_toml,
)

PLUGIN = Path(__file__).resolve().parents[2] / "plugins/action/mistralrs_instances.py"
ANY = "0.0.0.0"  # noqa: S104  written, not bound
QWEN = {"name": "qwen", "model": "Qwen/Qwen3-4B", "port": 1234}
PUBLIC = {"name": "wide", "model": "some/model", "port": 1300, "host": ANY}


def found(*rows: dict, flavour: str = "ada", **texts: str) -> FolderContent:
    """A folder with the files of these instances, and unmarked files."""
    marked = {name: text for instance in read_instances(rows, flavour) for name, text in instance.files.items()}
    return FolderContent({name: logic.unit_of(text) for name, text in marked.items()}, marked | texts)


def test_a_name_a_model_and_a_port_are_enough() -> None:
    (made,) = read_instances([QWEN], "ada")
    assert made.unit == "mistralrs-ada@qwen.service"
    assert made.health == "http://127.0.0.1:1234/health"
    assert made.loopback
    assert set(made.files) == {"qwen.conf"}
    first, _, rest = made.config.partition("\n")
    assert first == "# Made by Ansible, role mistralrs, for mistralrs-ada@qwen.service; it is overwritten."
    assert tomllib.loads(rest) == {
        "command": "serve",
        "server": {"host": "127.0.0.1", "port": 1234},
        "models": [{"kind": "auto", "model_id": "Qwen/Qwen3-4B"}],
    }


def test_settings_are_merged_table_by_table() -> None:
    (made,) = read_instances([QWEN | {"settings": {"server": {"log": "x"}, "runtime": {"max_seqs": 8}}}], "ada")
    settings = tomllib.loads(made.config)
    assert settings["server"] == {"host": "127.0.0.1", "port": 1234, "log": "x"}
    assert settings["runtime"] == {"max_seqs": 8}


def test_models_in_the_settings_replace_the_model() -> None:
    models = [{"kind": "text", "model_id": "a/b", "quantization": {"in_situ_quant": "4"}}]
    (made,) = read_instances([{"name": "q", "port": 1, "settings": {"models": models}}], "ada")
    assert tomllib.loads(made.config)["models"] == models


def test_a_whole_configuration_is_taken_as_it_is() -> None:
    text = 'command = "serve"\n[server]\nhost = "::"\nport = 8080 # here\n[[models]]\nmodel_id = "a/b"\n'
    (made,) = read_instances([{"name": "q", "config": text}], "ada")
    assert made.config.partition("\n")[2] == text
    assert (made.host, made.port, made.loopback) == ("::", 8080, False)
    assert made.health == "http://[::1]:8080/health"


def test_the_token_is_in_the_environment_file() -> None:
    (made,) = read_instances([QWEN | {"environment": {"CUDA_VISIBLE_DEVICES": 0}, "token": "hf_file\n"}], "ada")
    assert made.environment.splitlines()[1:] == ['CUDA_VISIBLE_DEVICES="0"', 'HF_TOKEN="hf_file"']
    assert "hf_" not in made.config
    assert "hf_" not in repr(made)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([QWEN | {"name": "Qwen 3"}], "Qwen 3: a name has lower-case letters"),
        ([QWEN | {"name": "../etc"}], "../etc: a name has lower-case letters"),
        ([QWEN | {"name": ""}], "an instance without a name: a name has"),
        ([QWEN, QWEN | {"port": 1235}], "qwen: the name occurs 2 times"),
        ([QWEN, QWEN | {"name": "b"}], "qwen and b: both have port 1234"),
        ([QWEN | {"port": 70000}], "qwen: port 70000 is not a number from 1 to 65535"),
        ([QWEN | {"port": 0}], "qwen: port 0 is not a number from 1 to 65535"),
        ([{"name": "qwen", "model": "x"}], "qwen: no port"),
        ([{"name": "qwen", "port": 1}], "qwen: no model"),
        ([QWEN | {"settings": {"models": []}}], "qwen: model and settings.models exclude each other"),
        ([QWEN | {"settings": {"server": {"port": 1}}}], "qwen: server.port in settings; use port"),
        (
            [QWEN | {"settings": {"runtime": {"x": None}}}],
            "qwen: runtime.x in settings is None, which TOML cannot express",
        ),
        ([QWEN | {"host": "a b"}], "qwen: no host to listen on"),
        ([QWEN | {"config": "[server]\nhost = 'x'"}], "qwen: model beside config; write it into config"),
        ([{"name": "qwen", "config": "[server\n"}], "qwen: config is not TOML: "),
        (
            [{"name": "qwen", "config": "[server]\nport = 1"}],
            "qwen: no host to listen on; upstream would listen on every",
        ),
        ([QWEN | {"environment": {"A B": "1"}}], "qwen: A B is not a variable with a value of one line"),
        ([QWEN | {"environment": {"A": "1\nB=2"}}], "qwen: A is not a variable with a value of one line"),
        ([QWEN | {"environment": {"HF_TOKEN": "1"}, "token": "2"}], "qwen: both HF_TOKEN in environment and a token"),
        ([QWEN | {"token": "two words"}], "qwen: the token is not one word"),
    ],
)
def test_a_fault_of_the_data_is_named(rows: list[dict], message: str) -> None:
    with pytest.raises(PipelineError) as error:
        read_instances(rows, "ada")
    assert error.value.what.startswith(message)
    assert "two words" not in str(error.value)
    assert str(error.value).endswith("(mistralrs_instances). Nothing was changed")


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(PipelineError) as error:
        read_instances([{"name": "A", "port": 1, "model": "x"}, {"name": "b", "port": 70000}], "ada")
    assert error.value.what.count(";") == 2


def test_a_token_file_is_read_on_the_controller_and_overrides_the_token(tmp_path: Path) -> None:
    with_tokens = runpy.run_path(str(PLUGIN))["with_tokens"]
    (tmp_path / "token").write_text("hf_file\n")
    rows = [QWEN | {"token_file": str(tmp_path / "token"), "token": "hf_given"}, PUBLIC | {"token_file": ""}]
    read = lambda name: Path(name).read_text()  # noqa: E731
    assert with_tokens(rows, read) == [QWEN | {"token": "hf_file"}, PUBLIC]
    with pytest.raises(
        AnsibleActionFail, match="qwen: the token file cannot be read: .*No such file.*Correct token_file"
    ):
        with_tokens([QWEN | {"token_file": str(tmp_path / "none")}], read)


# ---------------------------------------------------------------- changes


def test_a_second_run_changes_nothing() -> None:
    todo = changes(read_instances([QWEN, PUBLIC], "ada"), found(QWEN, PUBLIC))
    assert (todo.leaving, todo.closing, todo.remove, todo.write) == ((), (), (), {})
    assert todo.opening == (1300,)


def test_an_instance_that_is_removed_leaves_with_its_port_and_files() -> None:
    todo = changes(read_instances([QWEN], "ada"), found(QWEN, PUBLIC | {"token": "t"}))
    assert todo.leaving == ("mistralrs-ada@wide.service",)
    assert todo.closing == (1300,)
    assert todo.remove == ("wide.conf", "wide.env")
    assert todo.write == {}


def test_another_flavour_moves_the_instances() -> None:
    todo = changes(read_instances([QWEN], "blackwell"), found(QWEN))
    assert todo.leaving == ("mistralrs-ada@qwen.service",)
    assert "mistralrs-blackwell@qwen.service" in todo.write["qwen.conf"]
    assert todo.remove == ()


def test_the_alias_of_a_unit_that_leaves_is_removed(tmp_path: Path) -> None:
    for name, target in (
        ("a", "mistralrs-ada@.service"),
        ("b", "mistralrs-cpu@.service"),
        ("c", "mistralrs-ada@.service"),
    ):
        (tmp_path / f"mistralrs@{name}.service").symlink_to(f"/usr/lib/systemd/system/{target}")
    (tmp_path / "mistralrs@d.service").write_text("by hand\n")
    leaving = [f"mistralrs-ada@{name}.service" for name in "abde"]
    assert logic.aliases(leaving, tmp_path) == (tmp_path / "mistralrs@a.service",)


def test_another_flavour_that_is_enabled_under_a_wanted_name_leaves(tmp_path: Path) -> None:
    """Left enabled by a systemctl that failed, or enabled by hand; the alias alone counts too."""
    wants = tmp_path / "multi-user.target.wants"
    wants.mkdir()
    for link, flavour in (
        (wants / "mistralrs-ada@qwen.service", "ada"),
        (wants / "mistralrs-blackwell@qwen.service", "blackwell"),
        (wants / "mistralrs-blackwell@own.service", "blackwell"),
        (tmp_path / "mistralrs@qwen.service", "ada"),
        (tmp_path / "mistralrs@wide.service", "cpu"),
    ):
        link.symlink_to(f"/usr/lib/systemd/system/mistralrs-{flavour}@.service")
    wanted = read_instances([QWEN, PUBLIC], "ada")
    assert logic.others(wanted, tmp_path) == ("mistralrs-blackwell@qwen.service", "mistralrs-cpu@wide.service")
    assert logic.others(read_instances([QWEN], "cpu"), tmp_path) == (
        "mistralrs-ada@qwen.service",
        "mistralrs-blackwell@qwen.service",
    )


def test_another_port_closes_the_old_one() -> None:
    todo = changes(read_instances([PUBLIC | {"port": 1400}], "ada"), found(PUBLIC))
    assert (todo.closing, todo.opening, todo.leaving) == ((1300,), (1400,), ())


def test_files_of_an_administrator_stay_and_are_never_replaced() -> None:
    by_hand = {"own.conf": "[server]\n"}
    assert changes(read_instances([QWEN], "ada"), found(QWEN, **by_hand)).remove == ()
    with pytest.raises(
        PipelineError, match=r"the role did not write these files and does not replace them: own.conf .*other names"
    ):
        changes(read_instances([QWEN | {"name": "own"}], "ada"), found(**by_hand))


def test_an_invalid_file_with_a_mark_closes_no_port() -> None:
    spoilt = FolderContent({"q.conf": "mistralrs-ada@q.service"}, {"q.conf": "[server\n"})
    assert changes((), spoilt).closing == ()


def test_only_root_can_read_the_files(tmp_path: Path) -> None:
    wanted = read_instances([QWEN | {"token": "t"}], "ada")
    logic.apply(changes(wanted, logic.read_folder(tmp_path)), tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "qwen.conf": 0o600,
        "qwen.env": 0o600,
    }
    assert changes(wanted, logic.read_folder(tmp_path)).write == {}
    (tmp_path / "qwen.conf").chmod(0o644)
    assert logic.close_modes(wanted, tmp_path, check=True)
    assert logic.close_modes(wanted, tmp_path)
    assert not logic.close_modes(wanted, tmp_path)
    logic.apply(changes((), logic.read_folder(tmp_path)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_removed_instance_that_failed_is_reset_also_without_its_package(
    tmp_path: Path, run_module, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"mistralrs-ada@gone.service": "failed", "mistralrs-cpu@qwen.service": "active"}
    monkeypatch.setattr(
        "ansible.module_utils.pipeline.hosts.instances.properties",
        lambda unit, *_: {"ActiveState": states.get(unit, "")},
    )
    old = read_instances([QWEN | {"name": "gone"}], "ada")
    logic.apply(changes(old, logic.read_folder(tmp_path)), tmp_path)
    done = run_module("mistralrs_instances", {"instances": [QWEN], "flavour": "cpu", "folder": str(tmp_path)})
    assert done["given_up"] == ["mistralrs-ada@gone.service"]
    assert done["leaving"] == []  # its package is gone, and stopped the unit


def test_the_module_reports_in_check_mode_and_shows_no_secret(
    tmp_path: Path, run_module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible.module_utils.pipeline.hosts.instances.properties", lambda *_: {})
    arguments = {"instances": [QWEN | {"token": "hf_secret"}], "flavour": "ada", "folder": str(tmp_path)}
    checked = run_module("mistralrs_instances", arguments, check=True)
    assert list(tmp_path.iterdir()) == []
    done = run_module("mistralrs_instances", arguments)
    assert (checked["changed"], done["changed"]) == (True, True)
    assert "hf_secret" not in str(done)
    assert done["instances"] == [
        {
            "name": "qwen",
            "unit": "mistralrs-ada@qwen.service",
            "health": "http://127.0.0.1:1234/health",
            "state": "started",
        }
    ]
    assert run_module("mistralrs_instances", arguments)["changed"] is False


def test_a_running_instance_with_an_older_file_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = read_instances([QWEN], "ada")
    logic.apply(changes(wanted, logic.read_folder(tmp_path)), tmp_path)
    written = int((tmp_path / "qwen.conf").stat().st_mtime)
    for begun, state in ((0, "started"), (written + 1, "started"), (written, "started"), (written - 1, "restarted")):
        monkeypatch.setattr(logic, "running_since", lambda _, at=begun: at)
        assert logic.unit_states(wanted, tmp_path) == {"mistralrs-ada@qwen.service": state}


# ---------------------------------------------------------------- TOML


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"a": 1, "b": 1.5, "c": True, "d": 'quote " and \\ and \n and \x7f and é', "e": [1, [2, 3], "x"], "f": []},
        {"t": {"u": {"v": 1}, "w": 2}, "x": 3},
        {"l": [{"a": 1, "t": {"b": 2}}, {"a": 3, "inner": [{"c": 1}, {"c": 2}]}]},
        {"with space": {'and "quote"': 1}},
    ],
)
def test_toml_reads_back_the_same(settings: dict) -> None:
    assert tomllib.loads(to_toml(settings)) == settings


def test_toml_knows_infinity() -> None:
    assert tomllib.loads(to_toml({"a": math.inf})) == {"a": math.inf}


def test_merging_replaces_values_that_are_no_tables() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}


def test_a_value_for_systemd() -> None:
    assert quoted('a"b$c`d\\e') == r'"a\"b\$c\`d\\e"'


def test_a_diff_shows_which_values_change_and_none_of_them() -> None:
    env = "# mark\nHF_TOKEN=x\nA=1\n"
    assert shown("q.env", env, env) == "A (value hidden)\nHF_TOKEN (value hidden)\n"
    assert shown("q.env", "A=2\nHF_TOKEN=x\n", env) == "A (other value, hidden)\nHF_TOKEN (value hidden)\n"
    toml = 'command = "serve"\n[server]\nport = 1\n[[models]]\nid = "a"\n'
    assert shown("q.conf", toml.replace("port = 1", "port = 2"), toml) == (
        "command (value hidden)\nmodels.0.id (value hidden)\nserver.port (other value, hidden)\n"
    )
    assert shown("q.conf", "", toml) == ""
    assert shown("q.conf", "[server\n", toml) == "(no TOML, hidden)\n"


@pytest.mark.parametrize(
    "line",
    [
        'hf-token = "hunter2"', 'auth = "hunter2"', 'key = """\nhunter2\n"""', "headers = {Authorization = 'hunter2'}",
        'a.b.secret = "hunter2"', '"bearer" = ["x", "hunter2"]', "credential='hunter2'",
    ],
)  # fmt: skip
def test_no_spelling_of_a_token_gets_into_a_diff(line: str) -> None:
    assert "hunter2" not in shown("q.conf", f"{line}\n", "")


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), (ANY, False), ("gpu", False)],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own
