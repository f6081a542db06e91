"""The channels' repositories, and their .repo files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Ansible finds module_utils for modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))


def repositories(channels: Mapping[str, Mapping[str, Any]], location: str, agent: Mapping[str, Any]) -> dict[str, Any]:
    """The modules' option ``repository`` for each row of the table of channels, by the channel's name.

    ``location`` is the folder or URL above the rows' paths, ``agent`` the way to the agent.
    """
    return {
        name: {"channel": name, "location": f"{location}/{row['path']}", "agent": agent}
        for name, row in channels.items()
    }


def repo_file(row: Mapping[str, Any], channel: str, url: str, *, enabled: bool = True) -> str:
    """The .repo file of a row of the table of channels."""
    from pipeline.channel.repo_file import ChannelRow

    return ChannelRow.of(channel, row).repo_file(url, enabled=enabled)


class FilterModule:
    """Used as ``channels | repositories(location, agent)`` and ``row | repo_file(channel, url)``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"repositories": repositories, "repo_file": repo_file}
