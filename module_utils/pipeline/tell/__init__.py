"""What people read of a run: its rows, its failures, its end."""
