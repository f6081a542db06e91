"""Which commit of upstream a run is about, and its files."""
