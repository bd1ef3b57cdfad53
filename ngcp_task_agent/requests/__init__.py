"""Requests: the checks in their order, then the one ending."""
