"""Room for a release on the hosts after the builder, compared with the expected packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base.records import Flavour, Package
from pipeline.plan.room import FILES, FLOOR, Room, expected, free, in_client, memory, on_repo_host, on_signer

ADA, BLACKWELL = Flavour("ada", "RTX 40", "8.9"), Flavour("blackwell", "RTX 50", "12.0")
MIB = 1 << 20
SIZES = {"mistralrs-ada": 100 * MIB, "mistralrs-blackwell": 120 * MIB}


def package(name: str, size: int, commit: str = "a" * 40) -> Package:
    return Package(name, "0.9.2", "1.fc43", "x86_64", commit, "", "0" * 64, size)


@pytest.mark.parametrize(
    ("published", "sizes"),
    [
        ([], [0, 0]),
        ([package("mistralrs-ada", 90), package("mistralrs-ada", 100), package("mistralrs-ada", 80)], [100, 100]),
        ([package("mistralrs-ada", 100), package("mistralrs-blackwell", 120)], [100, 120]),
        ([package("mistralrs-release", 9, ""), package("mistralrs-cpu", 70)], [70, 70]),
    ],
)
def test_a_package_is_expected_to_be_as_large_as_published_ones(published: list[Package], sizes: list[int]) -> None:
    assert list(expected([ADA, BLACKWELL], published).values()) == sizes


@pytest.mark.parametrize(
    ("room", "sizes", "found", "needed"),
    [
        (Room(0), {}, "0 bytes", "16,777,216 bytes"),
        (
            Room(219 * MIB, 10**6),
            SIZES,
            "229,638,144 bytes",
            "230,686,720 bytes for mistralrs-ada, mistralrs-blackwell, by the sizes of published packages",
        ),
        (Room(300 * MIB, 12), SIZES, "12 free inodes", "2,000"),
    ],
)
def test_too_little_room_on_the_repo_host_is_named_in_figures(
    room: Room, sizes: dict[str, int], found: str, needed: str
) -> None:
    finding = on_repo_host(room, sizes, "gitea_ci@repo")
    assert (finding.fits, finding.check, finding.found, finding.needed) == (
        False,
        "room on the repo host",
        found,
        needed,
    )
    assert finding.remedy.startswith("Free space on gitea_ci@repo: make prune removes what retention does not keep")


def test_enough_room_fits() -> None:
    assert on_repo_host(Room(220 * MIB), SIZES, "repo").fits
    assert on_repo_host(Room(220 * MIB, FILES), SIZES, "repo").fits
    assert on_repo_host(Room(FLOOR), {"mistralrs-ada": 0}, "repo").fits


def test_the_signer_unpacks_and_the_client_is_in_memory() -> None:
    needed = 220 * 11 + 120 * 4
    assert on_signer(Room(needed * MIB, FILES), SIZES, "/srv").fits
    assert "/srv" in on_signer(Room(needed * MIB - 1, FILES), SIZES, "/srv").remedy
    assert in_client(Room(1100 * MIB), SIZES).fits
    assert in_client(Room(1100 * MIB - 1), SIZES).check == "memory for the proof"


def test_the_room_of_this_host_is_read(tmp_path: Path) -> None:
    assert free(tmp_path / "not/yet/there").bytes > 0
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  700 kB\nHugePages_Total:  0\n")
    assert memory(info) == Room(500 << 10)
