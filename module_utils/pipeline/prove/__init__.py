"""The proof: a throw-away client installs a package and runs it."""
