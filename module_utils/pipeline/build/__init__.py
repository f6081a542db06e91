"""One build: its inputs, its trust, the sandbox in which cargo runs, and taking over what that leaves."""
