"""System tests: the built package in booted Debian systems."""
