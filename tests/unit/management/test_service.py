"""The agent's side of the bus, with a connection in memory."""

from __future__ import annotations

import asyncio
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from dbus_fast.constants import MessageType
from dbus_fast.message import Message
from dbus_fast.signature import Variant

from ngcp_task_agent.bus.bus import Bus
from ngcp_task_agent.errors import BusAway, BusError, CannotReload
from ngcp_task_agent.logs import journal
from ngcp_task_agent.management import callers, interface, own_name
from ngcp_task_agent.management.service import Service
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.counters import Counters
from ngcp_task_agent.requests.jobs import Jobs
from tests.unit.fakes import Records, identity, until

NAME, PATH = interface.NAME, interface.PATH
PROPERTIES = "org.freedesktop.DBus.Properties"
DBUS = "org.freedesktop.DBus"
ROOT, STRANGER = ":1.1", ":1.66"
ERROR = f"{DBUS}.Error"


class Managed:
    """An agent of which only the state matters."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.counters = Counters()
        self.tasks: Sequence[Any] = ()
        self.backends: Sequence[Tuple[str, str, str]] = (
            ("redis", "subscribed", ""),
        )
        self.state = "active"
        self.reloads = 0
        self.faults: Any = []

    def identity(self) -> Identity:
        return identity("sp1", state=self.state)

    async def reload(self) -> Sequence[object]:
        self.reloads += 1
        if isinstance(self.faults, Exception):
            raise self.faults
        return list(self.faults)


class FakeConnection:
    """Answers as the bus and polkit, and keeps what is sent."""

    def __init__(self, owner: int = 1) -> None:
        self.owner = owner  # what RequestName returns
        self.refuses: Optional[BusError] = None
        self.uids = {ROOT: 0}
        self.asked: List[Tuple[Any, ...]] = []
        self.sent: List[Message] = []
        self.grants: Dict[str, bool] = {}
        self.gate = asyncio.Event()  # polkit answers once it is set
        self.gate.set()

    async def call_bus(self, member: str, signature: str, *body: Any) -> Any:
        self.asked.append((member, *body))
        await asyncio.sleep(0)
        if member == "GetConnectionUnixUser":
            return [self.uids.get(body[0], 4711)]
        if member == "GetConnectionUnixProcessID":
            return [77]
        assert member == "RequestName"
        if self.refuses:
            raise self.refuses
        return [self.owner]

    async def call(self, *words: Any, within: float) -> Any:
        _, _, _, member, _, subject, action, *_ = words
        assert member == "CheckAuthorization"
        self.asked.append((member, subject[1]["name"].value, action))
        await self.gate.wait()
        if action not in self.grants:
            raise BusError(f"{ERROR}.ServiceUnknown", "there is no polkit")
        return [[self.grants[action], False, {}]]

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def count(self, member: str) -> int:
        return sum(asked[0] == member for asked in self.asked)


class Bench:
    def __init__(self) -> None:
        self.managed = Managed()
        self.service = Service(
            Bus("unix:path=/nowhere/bus"), self.managed, self.managed.reload
        )
        self.serial = 0

    async def connect(self, **fields: Any) -> FakeConnection:
        self.connection = FakeConnection(**fields)
        await self.service.connected(self.connection)  # type: ignore[arg-type]
        return self.connection

    def send(
        self,
        sender: str,
        of: str,
        member: str,
        *words: Any,
        path: str = PATH,
    ) -> int:
        self.serial += 1
        message = Message(
            NAME,
            path,
            of,
            member,
            signature="s" * len(words),
            body=list(words),
            serial=self.serial,
            sender=sender,
        )
        assert self.service.take(message)
        return self.serial

    def reply(self, serial: int) -> Optional[Message]:
        found = [
            message
            for message in self.connection.sent
            if message.reply_serial == serial
        ]
        assert len(found) <= 1
        return found[0] if found else None

    async def ask(self, sender: str, *words: Any, **more: Any) -> Message:
        serial = self.send(sender, *words, **more)
        reply: Message = await until(lambda: self.reply(serial))
        assert reply.destination == sender
        return reply

    def signal(
        self, member: str, name: str = NAME, sender: str = DBUS
    ) -> bool:
        return self.service.take(
            Message(
                path="/org/freedesktop/DBus",
                interface=DBUS,
                member=member,
                message_type=MessageType.SIGNAL,
                signature="s",
                body=[name],
                sender=sender,
                serial=1,
            )
        )


async def test_root_reloads() -> None:
    bench = Bench()
    await bench.connect()
    reply = await bench.ask(ROOT, NAME, "Reload")
    assert (reply.message_type, reply.body) == (MessageType.METHOD_RETURN, [])
    bench.managed.faults = ["a.yml:1: x", "b.yml:2: \u00e4"]
    reply = await bench.ask(ROOT, NAME, "Reload")
    assert reply.error_name == interface.FAULTS
    assert reply.body == ["a.yml:1: x\nb.yml:2: \u00e4"]
    bench.managed.faults = CannotReload("the agent is stopping")
    reply = await bench.ask(ROOT, NAME, "Reload")
    assert reply.error_name == interface.FAILED
    assert reply.body == ["the agent is stopping"]


async def test_a_stranger_does_nothing() -> None:
    bench = Bench()
    connection = await bench.connect()
    reply = await bench.ask(STRANGER, NAME, "Reload")
    assert reply.error_name == interface.ACCESS_DENIED
    assert reply.body == [
        "only root may do that: polkit cannot be asked: there is no polkit"
    ]
    connection.grants[interface.RELOAD] = False
    reply = await bench.ask(STRANGER, NAME, "Reload")
    assert reply.error_name == interface.ACCESS_DENIED
    assert bench.managed.reloads == 0
    connection.grants[interface.RELOAD] = True
    reply = await bench.ask(STRANGER, NAME, "Reload")
    assert reply.message_type is MessageType.METHOD_RETURN
    assert bench.managed.reloads == 1
    # What it calls does not matter: it learns nothing.
    for words in ((NAME, "Nothing"), ("x.y", "Reload")):
        reply = await bench.ask(STRANGER, *words)
        assert reply.error_name == interface.ACCESS_DENIED
    reply = await bench.ask(STRANGER, NAME, "Reload", path="/x")
    assert reply.error_name == f"{ERROR}.UnknownObject"
    assert bench.managed.reloads == 1


async def test_the_own_user_needs_no_polkit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callers.os, "geteuid", lambda: 4711)
    bench = Bench()
    connection = await bench.connect()
    reply = await bench.ask(STRANGER, NAME, "Reload")
    assert reply.message_type is MessageType.METHOD_RETURN
    assert connection.count("CheckAuthorization") == 0


async def test_who_calls_is_asked_once_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callers, "_REMEMBERED", 2)
    bench = Bench()
    connection = await bench.connect()
    for _ in range(3):
        await bench.ask(ROOT, NAME, "Reload")
    assert connection.count("GetConnectionUnixUser") == 1
    for number in range(9):
        connection.uids[f":2.{number}"] = 0
        await bench.ask(f":2.{number}", NAME, "Reload")
    await bench.ask(ROOT, NAME, "Reload")
    assert connection.count("GetConnectionUnixUser") == 11
    # Another bus: the name can be another's.
    bench.service.away("lost")
    again = await bench.connect()
    again.uids = {}
    reply = await bench.ask(ROOT, NAME, "Reload")
    assert reply.error_name == interface.ACCESS_DENIED


async def test_a_flood() -> None:
    bench = Bench()
    connection = await bench.connect()
    connection.gate.clear()
    senders = [f":9.{number}" for number in range(20)]
    serials = [
        bench.send(senders[number % 20], NAME, "Reload")
        for number in range(2000)
    ]
    # Root is served while polkit does not answer for the others.
    for _ in range(20):
        reply = await bench.ask(ROOT, NAME, "ListJobs")
        assert reply.message_type is MessageType.METHOD_RETURN
    await until(lambda: connection.count("CheckAuthorization") == 2)
    connection.gate.set()
    await until(lambda: connection.count("CheckAuthorization") == 8)
    await bench.service.stop()
    replies = [reply for reply in map(bench.reply, serials) if reply]
    names = [reply.error_name for reply in replies]
    assert names.count(interface.ACCESS_DENIED) == 8
    # The rest is refused, some without a reply.
    assert names.count(interface.LIMITS_EXCEEDED) == len(names) - 8
    assert len(names) < 600
    assert bench.managed.reloads == 0


async def test_a_flood_of_new_connections() -> None:
    """What waits for the bus to tell their users is bounded."""
    bench = Bench()
    connection = await bench.connect()
    for number in range(2 * callers.UNKNOWN_AT_ONCE):
        bench.send(f":9.{number}", NAME, "ListJobs")
    await until(lambda: len(connection.sent) > callers.UNKNOWN_AT_ONCE)
    asked = connection.count("GetConnectionUnixUser")
    assert asked <= callers.UNKNOWN_AT_ONCE
    reply = await bench.ask(ROOT, NAME, "ListJobs")
    assert reply.message_type is MessageType.METHOD_RETURN


async def test_room_again_after_a_flood() -> None:
    bench = Bench()
    connection = await bench.connect()
    for _ in range(3):
        serials = [bench.send(STRANGER, NAME, "Reload") for _ in range(20)]
        await until(lambda: all(map(bench.reply, serials)))  # noqa: B023
        names = [
            reply.error_name for reply in map(bench.reply, serials) if reply
        ]
        assert names.count(interface.ACCESS_DENIED) == callers.AT_ONCE
    assert connection.count("CheckAuthorization") == 3 * callers.AT_ONCE


async def test_a_bug_is_no_secret_of_the_caller(
    journal_records: Records,
) -> None:
    bench = Bench()
    await bench.connect()
    bench.managed.faults = ZeroDivisionError("a bug")
    reply = await bench.ask(ROOT, NAME, "Reload")
    assert reply.error_name == interface.FAILED
    assert reply.body == ["the agent has failed; see its journal"]
    (record,) = journal_records.of(journal.BUG)
    assert record.exc_info


async def test_other_messages_are_for_others() -> None:
    bench = Bench()
    await bench.connect()
    assert not bench.signal("JobRemoved", sender=":1.3")
    assert not bench.signal("NameOwnerChanged")
    reply = Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=3, serial=1
    )
    assert not bench.service.take(reply)


# Signals


async def test_what_changes_is_signalled() -> None:
    bench = Bench()
    connection = await bench.connect()
    bench.service.poll()
    bench.managed.state = "standby"
    bench.managed.backends = (("redis", "away", "refused"),)
    bench.service.poll()
    bench.service.poll()
    await until(lambda: connection.sent)
    bench.managed.backends = (("redis", "away", "no route"),)
    bench.service.poll()
    await until(lambda: len(connection.sent) == 2)
    await bench.service.stop()
    both, one = connection.sent
    assert both.destination is None
    assert (both.interface, both.member) == (PROPERTIES, "PropertiesChanged")
    name, changed, invalidated = both.body
    assert (name, invalidated) == (NAME, [])
    assert changed["Node"].value["state"] == Variant("s", "standby")
    assert changed["Backends"].signature == "a(sss)"
    assert changed["Backends"].value == [("redis", "away", "refused")]
    assert list(one.body[1]) == ["Backends"]


async def test_no_signal_without_the_name() -> None:
    bench = Bench()
    bench.service.poll()
    connection = await bench.connect(owner=2)
    bench.managed.state = "standby"
    bench.service.poll()
    bench.service.away("lost")
    bench.managed.state = "active"
    bench.service.poll()
    await bench.service.stop()
    assert connection.sent == []


# The name


@pytest.mark.parametrize(("slice_", "flags"), [("", 1), ("x.slice", 2 | 4)])
async def test_the_service_takes_the_name(
    slice_: str, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGCP_TASK_AGENT_SLICE", slice_)
    bench = Bench()
    connection = await bench.connect()
    assert connection.asked == [("RequestName", NAME, flags)]


def told(records: Records) -> List[str]:
    """Return what the journal was told, in order."""
    kinds = (journal.BUS_UP.message_id, journal.BUS_DOWN.message_id)
    return [
        record.getMessage()
        for record in records
        if getattr(record, "MESSAGE_ID", None) in kinds
    ]


UP = f"managed over the bus, as {NAME}"


async def test_each_change_is_logged_once(journal_records: Records) -> None:
    bench = Bench()
    for _ in range(3):
        bench.service.away("there is no bus")
    await bench.connect()
    bench.signal("NameAcquired")
    bench.signal("NameLost", ":1.9")
    assert told(journal_records) == [
        "not managed over the bus: there is no bus; SIGHUP reloads",
        UP,
    ]
    bench.signal("NameLost")
    bench.signal("NameLost")
    bench.signal("NameAcquired")
    for _ in range(3):
        bench.service.away("lost")
    assert told(journal_records)[2:] == [
        "not managed over the bus: another agent has taken the name; "
        "SIGHUP reloads",
        UP,
        "not managed over the bus: lost; SIGHUP reloads",
    ]
    await bench.connect(owner=2)
    assert len(told(journal_records)) == 5
    await bench.service.stop()


@pytest.mark.parametrize(
    ("owner", "more_attempts"), [(2, 0), (3, 1)], ids=["queued", "refused"]
)
async def test_another_agent_has_the_name(
    owner: int,
    more_attempts: int,
    journal_records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_name, "_SHORTEST_RETRY", 0.0)
    bench = Bench()
    connection = await bench.connect(owner=owner)
    for _ in range(3):
        bench.service.poll()
        for _ in range(10):
            await asyncio.sleep(0)
    # In the queue, it gets the name by itself.
    assert (connection.count("RequestName") > 1) == bool(more_attempts)
    assert told(journal_records) == [
        f"not managed over the bus: process 77 owns {NAME}; SIGHUP reloads"
    ]
    connection.owner = 1
    if more_attempts:
        bench.service.poll()
        await until(lambda: len(told(journal_records)) == 2)
    else:
        bench.signal("NameAcquired")
    assert told(journal_records)[1:] == [UP]
    await bench.service.stop()


async def test_the_bus_refuses_the_name(journal_records: Records) -> None:
    """For others on the bus, the connection is good."""
    bench = Bench()
    bench.connection = FakeConnection()
    bench.connection.refuses = BusError(f"{ERROR}.AccessDenied", "denied")
    await bench.service.connected(bench.connection)  # type: ignore[arg-type]
    assert told(journal_records) == [
        f"not managed over the bus: the bus refuses the name {NAME}: denied; "
        "SIGHUP reloads"
    ]
    bench.service.poll()  # not again at once
    await bench.service.stop()
    assert bench.connection.count("RequestName") == 1


async def test_a_bus_that_does_not_answer() -> None:
    bench = Bench()
    bench.connection = FakeConnection()
    bench.connection.refuses = BusError(f"{ERROR}.NoReply", "no answer")
    with pytest.raises(BusError):
        await bench.service.connected(bench.connection)  # type: ignore[arg-type]


async def test_the_bus_is_lost_during_a_call(
    monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    async def lost(*_: Any) -> None:
        raise BusAway("lost")

    bench = Bench()
    connection = await bench.connect()
    for name in ("call_bus", "send"):
        with monkeypatch.context() as broken:
            broken.setattr(connection, name, lost)
            bench.send(f":{name}", NAME, "Reload")
            for _ in range(10):
                await asyncio.sleep(0)
    bench.service.away("lost")
    bench.send(ROOT, NAME, "Reload")  # nobody could get the reply
    await bench.service.stop()
    assert not journal_records.of(journal.BUG)


async def test_stop_ends_what_is_under_way() -> None:
    bench = Bench()
    connection = await bench.connect()
    connection.gate.clear()
    bench.send(STRANGER, NAME, "Reload")
    await until(lambda: connection.count("CheckAuthorization"))
    await bench.service.stop()
    assert connection.sent == []
