"""Which builder builds what: the same each time, fair, and what a lost builder had goes to another."""

from __future__ import annotations

import hashlib

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package
from pipeline.plan.spread import Builder, Told, spread, verified

TABLE = ["ampere", "ada", "blackwell"]
FORGE, ANVIL = Builder("forge"), Builder("anvil")


def test_one_builder_has_all_in_the_tables_order():
    found = spread(TABLE, [FORGE], TABLE)
    assert found.shares == {"forge": ("ampere", "ada", "blackwell")}
    assert (found.missing, found.lost) == ((), ())


@pytest.mark.parametrize(
    ("builders", "wanted", "shares"),
    [
        pytest.param([FORGE, ANVIL], TABLE, {"forge": ("ampere", "blackwell"), "anvil": ("ada",)}, id="in turn"),
        pytest.param([FORGE, ANVIL], ["ada"], {"anvil": ("ada",)}, id="one alone goes home, where its target is warm"),
        pytest.param(
            [FORGE, ANVIL], ["ampere", "blackwell"], {"forge": ("ampere",), "anvil": ("blackwell",)},
            id="two of one home are shared all the same",
        ),
        pytest.param(
            [FORGE, Builder("anvil", flavours=("ada",))], ["ada", "blackwell"],
            {"anvil": ("ada",), "forge": ("blackwell",)}, id="who may build little is given it",
        ),
        pytest.param(
            [Builder("forge", weight=3), ANVIL], TABLE, {"forge": tuple(TABLE)}, id="a fast one has more"
        ),
        pytest.param([Builder("forge", there=False), ANVIL], TABLE, {"anvil": tuple(TABLE)}, id="one is down"),
        pytest.param([Builder("forge", asked=False), ANVIL], TABLE, {"anvil": tuple(TABLE)}, id="one has no part"),
    ],
)  # fmt: skip
def test_shares(builders, wanted, shares):
    assert spread(wanted, builders, TABLE).shares == shares
    assert spread(wanted, builders, TABLE).missing == ()
    assert spread(wanted, builders, TABLE).lost == tuple(b.name for b in builders if not b.there)


def test_what_a_lost_builder_left_goes_to_one_that_is_there_and_what_it_built_counts():
    given = {"forge": ["ampere", "blackwell"], "anvil": ["ada"]}
    builders = [Builder("forge", settled=("ampere",)), Builder("anvil", settled=("ada",))]
    found = spread(TABLE, builders, TABLE, given=given)
    assert found.lost == ("forge",)
    assert found.shares == {"anvil": ("blackwell",)}
    assert found.told == "forge is lost; blackwell by anvil"
    again = spread(TABLE, [builders[0], Builder("anvil", settled=("ada", "blackwell"))], TABLE,
                   given=found.shares, lost=found.lost)  # fmt: skip
    assert (again.shares, again.missing, again.lost) == ({}, (), ("forge",))


def test_a_compile_error_is_not_tried_elsewhere():
    told = Told("ada", "ada (task Build): the build failed")
    builders = [FORGE, Builder("anvil", settled=("ada",), failed=(told,))]
    found = spread(["ada"], builders, TABLE, given={"anvil": ["ada"]})
    assert (found.shares, found.missing, found.lost) == ({}, (told,), ())


def test_what_a_check_found_hands_the_flavour_on_until_nobody_is_left():
    full = Told("ada", "ada (task Check the builder): the disk is full")
    anvil = Builder("anvil", handed_on=(full,))
    found = spread(["ada"], [FORGE, anvil], TABLE, given={"anvil": ["ada"]})
    assert (found.shares, found.lost) == ({"forge": ("ada",)}, ())
    found = spread(["ada"], [Builder("forge", handed_on=(full,)), anvil], TABLE, given={"forge": ["ada"]})
    assert found.shares == {}
    (missing,) = found.missing
    assert missing.told == f"{full.told} [forge]; {full.told} [anvil]"


def test_after_the_last_round_what_nobody_built_is_missing():
    full = Told("ada", "ada (task Check the builder): the disk is full")
    builders = [Builder("forge", handed_on=(full,)), Builder("anvil", handed_on=(full,)), Builder("tongs")]
    assert spread(["ada"], builders, TABLE, given={"anvil": ["ada"]}).shares == {"tongs": ("ada",)}
    found = spread(["ada"], builders, TABLE, given={"anvil": ["ada"]}, last=True)
    assert found.shares == {}
    (missing,) = found.missing
    assert missing.told == "ada: tongs could build it, and no round is left for that: run again"


def test_with_nobody_left_it_says_who_could_not():
    builders = [Builder("forge", there=False), Builder("anvil", flavours=("ada",))]
    (missing,) = spread(["ampere"], builders, TABLE).missing
    assert missing.told == "ampere: forge is lost; ampere: anvil may not build it (builder_flavours)"


def test_a_flavour_that_no_table_has_is_refused():
    with pytest.raises(PipelineError, match=r"there is no flavour hopper .*Choose of: ampere, ada, blackwell"):
        spread(TABLE, [Builder("forge", flavours=("hopper",))], TABLE)


def test_a_package_that_is_not_what_its_builder_told_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "mistralrs-ada.rpm"
    file.write_bytes(b"a package")
    digest = hashlib.sha256(b"a package").hexdigest()
    package = Package("mistralrs-ada", "0.9.2", "1.fc43", "x86_64", "c0ffee", str(file), digest, 9)
    builders = [FORGE, Builder("anvil", packaged=(package,))]
    assert verified(builders) == (package,)
    file.write_bytes(b"another")
    with pytest.raises(PipelineError, match="the package that anvil made is not the one that arrived"):
        verified(builders)
    file.unlink()
    with pytest.raises(PipelineError, match="here is no file"):
        verified(builders)
