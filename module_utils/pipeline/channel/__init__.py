"""Read, change and publish a repository."""
