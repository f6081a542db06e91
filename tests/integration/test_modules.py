"""The modules themselves: arguments, the returned record or one clear message, no change in check mode."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from pipeline.base.records import Flavour
from pipeline.source.upstream import resolve
from support.commits import pointer
from support.signer_site import COMMIT, STABLE, Site

CPU = Flavour("cpu", "any x86-64", published=False).to_dict()
PACKAGE = {"package": "mistralrs-cli", "rustflags": "-C target-cpu=x86-64", "trust": "release"}
# The stand-in needs little memory.
SMALL = {"compatibility": {"heavy": False}}


@pytest.fixture
def source(upstream, tmp_path):
    return resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag").to_dict()


def test_upstream_source_returns_a_record_in_check_mode_too(run_module, upstream, tmp_path):
    arguments = {"url": f"file://{upstream}", "mirror": str(tmp_path / "mirror"), "version": "0.9.1"}
    for check in (False, True):
        result = run_module("upstream_source", arguments, check=check)
        assert (result["changed"], result["source"]["version"]) == (False, "0.9.1")
        assert result["step"]["name"] == "resolve"


def test_cargo_build_in_check_mode_reports_a_change_and_builds_nothing(run_module, source, tmp_path):
    root = tmp_path / "builder"
    arguments = {"root": str(root), "source": source, "flavour": CPU, "binary": "mistralrs", **PACKAGE}
    result = run_module("cargo_build", arguments, check=True)
    assert (result["changed"], result["artifact"]) == (True, {})
    assert result["step"]["result"] == "would be compiled"
    assert not root.exists()


def test_builder_check_warns_if_the_tags_version_is_not_cargos(run_module, upstream, stand_in, tmp_path):
    """Cargo.toml of upstream's v0.8.10 has the version 0.8.9."""
    stand_in.tag(upstream, "v0.9.9")
    found = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.9").to_dict()
    arguments = {"root": str(tmp_path / "b"), "source": found, "flavour": CPU, "free_gib": 0.1, **PACKAGE, **SMALL}
    result = run_module("builder_check", arguments)
    assert result["tree"]["crate_version"] == "0.9.2"
    assert result["tree"]["rust_version"] == "1.88"
    assert any("Cargo.toml says 0.9.2" in str(warning) for warning in result["warnings"])


def test_builder_check_returns_all_findings_when_it_fails(run_module, source, tmp_path):
    arguments = {"root": str(tmp_path / "b"), "source": source, "flavour": CPU, "free_gib": 1e6, **PACKAGE, **SMALL}
    result = run_module("builder_check", arguments | {"rustflags": "-C target-cpu=native"})
    assert result["failed"]
    assert "disk space: found" in result["msg"]
    assert "target CPU: found -C target-cpu=native" in result["msg"]
    assert {f["check"] for f in result["findings"] if not f["fits"]} == {"disk space", "target CPU"}


def test_builder_check_refuses_a_commit_that_no_build_of_it_can_be_whole(run_module, upstream, stand_in, tmp_path):
    """Git LFS keeps a template elsewhere, and the lock lacks a package of the workspace."""

    def drop_last_package(text: str) -> str:
        return text[: text.rindex("[[package]]")]

    files = {"Cargo.lock": drop_last_package, "chat_templates/default.json": pointer()}
    stand_in.add_commit(upstream, "move a template", files)
    stand_in.tag(upstream, "v0.9.9")
    found = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.9").to_dict()
    arguments = {"root": str(tmp_path / "b"), "source": found, "flavour": CPU, "free_gib": 0.1, **PACKAGE, **SMALL}
    result = run_module("builder_check", arguments)
    assert result["failed"]
    assert "Git LFS: found chat_templates/default.json, needed none that the build reads" in result["msg"]
    assert "Cargo.lock: found it lacks mistralrs-vision, needed that of the manifests. Report it" in result["msg"]
    # A channel of branches builds without the lock.
    result = run_module("builder_check", arguments | {"locked": "prefer"})
    assert {f["check"] for f in result["findings"] if not f["fits"]} == {"Git LFS"}
    assert {f["check"] for f in result["findings"] if f["warning"]} >= {"Cargo.lock"}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cargo_build", {"root": "/nonexistent", "source": {"url": "x"}, "flavour": CPU, "binary": "b", **PACKAGE}),
        ("binary_audit", {"artifact": {"binary": "x"}, "trust": "release"}),
        (
            "builder_check",
            {"root": "/nonexistent", "source": {"url": "x"}, "flavour": CPU, "free_gib": 1, **PACKAGE},
        ),
    ],
)
def test_the_error_names_an_incomplete_record(run_module, module, arguments):
    result = run_module(module, arguments)
    assert result["failed"]
    assert "record lacks" in result["msg"]


def test_a_missing_cargo_is_an_error_with_its_path(run_module, source, tmp_path):
    arguments = {"root": str(tmp_path), "source": source, "flavour": CPU, "binary": "mistralrs", **PACKAGE}
    result = run_module("cargo_build", arguments | {"cargo": "/nonexistent/cargo"})
    assert result["failed"]
    assert "/nonexistent/cargo is not installed on the builder" in result["msg"]


def repository_of(site: Site) -> dict[str, object]:
    """The arguments of the repository modules for a site."""
    signer = site.signer
    return {
        "signer": {"root": str(signer.root), "home": str(signer.home), "trusted_keys": str(signer.trusted_keys)},
        "repository": {
            "channel": "stable",
            "location": str(site.root / STABLE),
            "agent": {"rsh": list(site.agent.rsh), "host": "local"},
        },
    }


def source_of(version: str, commit: str = "f" * 40) -> dict[str, object]:
    """A release of upstream; the published packages of a site are of ``COMMIT``."""
    versions = {"ref": f"v{version}", "version": version, "rpm_version": version}
    return {"url": "https://example.org/up.git", "kind": "tag", "commit": commit, "commit_time": 1} | versions


@pytest.fixture
def comparison(flavours):
    """The arguments of repository_packages for a site: the flavour ada of a source, by default of a later release."""

    def arguments(site: Site, source: dict[str, object] | None = None) -> dict[str, object]:
        wanted = {"flavours": list(flavours.values()), "flavour": "ada", "dist": ".fc43"}
        return repository_of(site) | wanted | {"source": source or source_of("0.9.3")}

    return arguments


def test_the_modules_compare_and_publish(run_module, tmp_path, comparison):
    site = Site.make(tmp_path)
    package = site.package()
    release = repository_of(site) | {"packages": [package.to_dict()], "reason": "release 0.9.2"}
    location = site.root / STABLE
    source = source_of("0.9.2", COMMIT)
    wanted = comparison(site, source)
    compared = run_module("repository_packages", wanted)
    assert (compared["head"], compared["packages"]) == ("", [])
    assert [row["name"] for row in compared["missing"]] == ["ada"]
    assert compared["wanted"] == compared["missing"]

    planned = run_module("repository_snapshot", release, check=True)
    assert (planned["changed"], planned["head"], planned["added"]) == (True, "", [package.filename])
    assert planned["diff"] == {"before": "", "after": f"{package.filename}\n"}
    done = run_module("repository_snapshot", release)
    assert done["changed"]
    assert done["url"] == f"{location}/snapshots/{done['head']}/"
    assert done["snapshot"]["reason"] == "release 0.9.2"
    again = run_module("repository_snapshot", release)
    assert (again["changed"], again["head"], again["packages"]) == (False, done["head"], [package.to_dict()])

    compared = run_module("repository_packages", wanted)
    assert (compared["head"], compared["missing"]) == (done["head"], [])
    assert [row["path"] for row in compared["present"]] == [package.filename]
    moved = run_module("repository_packages", {**wanted, "source": {**source, "commit": "f" * 40}})
    assert "tag v0.9.2 moved" in moved["msg"]
    # Upstream deleted the tag of the published release: 0.9.1 is its newest one.
    older = source_of("0.9.1")
    lost = run_module("repository_packages", {**wanted, "source": older, "releases": ["0.9.1"]})
    assert "upstream lost the tag of 0.9.2" in lost["msg"]
    asked = run_module("repository_packages", {**wanted, "source": older, "asked": True})
    assert [row["name"] for row in asked["missing"]] == ["ada"]
    assert "0.9.1-1.fc43.x86_64 sorts below mistralrs-ada-0.9.2-1.fc43" in str(asked["warnings"])


def test_too_little_room_on_the_repo_host_is_found_before_the_build(run_module, tmp_path, comparison):
    """By the size of the last package, in one question to the agent; without a missing flavour nobody asks it."""
    site = Site.make(tmp_path)
    published = site.package()
    site.publish(published)
    config = json.loads((tmp_path / "publisher.json").read_text())
    (tmp_path / "publisher.json").write_text(json.dumps(config | {"reserve_mib": 1 << 40}))
    wanted = comparison(site)
    before = sorted(path.name for path in site.root.rglob("*"))
    refused = run_module("repository_packages", wanted)
    assert refused["failed"]
    assert "the release cannot be published" in refused["msg"]
    assert "room on the repo host: found 0 bytes, needed 16,777,216 bytes for mistralrs-ada" in refused["msg"]
    assert "Free space on local: make prune" in refused["msg"]
    assert "Nothing was built" in refused["msg"]
    told = run_module("repository_packages", wanted | {"report_only": True})
    assert [(row["check"], row["fits"]) for row in told["room"]] == [
        ("room on the signer", True),
        ("room on the repo host", False),
    ]
    assert told["sizes"] == {"mistralrs-ada": published.size}
    assert sorted(path.name for path in site.root.rglob("*")) == before

    # An agent that does not answer is found here too, but not by a run without a missing flavour.
    wanted["repository"] |= {"agent": {"rsh": ["false"], "host": "gone"}}
    refused = run_module("repository_packages", wanted)
    assert "publisher agent: found talking to the repo host failed with status 1" in refused["msg"]
    present = {"source": source_of("0.9.2", COMMIT)}
    assert run_module("repository_packages", wanted | present)["room"] == []


def test_repository_snapshot_stages_publishes_and_undoes(run_module, tmp_path):
    """Each state: in check mode, then done, then repeated."""
    site = Site.make(tmp_path, snapshots=1, days=0, grace_hours=0)
    old, new = site.package("0.9.1"), site.package("0.9.2")
    site.publish(old)

    def run(state: str, *, check: bool = False, **arguments: object):
        before = site.served()
        result = run_module("repository_snapshot", repository_of(site) | {"state": state} | arguments, check=check)
        assert "msg" not in result, result
        if check or not result["changed"]:
            assert site.served() == before
        return result

    packages = {"packages": [new.to_dict()]}
    assert run("staged", check=True, **packages)["transaction"] == {}
    for _ in range(2):
        staged = run("staged", **packages)
        assert (staged["changed"], staged["added"], staged["step"]["name"]) == (True, [new.filename], "stage")
        assert staged["url"].endswith(f"/snapshots/{staged['snapshot']['id']}/")
        assert staged["head"] == site.channel.head() != staged["snapshot"]["id"]
        assert run("dropped", check=True, transaction=staged["transaction"])["changed"]
        assert run("dropped", transaction=staged["transaction"])["changed"]
        assert not run("dropped", transaction=staged["transaction"])["changed"]

    staged = run("staged", **packages)
    proved = {"packages": staged["packages"], "transaction": staged["transaction"]}
    assert run("published", check=True, **proved)["changed"]
    done = run("published", **proved)
    assert (done["changed"], done["head"], done["added"]) == (True, staged["snapshot"]["id"], [new.filename])
    assert not run("published", **proved)["changed"]

    names = {"names": ["*-0.9.2-*"]}
    planned = run("removed", check=True, **names)
    assert (planned["changed"], planned["removed"]) == (True, [new.filename])
    assert planned["diff"] == {"before": f"{old.filename}\n{new.filename}\n", "after": f"{old.filename}\n"}
    assert planned["step"]["result"] == "stable: would be changed, 1 removed"
    assert run("removed", **names)["removed"] == [new.filename]
    assert not run("removed", **names)["changed"]

    assert run("rolled_back", check=True)["added"] == [new.filename]
    assert run("rolled_back", reason="it was well")["snapshot"]["reason"] == "it was well"

    keep = {"retention": {"versions": 1}}
    assert run("pruned", **keep, check=True)["removed"] == [old.filename]
    pruned = run("pruned", **keep)
    assert (pruned["removed"], len(pruned["pruned"]["snapshots"])) == ([old.filename], 4)
    assert not run("pruned", **keep)["changed"]

    verified = run("verified")
    assert (verified["changed"], verified["findings"]) == (False, [])
    (site.root / STABLE / "Packages" / new.filename).unlink()
    failed = run_module("repository_snapshot", repository_of(site) | {"state": "verified"})
    assert failed["failed"]
    assert any(new.filename in finding for finding in failed["findings"])


def test_a_hold_stops_releases_and_nothing_else(run_module, tmp_path):
    site = Site.make(tmp_path)
    old, new = site.package("0.9.1"), site.package("0.9.2")
    site.publish(old)
    given = repository_of(site)
    packages = {"packages": [new.to_dict()]}

    def run(state: str, **arguments: object):
        return run_module("repository_snapshot", given | {"state": state} | arguments)

    def hold(state: str, *, check: bool = False, **arguments: object):
        return run_module("release_hold", {"signer": given["signer"], "state": state} | arguments, check=check)

    staged = run("staged", **packages)
    assert hold("present")["msg"].startswith("a hold needs a reason")
    planned = hold("present", check=True, reason="0.9.2 answers nonsense")
    assert (planned["changed"], planned["held"]) == (True, True)
    assert hold("respected")["changed"] is False
    placed = hold("present", reason="0.9.2 answers nonsense")
    assert placed["changed"]
    assert not hold("present", reason="0.9.2 answers nonsense")["changed"]
    before = site.served()
    for refused in (
        hold("respected"),
        run("staged", **packages),
        run("published", transaction=staged["transaction"], **packages),
    ):
        assert refused["held"] is True
        assert f"by {placed['hold']['by']}: 0.9.2 answers nonsense" in refused["msg"]
        assert "make resume" in refused["msg"]
    assert site.served() == before
    # A dry run publishes nothing, and shows what a release would do.
    assert hold("respected", check=True)["changed"] is False
    assert run("removed", names=[old.filename], yank=True, reason="bad")["removed"] == [old.filename]
    assert hold("absent")["changed"]
    assert not hold("absent")["changed"]
    assert run("published", **packages)["added"] == [new.filename]


def test_repository_snapshot_requires_the_options_of_a_state_and_an_agent(run_module, tmp_path):
    site = Site.make(tmp_path)
    for state, needed in (("staged", "packages"), ("removed", "names"), ("dropped", "transaction")):
        failed = run_module("repository_snapshot", repository_of(site) | {"state": state})
        assert f"state is {state} but all of the following are missing: {needed}" in failed["msg"]
    repository = {"channel": "stable", "location": str(site.root / STABLE)}
    failed = run_module("repository_snapshot", repository_of(site) | {"state": "verified", "repository": repository})
    assert "the repository has no agent (stable). Set repository.agent" in failed["msg"]


def test_a_site_of_this_machine_that_somebody_deleted_is_made_later_in_the_run(run_module, tmp_path, comparison):
    site = Site.make(tmp_path)
    shutil.rmtree(site.root)
    compared = run_module("repository_packages", comparison(site))
    assert [row["name"] for row in compared["missing"]] == ["ada"], compared
    assert [(row["check"], row["fits"]) for row in compared["room"]] == [("room on the signer", True)]


def test_a_signer_whose_clock_is_ahead_is_found_before_the_build(run_module, tmp_path, comparison, monkeypatch):
    """Nothing that it signs can be installed; before, hours of building came first."""
    from ansible.module_utils.pipeline.channel.agent_client import AgentClient

    real, late = AgentClient._ask, 480
    monkeypatch.setattr(
        AgentClient,
        "_ask",
        lambda self, *words, **more: (row := real(self, *words, **more)) | {"time": row["time"] - late},
    )
    site = Site.make(tmp_path)
    site.publish(site.package())
    refused = run_module("repository_packages", comparison(site))
    assert re.search(r"clocks: found the signer's is 4[78]\d s ahead of the repo host's: .* UTC here", refused["msg"])
    assert "timedatectl" in refused["msg"]
    assert "Nothing was built" in refused["msg"]
    late = -480
    behind = run_module("repository_packages", comparison(site))
    assert [row["name"] for row in behind["missing"]] == ["ada"]


def test_an_agent_of_before_is_refused_before_the_build_and_renewed_on_this_machine(
    run_module, tmp_path, comparison, monkeypatch
):
    from ansible.module_utils.pipeline.channel.agent_client import AgentClient

    real = AgentClient._ask

    def ask(self, *words, **more):
        answer = real(self, *words, **more)
        return {name: answer[name] for name in answer if name not in ("time", "files")}

    monkeypatch.setattr(AgentClient, "_ask", ask)
    site = Site.make(tmp_path)
    site.publish(site.package())
    wanted = comparison(site)
    assert AgentClient(["/usr/bin/true"], "x").local
    assert not AgentClient(["ssh", "-F", "none"], "x").local
    monkeypatch.setattr(AgentClient, "local", True)
    assert [row["name"] for row in run_module("repository_packages", wanted)["missing"]] == ["ada"]
    monkeypatch.setattr(AgentClient, "local", False)
    refused = run_module("repository_packages", wanted)
    assert "clocks: found the agent sends no time: it is of an earlier version" in refused["msg"]
    assert "Run playbooks/repo_host.yml" in refused["msg"]
