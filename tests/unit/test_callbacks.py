"""The callbacks take every module's result, and the result of any other module, without a fault of their own."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.plugins.loader import callback_loader

PROJECT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (PROJECT / "library").glob("*.py"))
STRANGE: list[Any] = [{"a": {"b": 1}}, [{"c": 2}], None, 7, "text", True, [["d"]]]
"""Values that another module may return under a name of ours."""

STEP = {"name": "step", "flavour": "ada", "result": "done", "where": "/srv/x"}
SAMPLES = {"str": "text", "dict": {"key": "value"}, "int": 7, "bool": True, "float": 1.5, "raw": "text"}


def sample(row: dict[str, Any]) -> Any:
    """A value of a documented type."""
    if row["type"] == "list":
        return [SAMPLES[row.get("elements", "str")]] * 2
    return row.get("sample", SAMPLES.get(row["type"], "text"))


def documented(module: str) -> dict[str, Any]:
    """The result of a module, as its RETURN describes it."""
    text = (PROJECT / f"library/{module}.py").read_text()
    found = re.search(r'^RETURN = r?"""(.*?)"""', text, re.DOTALL | re.MULTILINE)
    returned = {key: sample(row) for key, row in (yaml.safe_load(found[1]) or {}).items()} if found else {}
    return returned | ({"step": STEP} if "step" in returned else {})


class Result:
    """A task's result, as Ansible passes it to callbacks."""

    def __init__(self, module: str, result: dict[str, Any]) -> None:
        self.result = {"changed": True, **result}
        self.host = SimpleNamespace(get_name=lambda: "anvil", get_vars=dict)
        self.task = SimpleNamespace(
            _uuid="1", _parent=None, action=module, loop=None, delegate_to=None, ignore_unreachable=False,
            get_name=lambda: "Task", get_path=lambda: "/x/playbooks/release.yml:3",
        )  # fmt: skip
        self.exception = None


@pytest.fixture(params=["pipeline_screen", "pipeline_summary"])
def callback(request: pytest.FixtureRequest) -> Any:
    """A callback as Ansible loads it."""
    callback_loader.add_directory(str(PROJECT / "plugins/callback"))
    plugin = callback_loader.get(request.param)
    assert plugin is not None
    plugin.set_options()
    return plugin


def everything(callback: Any, result: Result) -> None:
    """Let the callback show all that may happen to a task."""
    with redirect_stdout(io.StringIO()):
        callback.v2_playbook_on_play_start(SimpleNamespace(name="", get_path=lambda: "/x/playbooks/builders.yml:3"))
        callback.v2_runner_on_start(result.host, result.task)
        for method in (
            "v2_runner_item_on_ok", "v2_runner_on_ok", "v2_on_file_diff", "v2_runner_item_on_failed",
            "v2_runner_on_failed", "v2_runner_on_skipped", "v2_runner_on_unreachable",
        ):  # fmt: skip
            getattr(callback, method)(result)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_project(callback: Any, module: str) -> None:
    everything(callback, Result(module, documented(module)))


@pytest.mark.parametrize("value", STRANGE, ids=repr)
def test_another_module_with_results_of_our_names(callback: Any, value: Any) -> None:
    names = (
        "step",
        "table",
        "report",
        "log",
        "next",
        "warnings",
        "msg",
        "item",
        "results",
        "diff",
        "stderr",
        "cmd",
        "rc",
    )
    for name in names:
        if name == "diff" and value not in (None, [{"c": 2}], {"a": {"b": 1}}):
            continue  # Ansible's own callback requires a mapping here
        everything(callback, Result("foreign", {name: value}))
        everything(callback, Result("foreign", {"step": STEP, name: value}))
    fields = {"name": "step", "flavour": value, "result": value, "where": value}
    everything(callback, Result("foreign", {"step": fields}))
