"""Whether a host's sshd lets an account log in with its keys and run their forced commands.

Rules:

1. ``sshd -T -C`` is the one source: sshd itself has read every drop-in and Match block for this account, coming from
   this address. No file is read here.
2. An account is let in as in sshd's ``allowed_user`` (auth.c; sshd_config(5), AllowGroups): DenyUsers, AllowUsers,
   DenyGroups, AllowGroups, in that order. A pattern of a user may end with @ and a host or network.
3. A key is of no use if sshd does not read its file or does not accept its algorithm, nor is its forced command if sshd
   has another for the account.
4. PAM is not asked: pam_access or an expired account can still refuse. The first use of the key shows that.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.run import run

SSHD = "/usr/sbin/sshd"

ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""The algorithms that a kind of key signs with, where they have other names."""


@dataclass(frozen=True)
class Account:
    """An account with all its groups, and the address from which it logs in."""

    name: str
    groups: tuple[str, ...]
    address: str

    @classmethod
    def of(cls, name: str, address: str) -> Account:
        """An account of this host; PipelineError if there is none."""
        try:
            found = pwd.getpwnam(name)
        except KeyError as error:
            raise PipelineError("there is no such account", name, "Run the role publisher: it creates it") from error
        groups = []
        for number in os.getgrouplist(name, found.pw_gid):
            try:
                groups.append(grp.getgrgid(number).gr_name)
            except KeyError:  # a group without a name: sshd ignores it too
                continue
        return cls(name, tuple(groups), address)


@dataclass(frozen=True)
class Fault:
    """Why the account cannot publish, and what the operator does about it."""

    what: str
    remedy: str


def check(name: str, keys: Path, connection: str = "", config: Path | None = None) -> None:
    """Check that sshd lets the account in with the keys of the file ``keys``. PipelineError names all that is wrong.

    ``connection`` is SSH_CONNECTION of a session that came the same way, by default one from this host. ``config``
    replaces sshd's configuration. Requires root.
    """
    address, _, local, port = (connection.split() + [""] * 4)[:4] if connection else ("127.0.0.1", "", "", "")
    account = Account.of(name, address)
    facts = {"user": name, "host": address, "addr": address, "laddr": local, "lport": port}
    words = [SSHD, "-T", *(["-f", str(config)] if config else [])]
    words += ["-C", ",".join(f"{key}={value}" for key, value in facts.items() if value)]
    found = faults(parse(run(words, timeout=30).stdout), account, keys, kinds_of(keys.read_text()))
    if found:
        raise PipelineError(
            f"sshd does not let {name} publish: {'; '.join(fault.what for fault in found)}",
            " ".join(words),
            f"{'; '.join(fault.remedy for fault in found)}. Then run this again",
        )


def parse(effective: str) -> dict[str, tuple[str, ...]]:
    """The output of ``sshd -T``: the words of each keyword, in lower case; lists have a line for each entry."""
    found: dict[str, tuple[str, ...]] = {}
    for line in filter(str.strip, effective.splitlines()):
        keyword, *words = line.split()
        found[keyword.lower()] = (*found.get(keyword.lower(), ()), *words)
    return found


def kinds_of(keys: str) -> set[str]:
    """The kinds of the keys in a file like authorized_keys."""
    pattern = r"^(?:.*[ \t,])?((?:sk-)?(?:ssh|ecdsa)-[a-z0-9-]+(?:@openssh\.com)?) AAAA"
    return set(re.findall(pattern, keys, re.MULTILINE))


def faults(
    effective: Mapping[str, tuple[str, ...]], account: Account, keys: Path, kinds: Iterable[str]
) -> tuple[Fault, ...]:
    """All that keeps the account from its forced command, by sshd's effective configuration for it."""
    return (*_of_access(effective, account), *_of_use(effective, account.name, keys, kinds))


def _of_access(effective: Mapping[str, tuple[str, ...]], account: Account) -> Iterable[Fault]:
    name, mine = account.name, ", ".join(account.groups)
    denied, allowed = effective.get("denyusers", ()), effective.get("allowusers", ())
    if hits := [pattern for pattern in denied if matches_user(pattern, account)]:
        yield Fault(f"DenyUsers {' '.join(hits)} shuts it out", "Change DenyUsers in sshd's configuration")
    if allowed and not any(matches_user(pattern, account) for pattern in allowed):
        yield Fault(
            f"AllowUsers lets in {' '.join(allowed)} alone, and it comes from {account.address}",
            f"Add {name} to AllowUsers in sshd's configuration",
        )
    shut, open_ = effective.get("denygroups", ()), effective.get("allowgroups", ())
    if hits := [group for group in account.groups if any(matches(pattern, group) for pattern in shut)]:
        yield Fault(
            f"DenyGroups shuts out the group {', '.join(hits)}, and it is a member",
            f"Take {name} out of that group, or change DenyGroups in sshd's configuration",
        )
    if open_ and not any(matches(pattern, group) for pattern in open_ for group in account.groups):
        yield Fault(
            f"AllowGroups lets in members of {' '.join(open_)} alone, and its groups are {mine}",
            f"usermod --append --groups {open_[0]} {name} (the role leaves the account in groups that you give it)",
        )


def _of_use(effective: Mapping[str, tuple[str, ...]], name: str, keys: Path, kinds: Iterable[str]) -> Iterable[Fault]:
    if str(keys) not in effective.get("authorizedkeysfile", ()):
        yield Fault(
            f"it does not read {keys}: its main file includes no drop-ins, or an earlier file has a Match block for it",
            "Let /etc/ssh/sshd_config begin with: Include /etc/ssh/sshd_config.d/*.conf",
        )
    for keyword, spelling in (("forcecommand", "ForceCommand"), ("chrootdirectory", "ChrootDirectory")):
        if (words := effective.get(keyword, ("none",))) != ("none",):
            yield Fault(
                f"{spelling} {' '.join(words)} takes the place of the agent",
                f"Except {name} from {spelling} in sshd's configuration (Match User *,!{name})",
            )
    if effective.get("refuseconnection") == ("yes",):
        yield Fault("RefuseConnection shuts it out", "Change RefuseConnection in sshd's configuration")
    accepted = {word for words in effective.get("pubkeyacceptedalgorithms", ()) for word in words.split(",")}
    if accepted and (useless := [kind for kind in sorted(kinds) if not accepted & {*ALGORITHMS.get(kind, (kind,))}]):
        yield Fault(
            f"PubkeyAcceptedAlgorithms has none for its keys of the kind {', '.join(useless)}",
            "Accept that kind in sshd's configuration, or put a key of another kind into publisher_keys",
        )


def matches_user(pattern: str, account: Account) -> bool:
    """Whether a pattern of AllowUsers or DenyUsers is for the account (match.c, match_user)."""
    user, at, host = pattern.rpartition("@")
    if not at:
        return matches(pattern, account.name)
    return matches(user, account.name) and _matches_address(host, account.address)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of ssh_config(5), PATTERNS, is for the text: of a shell's, only * and ? have a meaning."""
    shape = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(shape, text, re.DOTALL) is not None


def _matches_address(pattern: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(pattern)
    except ValueError:
        return matches(pattern, address)
