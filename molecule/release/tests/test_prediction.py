"""Check mode says on bare hosts what converge then changes."""


def test_check_mode_predicts_what_converge_changes(records):
    # On bare hosts there is neither a key nor a channel to look into: what is released, and how, is not predicted.
    records.assert_predicted(
        beside={
            "Publish the release package in each channel that lacks it",
            "rpm_site : Put the package with the .repo files and keys where it always has the same URL",
            "Build", "Package", "Bring the package to the signer", "Sign", "Stage as one snapshot", "Publish",
            "Make the verifier's folder", "Bring the trusted key", "Install, start and remove the packages",
        }
    )  # fmt: skip
