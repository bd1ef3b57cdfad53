"""A real Debian: the built package in booted systems."""
