"""The compile cache: sccache for the time of one build, and its shared level."""
