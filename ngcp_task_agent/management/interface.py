"""The agent's interface on the bus: names, and what they carry."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

NAME = "com.sipwise.NgcpTaskAgent1"  # of the bus name, and of the interface
PATH = "/com/sipwise/NgcpTaskAgent1"

#: Errors besides those of D-Bus itself.
FAULTS = f"{NAME}.Error.Faults"  # the text has a line for each fault
FAILED = f"{NAME}.Error.Failed"
NO_SUCH_JOB = f"{NAME}.Error.NoSuchJob"
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"

#: A reload connects to servers, and a cancelled job gets time to end.
RELOAD_WITHIN = 60.0  # seconds
CANCEL_WITHIN = 30.0

#: What polkit can grant.
ACTION = "com.sipwise.ngcptaskagent1"
RELOAD, INSPECT, CANCEL = (
    f"{ACTION}.{right}" for right in ("reload", "inspect", "cancel")
)

TASKS_SIGNATURE = "a(ssssuus)"
JOBS_SIGNATURE = "a(sssssstu)"
#: By property.
SIGNATURES: Mapping[str, str] = {
    "Version": "s",
    "Node": "a{sv}",
    "Backends": "a(sss)",
    "Counters": "(a{st}a{sa{st}})",
}


class TaskState(NamedTuple):
    """A task, as ListTasks() returns it."""

    name: str
    backend: str
    channel: str
    broker: str
    running: int
    queued: int
    description: str


class JobState(NamedTuple):
    """A request that waits or runs, as ListJobs() returns it.

    :ivar state: ``running`` or ``queued``
    :ivar since: microseconds, unix time
    :ivar pid: 0 if there is no process
    """

    uuid: str
    task: str
    src: str
    backend: str
    channel: str
    state: str
    since: int
    pid: int


class BackendState(NamedTuple):
    """A backend, as the property Backends holds it.

    :ivar reason: empty if all is well
    """

    name: str
    state: str
    reason: str


class Counters(NamedTuple):
    """Requests since the start by outcome, and the same by task."""

    totals: Mapping[str, int]
    tasks: Mapping[str, Mapping[str, int]]


class AgentState(NamedTuple):
    """The properties of a running agent."""

    version: str
    node: Mapping[str, Any]
    backends: Tuple[BackendState, ...]
    counters: Counters


_PROPERTIES = "".join(
    f'    <property name="{name}" type="{signature}" access="read">\n'
    '      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal"'
    f' value="{changes}"/>\n'
    "    </property>\n"
    for name, signature, changes in (
        ("Version", SIGNATURES["Version"], "const"),
        ("Node", SIGNATURES["Node"], "true"),
        ("Backends", SIGNATURES["Backends"], "true"),
        ("Counters", SIGNATURES["Counters"], "false"),
    )
)

#: For org.freedesktop.DBus.Introspectable.
XML = f"""<!DOCTYPE node PUBLIC \
"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" name="machine_uuid" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg type="s" name="xml_data" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="out"/>
    </method>
    <method name="GetAll">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="a{{sv}}" name="properties" direction="out"/>
    </method>
    <method name="Set">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg type="s" name="interface_name"/>
      <arg type="a{{sv}}" name="changed_properties"/>
      <arg type="as" name="invalidated_properties"/>
    </signal>
  </interface>
  <interface name="{NAME}">
    <method name="Reload"/>
    <method name="ListTasks">
      <arg type="{TASKS_SIGNATURE}" name="tasks" direction="out"/>
    </method>
    <method name="ListJobs">
      <arg type="{JOBS_SIGNATURE}" name="jobs" direction="out"/>
    </method>
    <method name="Cancel">
      <arg type="s" name="uuid" direction="in"/>
    </method>
{_PROPERTIES}  </interface>
</node>
"""


def variant(name: str, value: Any) -> Any:
    """Make the variant of a property."""
    from dbus_fast.signature import Variant

    if name == "Node":
        kinds = {"aliases": "as", "roles": "as", "labels": "a{ss}"}
        value = {
            key: Variant(kinds.get(key, "s"), one)
            for key, one in value.items()
        }
    # Unchecked: that takes as long as all the rest.
    return Variant(SIGNATURES[name], value, False)


def variants(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Make the variants of some properties."""
    return {name: variant(name, value) for name, value in values.items()}


def plain_node(found: Mapping[str, Any]) -> Dict[str, Any]:
    """Take the values of the property Node out of their variants."""
    return {name: variant.value for name, variant in found.items()}


def rows(kind: Any, body: List[Any]) -> Tuple[Any, ...]:
    """Make named tuples of an array of structures."""
    return tuple(kind(*row) for row in body)
