"""From an artifact to an RPM."""
