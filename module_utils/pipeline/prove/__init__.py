"""A throw-away client installs a package and runs it."""
