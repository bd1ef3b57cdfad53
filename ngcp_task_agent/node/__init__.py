"""This node: its names, roles, state, status and labels."""
