"""Check mode said before what converge then did; a second run did nothing."""

# What is published hangs on a signing key that check mode does not make, and on hosts that do not serve yet.
AFTER_THE_KEY = [
    "Publish the release package in each channel that lacks it",
    "rpm_site : Put the package with the .repo files and keys where it always has the same URL",
]


def test_check_mode_predicts_what_converge_changes(records):
    records.assert_predicted(beside=AFTER_THE_KEY)


def test_a_second_run_changes_nothing(records):
    records.assert_second_run_changed_nothing()
