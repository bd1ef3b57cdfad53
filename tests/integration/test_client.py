"""The client library against real agents and a real Redis."""

from __future__ import annotations

import asyncio
import gc
import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ngcp_task_agent.client import (
    Address,
    Client,
    ConnectionLost,
    InvalidRequest,
    NoAddress,
    Patience,
    RedisUnavailable,
    Status,
    Verdict,
    find,
    run_task,
)
from tests.crowd import answer
from tests.integration.conftest import ConfigFolder, Scripted
from tests.parts import WITHIN, Daemon, RedisServer

Start = Callable[..., Daemon]

PATIENT = Patience(timeout=2 * WITHIN, answer_timeout=WITHIN)


def all_of(count: int, **more: Any) -> Patience:
    """Wait only as long as this many nodes need."""
    return Patience(
        **{
            "timeout": 2 * WITHIN,
            "answer_timeout": WITHIN,
            "expect": count,
            **more,
        }
    )


@pytest.fixture
def address(config: ConfigFolder) -> Address:
    return find(config_dir=config.path)


def node(
    folder: Path, server: RedisServer, start: Start, name: str, **tasks: str
) -> ConfigFolder:
    """Start another agent; tasks are shell scripts, by name."""
    config = ConfigFolder(folder / name, server.port)
    config.agent(node={"name": name, "roles": [name[:2]]})
    for task, script in tasks.items():
        config.shell(task, script)
    start(config=config)
    return config


async def test_one_node(config: ConfigFolder, start: Start) -> None:
    config.shell("hello", 'echo hello; echo "$NGCP_TASK_SRC"')
    start()
    async with Client(find("hello", config_dir=config.path)) as client:
        call = client.send("hello", patience=PATIENT)
        statuses = [response.status async for response in call]
    assert statuses == [Status.ACCEPTED, Status.DONE]
    outcome = call.outcome
    assert outcome.succeeded
    assert outcome.request.src == "sp1"
    (one,) = outcome.nodes
    assert (one.node, one.data) == ("sp1", "hello\nsp1\n")
    assert one.accepted is not None
    assert one.ended is not None
    assert 0 <= one.accepted <= one.ended <= outcome.seconds


async def test_outcome_of_each_node(
    folder: Path, server: RedisServer, start: Start
) -> None:
    node(folder, server, start, "prx01a", mixed="echo fine")
    node(folder, server, start, "prx01b", mixed="echo so far; exit 3")
    node(folder, server, start, "lb01a", other="true")
    address = Address({"port": server.port}, src="tests")
    async with Client(address) as client:
        both = await client.run("mixed", "prx*", patience=all_of(2))
        everyone = await client.run("mixed", "*", patience=all_of(3))
        proxy = await client.run(
            "mixed", "*|role=pr", patience=replace(PATIENT, settle=2)
        )
    assert both.verdict is everyone.verdict is Verdict.ERROR
    assert {n.node for n in both.nodes} == {"prx01a", "prx01b"}
    assert {n.node for n in proxy.nodes} == {"prx01a", "prx01b"}
    by_name = {n.node: n for n in everyone.nodes}
    assert by_name["prx01a"].status is Status.DONE
    assert by_name["prx01a"].data == "fine\n"
    assert by_name["prx01b"].status is Status.ERROR
    assert by_name["prx01b"].data == "so far\n"
    assert "exit status 3" in by_name["prx01b"].reason
    assert by_name["lb01a"].status is Status.REJECTED
    assert by_name["lb01a"].reason == "unknown task 'mixed'"
    assert not everyone.all_rejected


async def test_no_answer_and_all_rejected(
    config: ConfigFolder, start: Start, address: Address
) -> None:
    config.task("true", "true")
    start()
    quick = Patience(answer_timeout=0.5)
    async with Client(address) as client:
        nobody = await client.run("true", "sp7", patience=quick)
        refused = await client.run("nope", "sp1", patience=all_of(1))
    assert nobody.nobody_answered
    assert nobody.verdict is Verdict.UNANSWERED
    assert refused.all_rejected
    assert refused.verdict is Verdict.REJECTED


async def test_many_requests_over_one_connection(
    config: ConfigFolder, start: Start, server: RedisServer, address: Address
) -> None:
    config.shell("echo", 'echo "$NGCP_TASK_DATA"', max_queued=500)
    start(log_level="info")
    async with Client(address) as client:
        outcomes = await asyncio.gather(
            *(
                client.run("echo", data=number, patience=all_of(1))
                for number in range(200)
            )
        )
        inspector = server.connect()
        clients = inspector.client_list()
        inspector.connection_pool.disconnect()
        with pytest.raises(InvalidRequest):
            await client.run("")
    assert [o.nodes[0].data for o in outcomes] == [
        f"{number}\n" for number in range(200)
    ]
    # Two of the agent, two of the client, and the one that asks.
    assert len(clients) == 5
    assert server.subscribers(client.feedback_channel) == 0


@pytest.mark.parametrize("max_response", ["1M", "8M"])
async def test_answer_of_50_megabytes_in_chunks(
    max_response: str,
    config: ConfigFolder,
    start: Start,
    address: Address,
) -> None:
    """This is more than Redis buffers for a slow subscriber."""
    config.agent(node={"name": "sp1"}, max_response=max_response)
    config.task("much", "seq", broker_args="6600000", broker_max_output="64M")
    config.task("true", "true")
    start()
    async with Client(address) as client:
        much = asyncio.ensure_future(client.run("much", patience=all_of(1)))
        # Meanwhile others get answers.
        while not much.done():
            outcome = await client.run("true", patience=all_of(1))
            assert outcome.succeeded
        outcome = await much
    assert outcome.succeeded
    data = outcome.nodes[0].data
    assert data
    assert len(data) > 50_000_000
    assert data == "".join(f"{number}\n" for number in range(1, 6600001))


async def test_answer_beyond_the_limit(
    config: ConfigFolder, start: Start, address: Address
) -> None:
    config.task("much", "seq", broker_args="100000")
    config.task("little", "seq", broker_args="100")
    start()
    async with Client(address, max_data=100_000) as client:
        much = await client.run("much", patience=all_of(1))
        little = await client.run("little", patience=all_of(1))
    assert much.verdict is Verdict.ERROR
    assert "100000 bytes" in much.nodes[0].reason
    assert little.succeeded


async def test_node_that_accepts_and_dies(
    folder: Path,
    server: RedisServer,
    start: Start,
    config: ConfigFolder,
    wait_for_slow: Callable[[], None],
) -> None:
    daemon = start()
    node(folder, server, start, "sp2", slow="true")
    address = find("slow", config_dir=config.path)
    async with Client(address) as client:
        call = client.send("slow", "sp*", patience=all_of(2, timeout=6))
        async for response in call:
            if response.node == "sp1":
                wait_for_slow()
                daemon.stop(signal.SIGKILL)
    outcome = call.outcome
    assert outcome.verdict is Verdict.UNFINISHED
    assert [n.node for n in outcome.unfinished] == ["sp1"]
    assert [n.node for n in outcome.done] == ["sp2"]


async def test_messages_of_other_agents(
    scripted: Callable[..., Scripted], address: Address
) -> None:
    def script(request: Dict[str, Any]) -> List[Any]:
        def say(status: str, **more: Any) -> Dict[str, Any]:
            return answer(request, "old", status, **more)

        chunks = [
            say("done", uuid="u", chunk=n, chunks=3, data=f"<{n}>")
            for n in (1, 2, 3)
        ]
        return [
            b"\xff",
            b"{",
            say("accepted", ref=str(uuid.uuid4())),
            say("error", ref=None),
            # The same message twice: no second node of this name.
            say("accepted", uuid="a"),
            say("accepted", uuid="a"),
            chunks[2],
            chunks[0],
            chunks[2],
            say("done", uuid="v", chunk=2, chunks=2, data="other"),
            chunks[1],
            say("done", uuid="u", data="too late"),
        ]

    scripted(script)
    async with Client(address) as client:
        outcome = await client.run("t", patience=Patience(settle=0.5))
    (one,) = outcome.nodes
    assert (one.node, one.status) == ("old", Status.DONE)
    assert one.data == "<1><2><3>"


@pytest.mark.parametrize(
    "channel", ["", "x" * 513, "\ud800", ["x"], b"x"], ids=repr
)
async def test_impossible_channel(
    channel: Any, config: ConfigFolder, start: Start, address: Address
) -> None:
    config.task("true", "true")
    start()
    with pytest.raises(InvalidRequest, match="channel"):
        await asyncio.to_thread(run_task, "true", channel=channel)
    async with Client(address) as client:
        with pytest.raises(InvalidRequest, match="channel"):
            await client.run("true", patience=PATIENT, channel=channel)
        # The other calls are not affected.
        outcome = await client.run("true", patience=PATIENT)
    assert outcome.succeeded


async def test_run_task_in_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="use Client"):
        run_task("true")
    # Otherwise Python warns that a coroutine was never awaited.
    gc.collect()


async def test_abandoned_call_gets_no_more_responses(
    config: ConfigFolder, start: Start, address: Address
) -> None:
    config.task("true", "true")
    start()
    async with Client(address) as client:
        async for _ in client.send("true", patience=PATIENT):
            break
        again = await client.run("true", patience=PATIENT)
    assert again.succeeded


async def test_cancelled_run(
    config: ConfigFolder, start: Start, address: Address
) -> None:
    config.shell("slow", "sleep 1")
    config.task("true", "true")
    start()
    async with Client(address) as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.run("slow"), 0.2)
        assert (await client.run("true", patience=PATIENT)).succeeded


async def test_client_must_be_open(address: Address) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        Client(address).send("true")


async def test_no_redis(server: RedisServer, address: Address) -> None:
    server.kill()
    with pytest.raises(RedisUnavailable, match="Connection refused"):
        await Client(address).__aenter__()


async def test_stalled_redis(server: RedisServer, address: Address) -> None:
    server.signal(signal.SIGSTOP)
    with pytest.raises(RedisUnavailable, match="no answer within 0.5 s"):
        await Client(address, connect_timeout=0.5).__aenter__()


async def test_redis_dies_during_a_call(
    config: ConfigFolder, start: Start, server: RedisServer, address: Address
) -> None:
    config.shell("slow", "sleep 1")
    start()
    async with Client(address) as client:
        call = client.send("slow", patience=PATIENT)
        assert (await call.__anext__()).status is Status.ACCEPTED
        server.kill()
        with pytest.raises(ConnectionLost, match="lost: .*[Cc]onnection"):
            await call.__anext__()
        with pytest.raises(RedisUnavailable):
            await client.run("slow")
    server.start()
    assert [n.node for n in call.outcome.unfinished] == ["sp1"]


async def test_redis_stalls_during_a_call(
    config: ConfigFolder, start: Start, server: RedisServer, address: Address
) -> None:
    config.shell("slow", "sleep 1")
    start()
    async with Client(address, ping_interval=0.3) as client:
        call = client.send("slow", patience=PATIENT)
        assert (await call.__anext__()).status is Status.ACCEPTED
        server.signal(signal.SIGSTOP)
        with pytest.raises(ConnectionLost, match="no answer within"):
            await call.__anext__()
        server.signal(signal.SIGCONT)


async def test_idle_connection_is_kept(
    config: ConfigFolder, start: Start, address: Address
) -> None:
    config.shell("slow", "sleep 1.5; echo slow")
    start()
    # Many pings pass before the answer.
    async with Client(address, ping_interval=0.2) as client:
        outcome = await client.run("slow", patience=all_of(1))
    assert outcome.succeeded


async def test_closed_publishing_connection_is_replaced(
    config: ConfigFolder, start: Start, server: RedisServer, address: Address
) -> None:
    config.task("true", "true")
    start()
    async with Client(address) as client:
        assert (await client.run("true", patience=all_of(1))).succeeded
        admin = server.connect()
        # As a server with a 'timeout' does to idle connections.
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
        admin.connection_pool.disconnect()
        await asyncio.sleep(0.1)
        outcome = await client.run("true", patience=all_of(1))
    assert outcome.succeeded


@pytest.mark.parametrize(
    ("acl", "reason"),
    [
        (
            "resetchannels +@all",
            "refuses to subscribe to ngcp-task-agent-feedback-",
        ),
        (
            "allchannels +@all -publish",
            "refuses to publish to ngcp-task-agent-redis: ",
        ),
        ("allchannels -@all +client|setname", "refuses to subscribe to ngcp-"),
        ("allchannels +@all off", "refuses the login: "),
    ],
)
async def test_user_without_permission(
    acl: str, reason: str, server: RedisServer
) -> None:
    admin = server.connect()
    admin.execute_command("ACL", "SETUSER", "u", "on", ">pw", *acl.split())
    admin.connection_pool.disconnect()
    address = Address({"port": server.port, "username": "u", "password": "pw"})

    async def run() -> None:
        async with Client(address) as client:
            await client.run("t")

    with pytest.raises(RedisUnavailable, match=reason):
        await run()


def test_in_a_script(config: ConfigFolder, start: Start) -> None:
    config.task("hello", "echo", broker_args="hello")
    start()
    outcome = run_task("hello", config_dir=config.path, patience=PATIENT)
    assert outcome.done[0].data == "hello\n"
    url = f"unix://{config.path.parent}/redis.sock"
    outcome = run_task(
        "hello", "sp1", url=url, config_dir=config.path, patience=all_of(1)
    )
    assert outcome.succeeded
    with pytest.raises(NoAddress):
        run_task("hello", backend="none", config_dir=config.path)
    with pytest.raises(InvalidRequest):
        run_task("hello", "a,,b", config_dir=config.path)
