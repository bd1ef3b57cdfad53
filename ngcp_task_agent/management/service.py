"""Service: the agent's side of the interface on the bus.

No ServiceInterface of dbus-fast: it hides the caller, and reads all
properties before anybody has asked.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Counter,
    Dict,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from ngcp_task_agent import __version__
from ngcp_task_agent.bus.bus import Bus, BusUser
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.config.models import Place, TaskConfig
from ngcp_task_agent.errors import BusAway, BusError, CannotReload
from ngcp_task_agent.logs import journal
from ngcp_task_agent.management import interface
from ngcp_task_agent.management.callers import Callers, Who, too_many
from ngcp_task_agent.management.own_name import OwnName
from ngcp_task_agent.process.users import ask_name
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.counters import Counters
from ngcp_task_agent.requests.jobs import Jobs

if TYPE_CHECKING:
    from dbus_fast.message import Message

T = TypeVar("T")

# Errors of D-Bus.
_ERROR = "org.freedesktop.DBus.Error"
_INVALID = f"{_ERROR}.InvalidArgs"
_UNKNOWN_OBJECT = f"{_ERROR}.UnknownObject"
_UNKNOWN_INTERFACE = f"{_ERROR}.UnknownInterface"
_UNKNOWN_METHOD = f"{_ERROR}.UnknownMethod"
_UNKNOWN_PROPERTY = f"{_ERROR}.UnknownProperty"
_READ_ONLY = f"{_ERROR}.PropertyReadOnly"

_PEER = "org.freedesktop.DBus.Peer"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_PROPERTIES = "org.freedesktop.DBus.Properties"

_LONGEST_WORD = 255  # bytes of an argument
_MOST_REFUSALS = 256  # to be sent; further callers get no reply
_BURST = 200  # rows to make in a row
_LEAVE_WITHIN = 1.0  # seconds for the last replies
_MACHINE_ID = Path("/etc/machine-id")

# The objects above, for those who look for it.
_ABOVE = {"/": "com", "/com": "sipwise", "/com/sipwise": "NgcpTaskAgent1"}


class Managed(Protocol):
    """What is managed: the state of the agent."""

    jobs: Jobs

    @property
    def counters(self) -> Counters: ...

    @property
    def tasks(self) -> Sequence[TaskConfig]: ...

    @property
    def backends(self) -> Sequence[Tuple[str, str, str]]:
        """Name, state, and why it does not work; sorted."""

    def identity(self) -> Identity: ...


class _Call(NamedTuple):
    """A method call, without what could be large in it."""

    sender: str
    serial: int
    path: str
    interface: str
    member: str
    signature: str
    words: Sequence[str]
    uid: int = -1


class _Method(NamedTuple):
    takes: str
    returns: str
    action: str
    answer: Callable[[_Call], Awaitable[Sequence[Any]]]


class Service(BusUser):
    """Owns the name on the bus, and answers calls.

    :param reload: reloads, and returns the faults
    """

    def __init__(
        self,
        bus: Bus,
        managed: Managed,
        reload: Callable[[], Awaitable[Sequence[object]]],
    ) -> None:
        self._bus = bus
        self._managed = managed
        self._reload = reload
        self._name = OwnName()
        self._callers: Optional[Callers] = None  # on the bus, if it is there
        self._shown: Dict[str, Any] = {}  # by property, as last signalled
        self._under_way: Set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._methods = self._table()

    async def start(self) -> None:
        await self._bus.join(self)

    async def stop(self) -> None:
        """Send the last replies, and leave the bus."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=_LEAVE_WITHIN)
        self._callers = None
        self._name.is_leaving = True
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._bus.stop()

    # The connection.

    async def connected(self, connection: Connection) -> None:
        # A restarted bus gives the names of connections to others.
        self._callers = Callers(connection)
        self._shown = self._state()
        await self._name.request(connection)

    def away(self, why: str) -> None:
        self._callers = None
        self._name.lose(why)

    def poll(self) -> None:
        """Send signals of what has changed; never waits."""
        if not self._callers:
            return
        connection = self._callers.connection
        if not self._name.is_owned:
            if self._name.is_due():
                self._start(self._request_again(connection))
            return
        now = self._state()
        changed = {n: v for n, v in now.items() if v != self._shown[n]}
        if changed:
            self._shown = now
            self._start(self._signal(connection, changed))

    async def _request_again(self, connection: Connection) -> None:
        with contextlib.suppress(BusAway, BusError):
            await self._name.request(connection)

    async def _signal(
        self, connection: Connection, changed: Mapping[str, Any]
    ) -> None:
        from dbus_fast.constants import MessageType
        from dbus_fast.message import Message

        values = interface.variants(changed)
        with contextlib.suppress(BusAway):
            await connection.send(
                Message(
                    path=interface.PATH,
                    interface=_PROPERTIES,
                    member="PropertiesChanged",
                    message_type=MessageType.SIGNAL,
                    signature="sa{sv}as",
                    body=[interface.NAME, values, []],
                )
            )

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    # Calls.

    def take(self, message: Message) -> bool:
        kind = message.message_type.name
        if kind == "SIGNAL":
            return self._name.take(message)
        if kind != "METHOD_CALL":
            return False
        callers = self._callers
        if not callers:
            return True
        who = callers.who(message.sender or "")
        if callers.has_room(who):
            callers.enter(who)
            self._start(self._handle(callers, _read(message), who))
        elif self._refusals < _MOST_REFUSALS:
            self._refusals += 1
            self._start(self._refuse(callers.connection, _read(message)))
        return True

    async def _refuse(self, connection: Connection, call: _Call) -> None:
        try:
            await _send_error(connection, call, too_many())
        finally:
            self._refusals -= 1

    async def _handle(self, callers: Callers, call: _Call, who: Who) -> None:
        connection = callers.connection
        try:
            returns, body = await self._check(callers, call, who)
        except BusError as error:
            await _send_error(connection, call, error)
        except BusAway:
            pass  # and with it the caller
        except Exception:
            journal.record(
                journal.BUG, "a call over the bus failed: a bug", bug=True
            )
            text = "the agent has failed; see its journal"
            await _send_error(
                connection, call, BusError(interface.FAILED, text)
            )
        else:
            await _send_reply(connection, call, returns, body)

    async def _check(
        self, callers: Callers, call: _Call, who: Who
    ) -> Tuple[str, Sequence[Any]]:
        """Check the caller, then do what it wants.

        :param who: who has entered
        :returns: the signature and the body of the reply
        :raises BusError: to be returned
        """
        try:
            uid = await callers.uid(call.sender)
            if uid != who:
                callers.leave(who)
                who = uid
                has_room = callers.has_room(who)
                callers.enter(who)
                if not has_room:
                    raise too_many()
            method = self._methods.get((call.interface, call.member))
            action = method.action if method else interface.INSPECT
            await callers.check(call.sender, uid, action)
            return await self._answer(method, call._replace(uid=uid))
        finally:
            callers.leave(who)

    async def _answer(
        self, method: Optional[_Method], call: _Call
    ) -> Tuple[str, Sequence[Any]]:
        if call.path in _ABOVE and call.interface == _INTROSPECTABLE:
            child = _ABOVE[call.path]
            return "s", [f'<node><node name="{child}"/></node>']
        if call.path != interface.PATH:
            raise BusError(_UNKNOWN_OBJECT, f"the object is {interface.PATH}")
        if not method:
            raise self._unknown(call)
        if call.signature != method.takes:
            raise BusError(
                _INVALID,
                f"{call.member} takes '{method.takes}', "
                f"not '{call.signature}'",
            )
        return method.returns, await method.answer(call)

    def _unknown(self, call: _Call) -> BusError:
        known = {name for name, _ in self._methods}
        if call.interface not in known:
            return BusError(
                _UNKNOWN_INTERFACE,
                f"there is no interface '{call.interface}' here",
            )
        return BusError(
            _UNKNOWN_METHOD,
            f"{call.interface} has no method '{call.member}'",
        )

    def _table(self) -> Dict[Tuple[str, str], _Method]:
        inspect = interface.INSPECT
        own, tasks, jobs = (
            interface.NAME,
            interface.TASKS_SIGNATURE,
            interface.JOBS_SIGNATURE,
        )
        return {
            (_PEER, "Ping"): _Method("", "", inspect, _ping),
            (_PEER, "GetMachineId"): _Method("", "s", inspect, _machine_id),
            (_INTROSPECTABLE, "Introspect"): _Method(
                "", "s", inspect, _introspect
            ),
            (_PROPERTIES, "Get"): _Method("ss", "v", inspect, self._get),
            (_PROPERTIES, "GetAll"): _Method(
                "s", "a{sv}", inspect, self._get_all
            ),
            (_PROPERTIES, "Set"): _Method("ssv", "", inspect, _set),
            (own, "Reload"): _Method(
                "", "", interface.RELOAD, self._do_reload
            ),
            (own, "ListTasks"): _Method("", tasks, inspect, self._list_tasks),
            (own, "ListJobs"): _Method("", jobs, inspect, self._list_jobs),
            (own, "Cancel"): _Method("s", "", interface.CANCEL, self._cancel),
        }

    async def _do_reload(self, call: _Call) -> Sequence[Any]:
        try:
            faults = await self._reload()
        except CannotReload as error:
            raise BusError(interface.FAILED, str(error)) from None
        if faults:
            raise BusError(interface.FAULTS, "\n".join(map(str, faults)))
        return []

    async def _list_tasks(self, call: _Call) -> Sequence[Any]:
        running: Counter[Place] = collections.Counter()
        queued: Counter[Place] = collections.Counter()
        async for job in _paced([*self._managed.jobs]):
            (running if job.is_running else queued)[job.place] += 1
        rows = [
            interface.TaskState(
                task.name,
                task.backend,
                task.channel,
                task.broker,
                running[task.place],
                queued[task.place],
                task.description,
            )
            async for task in _paced(self._managed.tasks)
        ]
        return [rows]

    async def _list_jobs(self, call: _Call) -> Sequence[Any]:
        rows = []
        async for job in _paced([*self._managed.jobs]):
            backend, channel, task = job.place
            rows.append(
                interface.JobState(
                    job.request.uuid,
                    task,
                    job.request.src,
                    backend,
                    channel,
                    job.state,
                    int(job.began * 1e6),
                    job.pid or 0,
                )
            )
        return [rows]

    async def _cancel(self, call: _Call) -> Sequence[Any]:
        (uuid,) = call.words
        jobs = self._managed.jobs
        if not jobs.find(uuid):
            raise BusError(
                interface.NO_SUCH_JOB,
                f"no request '{uuid}' waits or runs here",
            )
        by = await ask_name(call.uid)
        if not await jobs.cancel(jobs.find(uuid), by):
            raise BusError(
                interface.FAILED,
                f"the work for request '{uuid}' does not end: its broker "
                "ignores that it was cancelled",
            )
        return []

    # Properties.

    def _state(self) -> Dict[str, Any]:
        """Return the properties that are signalled."""
        return {
            "Node": self._managed.identity().described(),
            "Backends": list(self._managed.backends),
        }

    async def _property(self, name: str) -> Any:
        """Return a property's value, as a Variant."""
        if name == "Version":
            return interface.variant(name, __version__)
        if name == "Counters":
            counters = self._managed.counters
            by_task = {
                name: counted
                async for name, counted in _paced(counters.by_task())
            }
            return interface.variant(name, [counters.totals(), by_task])
        return interface.variant(name, self._state()[name])

    async def _get(self, call: _Call) -> Sequence[Any]:
        name, wanted = call.words
        _check_interface(name)
        if wanted not in interface.SIGNATURES:
            raise BusError(
                _UNKNOWN_PROPERTY, f"there is no property '{wanted}'"
            )
        return [await self._property(wanted)]

    async def _get_all(self, call: _Call) -> Sequence[Any]:
        (name,) = call.words
        _check_interface(name)
        return [{n: await self._property(n) for n in interface.SIGNATURES}]


async def _paced(items: Iterable[T]) -> AsyncIterator[T]:
    """Return items, which stay the same, and leave time for others."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _BURST == 0:
            await asyncio.sleep(0)


async def _ping(call: _Call) -> Sequence[Any]:
    return []


async def _machine_id(call: _Call) -> Sequence[Any]:
    try:
        text = await asyncio.to_thread(_MACHINE_ID.read_text)
    except OSError as error:
        raise BusError(
            interface.FAILED, f"{_MACHINE_ID}: {error.strerror}"
        ) from None
    return [text.strip()]


async def _introspect(call: _Call) -> Sequence[Any]:
    return [interface.XML]


async def _set(call: _Call) -> Sequence[Any]:
    raise BusError(_READ_ONLY, "all properties are read-only")


def _read(message: Message) -> _Call:
    words = [word for word in message.body if isinstance(word, str)]
    path, wanted = message.path or "", message.interface or ""
    is_known = path == interface.PATH or path in _ABOVE
    # The bus itself bounds the other names.
    are_short = all(len(word) <= _LONGEST_WORD for word in words)
    return _Call(
        message.sender or "",
        message.serial,
        path if is_known else "",
        wanted,
        message.member or "",
        (message.signature or "") if are_short else "words that are too long",
        words if are_short else (),
    )


async def _send_reply(
    connection: Connection, call: _Call, signature: str, body: Sequence[Any]
) -> None:
    await _send(
        connection, call, "METHOD_RETURN", signature=signature, body=list(body)
    )


async def _send_error(
    connection: Connection, call: _Call, error: BusError
) -> None:
    await _send(
        *(connection, call, "ERROR"),
        error_name=error.name,
        signature="s",
        body=[str(error)],
    )


async def _send(
    connection: Connection, call: _Call, kind: str, **fields: Any
) -> None:
    from dbus_fast.constants import MessageType
    from dbus_fast.message import Message

    with contextlib.suppress(BusAway):
        await connection.send(
            Message(
                destination=call.sender,
                message_type=MessageType[kind],
                reply_serial=call.serial,
                **fields,
            )
        )


def _check_interface(name: str) -> None:
    # D-Bus allows an empty one.
    if name and name != interface.NAME:
        raise BusError(_UNKNOWN_INTERFACE, f"there is no interface '{name}'")
