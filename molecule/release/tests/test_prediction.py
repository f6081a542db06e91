"""On bare hosts check mode predicts what converge then changes; a second converge changes nothing."""

# On bare hosts there is neither a key nor a channel to read: check mode cannot predict the release.
NOT_PREDICTED = {
    "Publish the release package in each channel that lacks it",
    "rpm_site : Copy the package to its fixed URL",
    "Build", "Package", "Hand the artifact over", "Sign", "Stage as one snapshot", "Publish",
    "Make the verifier's folder", "Copy the trusted keys", "Install, start and remove the packages",
}  # fmt: skip


def test_check_mode_predicts_what_converge_changes(records):
    records.assert_predicted(beside=NOT_PREDICTED)


def test_a_second_run_changes_nothing(records):
    records.assert_second_run_changed_nothing()
