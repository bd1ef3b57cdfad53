"""Management over the bus.

The package is imported first: it lets dbus-fast load without GLib.
"""

import ngcp_task_agent.bus  # noqa: F401
