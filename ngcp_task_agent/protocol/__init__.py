"""The wire: messages, destinations and patterns."""
