"""Logs: the records of the journal, and the handlers that write them."""
