"""sshd lets the publishing account in, or the operator reads why not: real sshd, with drop-ins and Match blocks."""

from __future__ import annotations

import grp
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.agent_client import AgentClient
from pipeline.hosts.sshd_account import Account, check, faults, kinds_of, matches, matches_user, parse
from support.sshd import privilege_separation, sshd

NAME = "daemon"
"""An account that every system has, in a group of its own name."""
SIGNER = "192.0.2.7 50000 192.0.2.1 22"
OWN = "Match User daemon\n AuthorizedKeysFile {folder}/keys\nMatch all\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root reads sshd's configuration")


@pytest.fixture(scope="module")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    key = tmp_path_factory.mktemp("sshd") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with privilege_separation():
        yield key


@pytest.fixture
def folder(tmp_path: Path, host_key: Path) -> Path:
    """A host's sshd_config, which includes the drop-ins of a folder, and the role's own drop-in."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "keys").write_text(f'restrict,command="agent --as me" {host_key.with_suffix(".pub").read_text()}')
    main = f"Include {tmp_path}/conf.d/*.conf\nHostKey {host_key}\nUsePAM no\n"
    (tmp_path / "sshd_config").write_text(main)
    (tmp_path / "conf.d/01-mistralrs-publisher.conf").write_text(OWN.format(folder=tmp_path))
    return tmp_path


def refused(folder: Path, connection: str = SIGNER) -> PipelineError:
    with pytest.raises(PipelineError, match="sshd does not let daemon publish: ") as caught:
        check(NAME, folder / "keys", connection, folder / "sshd_config")
    return caught.value


def allowed(folder: Path, connection: str = SIGNER) -> None:
    check(NAME, folder / "keys", connection, folder / "sshd_config")


def drop_in(folder: Path, text: str) -> None:
    (folder / "conf.d/50-site.conf").write_text(text)


def test_without_restrictions_the_account_is_let_in(folder: Path) -> None:
    allowed(folder)
    allowed(folder, "")


def test_a_group_that_sshd_asks_for_is_named_with_its_remedy(folder: Path) -> None:
    drop_in(folder, "AllowGroups sshusers wheel\n")
    error = refused(folder)
    groups = ", ".join(Account.of(NAME, "").groups)
    assert f"AllowGroups lets in members of sshusers wheel alone, and its groups are {groups}" in error.what
    assert error.remedy.startswith("usermod --append --groups sshusers daemon (the role leaves the account in groups")
    assert error.where.endswith("user=daemon,host=192.0.2.7,addr=192.0.2.7,laddr=192.0.2.1,lport=22")
    drop_in(folder, f"AllowGroups sshusers {grp.getgrgid(1).gr_name[:3]}*\n")
    allowed(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("AllowUsers admin root", "AllowUsers lets in admin root alone, and it comes from 192.0.2.7"),
        ("AllowUsers daemon@10.0.0.0/8", "AllowUsers lets in daemon@10.0.0.0/8 alone, and it comes from 192.0.2.7"),
        ("DenyUsers dae*", "DenyUsers dae* shuts it out"),
        ("DenyGroups daemon", "DenyGroups shuts out the group daemon, and it is a member"),
        ("Match Address 192.0.2.0/24\n AllowUsers admin", "AllowUsers lets in admin alone"),
        ("Match LocalPort 22\n DenyUsers daemon", "DenyUsers daemon shuts it out"),
        ("Match Group daemon\n ForceCommand internal-sftp", "ForceCommand internal-sftp takes the place of the agent"),
        ("ChrootDirectory /srv/sftp", "ChrootDirectory /srv/sftp takes the place of the agent"),
        ("PubkeyAcceptedAlgorithms rsa-sha2-512", "has none for its keys of the kind ssh-ed25519"),
    ],
)
def test_everything_else_that_shuts_it_out_is_named(folder: Path, text: str, what: str) -> None:
    drop_in(folder, text + "\n")
    error = refused(folder)
    assert what in error.what
    assert error.remedy.endswith(". Then run this again")


@pytest.mark.parametrize(
    "text",
    [
        "AllowUsers admin daemon@192.0.2.0/24",
        "AllowUsers *@192.0.2.7",
        "Match Address 198.51.100.0/24\n DenyUsers daemon",
        "DenyUsers daemon@10.0.0.0/8",
    ],
)
def test_rules_for_other_addresses_do_not_count(folder: Path, text: str) -> None:
    drop_in(folder, text + "\n")
    allowed(folder)


def test_a_file_of_keys_that_sshd_does_not_read_is_named(folder: Path) -> None:
    (folder / "conf.d/00-earlier.conf").write_text("Match User daemon\n AuthorizedKeysFile /etc/other\nMatch all\n")
    drop_in(folder, "AllowUsers admin\n")
    error = refused(folder)
    assert f"it does not read {folder}/keys" in error.what
    assert "AllowUsers lets in admin alone" in error.what, "all faults are named at once"
    assert "Include /etc/ssh/sshd_config.d/*.conf" in error.remedy


def test_an_account_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(PipelineError, match="there is no such account"):
        check("nobody-of-this-name", folder / "keys", SIGNER, folder / "sshd_config")


def test_patterns_are_those_of_sshd() -> None:
    account = Account("gitea_ci", ("gitea_ci",), "192.0.2.7")
    assert [matches_user(p, account) for p in ("gitea_ci", "g*", "gitea?ci", "*@192.0.2.*", "gitea_ci@192.0.2.7")] == [
        True
    ] * 5
    assert not any(matches_user(p, account) for p in ("gitea", "[g]itea_ci", "*@2001:db8::/32", "gitea_ci@host"))
    assert matches("a.b", "a.b")
    assert not matches("a.b", "axb")


def test_the_newest_sshds_way_to_refuse_is_known() -> None:
    effective = parse("authorizedkeysfile /k\nRefuseConnection yes\n\nallowgroups a b\nallowgroups c\n")
    assert effective["allowgroups"] == ("a", "b", "c")
    found = faults(effective, Account("me", ("c",), "::1"), Path("/k"), ())
    assert [fault.what for fault in found] == ["RefuseConnection shuts it out"]


def test_kinds_of_keys() -> None:
    keys = 'restrict,command="x ssh-rsa" ssh-ed25519 AAAAC3 me\nssh-rsa AAAAB3\nsk-ssh-ed25519@openssh.com AAAAG\n'
    assert kinds_of(f"# a comment\n{keys}") == {"ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com"}
    rsa = parse("authorizedkeysfile /k\npubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-256\n")
    assert faults(rsa, Account("me", ("c",), "::1"), Path("/k"), {"ssh-rsa", "ssh-ed25519"}) == ()


# What the signer reads when sshd refuses it.


def error_of(agent: AgentClient) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        agent.head("stable")
    return caught.value


def test_a_publisher_that_sshd_shuts_out_reads_where_the_reason_is(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", SimpleNamespace(folder=tmp_path), more="AllowGroups sshusers\n") as host:
        error = error_of(host.publisher())
        assert error.what.startswith("the repo host's sshd refuses the publishing account: ")
        assert "Permission denied" in error.what
        assert "playbooks/repo_host.yml" in error.remedy
        assert "AllowGroups" in error.remedy
        assert "User root from 127.0.0.1 not allowed because" in host.log

        known = tmp_path / "sshd/known_hosts"
        known.write_text(f"repo {(tmp_path / 'sshd/key.pub').read_text()}")
        error = error_of(host.publisher())
        assert error.what.startswith("the repo host has another ssh key than the known one: ")
        assert "pins its key" in error.remedy
    error = error_of(host.publisher())
    assert error.what.startswith("the repo host is not reached: ")
    assert "Connection refused" in error.what
    assert error.remedy.startswith("Check that it is up")
