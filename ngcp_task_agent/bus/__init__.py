"""The system bus: a connection for the agent and for those who manage it."""

from ngcp_task_agent.deferred import defer

# Its __init__.py also loads GLib, where that is installed.  So import its
# names from its modules, such as dbus_fast.message.
defer("dbus_fast")
