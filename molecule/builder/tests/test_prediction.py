"""Check mode says on a bare host what converge then changes."""


def test_check_mode_predicts_what_converge_changes(records):
    records.assert_predicted()
