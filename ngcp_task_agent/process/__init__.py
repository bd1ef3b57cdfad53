"""Processes: the one place that starts and ends them."""
