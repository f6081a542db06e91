"""The commit of upstream that a run builds, and its files."""
