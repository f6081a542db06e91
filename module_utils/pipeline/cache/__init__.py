"""The compile cache during one build: its sccache server and the shared level."""
