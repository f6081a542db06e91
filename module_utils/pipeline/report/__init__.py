"""What a build cost: its report as data and as a page, and the comparison with the build before it."""
