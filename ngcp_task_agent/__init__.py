"""ngcp-task-agent: runs configured tasks for clients on a message bus."""

__version__ = "1.6.0"
