"""One build: its inputs, cargo and its processes, and the report of the cost."""
