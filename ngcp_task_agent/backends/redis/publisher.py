"""Publisher: publishes each batch of messages exactly once.

When a connection breaks, Redis does not say what it has carried out.  So a
script publishes a batch in one step with its number, which is kept under a key
of the publisher's own.  A batch without a reply is sent again, and published
only if its number is newer than the one kept, as by Kafka's idempotent
producers.

- The number is stored first.  Where that is refused, nothing is published.
- Each message is published by pcall: clients choose the channels, and one that
  is refused must not stop the others.  Its position is kept with the number.
- A key starts with an empty batch.  If it is missing later, the server has
  forgotten it, by a restart or because it is another server: what was on its
  way may have been published or not.
- The key expires; an empty batch now and then keeps it.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
from typing import Any, Iterable, Sequence

from redis import exceptions
from redis.exceptions import ResponseError

from ngcp_task_agent.backends.outbox import Answer, Losses
from ngcp_task_agent.backends.redis.link import Link, LinkError
from ngcp_task_agent.backends.redis.server import Server
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import new_uuid

# Seconds that Redis has to answer, beside those for a batch's size.  It costs
# nothing to try too early: what was carried out is not repeated.
TIMEOUT = 3.0
SLOWEST = 512 << 10  # bytes a second of the slowest usable line
_PLAIN_TIMEOUT = 20.0  # the same for what is not sent again
_TRIES = 32  # keys until one belongs to this node of a cluster
_EXPIRE = 600  # seconds, or three ping intervals, whichever is more
_SCRIPT = b"""\
local function failed(step, reply)
    return {err = step .. ' ' .. reply.err}
end
local kept = redis.pcall('GET', KEYS[1])
if type(kept) == 'table' then return failed('GET', kept) end
if kept then
    local last, refused = string.match(kept, '^(%d+)(.*)$')
    local ahead = tonumber(last) - tonumber(ARGV[1])
    if ahead == 0 then return refused end
    if ahead > 0 then return false end
elseif ARGV[1] ~= '0' then
    return false
end
local stored = redis.pcall('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if stored.err then return failed('SET', stored) end
local refused, why = '', ''
for i = 3, #ARGV, 2 do
    local reply = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
    if type(reply) == 'table' then
        refused, why = refused .. ' ' .. (i - 3) / 2, '|' .. reply.err
    end
end
if why ~= '' then
    redis.pcall('SET', KEYS[1], ARGV[1] .. refused .. why, 'EX', ARGV[2])
end
return refused .. why
"""
_SHA = hashlib.sha1(_SCRIPT).hexdigest()

Parts = Sequence[tuple[Answer, bytes]]  # messages, each with its answer


class Cause(enum.Enum):
    LATER = "the server is busy, or loads its data"
    ELSEWHERE = "the key belongs to another node of the cluster"
    NOT_STORED = "the number is not stored: it was not published before either"
    REFUSED = "the script does not run, or its key is gone"


class NotPublished(Exception):
    """This attempt does not publish the batch; says why."""

    def __init__(self, why: str, cause: Cause = Cause.REFUSED) -> None:
        super().__init__(why)
        self.cause = cause


class Publisher:
    """Publishes one batch at a time, over one link after another.

    Where Redis does not run the script, it is tried again with each batch, and
    messages leave by plain PUBLISH, at most once.
    """

    def __init__(self, server: Server, losses: Losses) -> None:
        self._server = server
        self._losses = losses
        self._timeout = min(TIMEOUT, 2 * server.ping_interval)
        self._expire = max(_EXPIRE, int(3 * server.ping_interval))
        self._key = ""  # empty while Redis does not run the script
        self._number = 0
        # The last batch may have been published: its key and number stay.
        self._is_in_doubt = False
        self._is_refused = False

    async def refresh(self, link: Link) -> None:
        """Renew the key, or get one: for each link, and each ping interval."""
        if not self._is_in_doubt:
            with contextlib.suppress(NotPublished):
                await self.publish(link, (), 0)

    async def publish(self, link: Link, parts: Parts, failures: int) -> None:
        """Publish a batch, or find out whether it was published.

        After NotPublished or LinkError it must be tried again.

        :param failures: of this batch; they give it more time
        """
        extra = sum(len(message) for _, message in parts) / SLOWEST
        if not self._is_in_doubt:
            if not self._key:
                # With the next refresh() as many keys as it takes are tried.
                tries = 1 if parts and self._is_refused else _TRIES
                await self._start(link, tries)
            if not self._key:
                await self._publish_plainly(link, parts, extra)
                return
            self._number += 1
        try:
            timeout = (self._timeout + extra) * 2**failures
            refused, why = await self._run_script(link, parts, timeout)
        except LinkError:
            self._is_in_doubt = bool(parts)
            raise
        except NotPublished as error:
            if error.cause is Cause.LATER:
                raise
            self._key = ""
            if error.cause is Cause.NOT_STORED:
                self._is_in_doubt = False
            if not self._is_in_doubt:
                raise
            self.give_up((answer for answer, _ in parts), str(error))
            return
        self._is_in_doubt = False
        for position in refused:
            self._losses.add(parts[position][0], f"Redis refuses it: {why}")

    def give_up(self, answers: Iterable[Answer], why: str) -> None:
        """Stop trying to publish the last batch."""
        for answer in answers:
            self._losses.add(answer, why, is_certain=not self._is_in_doubt)
        self._is_in_doubt = False

    async def _start(self, link: Link, tries: int) -> None:
        """Start with another key, if Redis lets us."""
        self._key = f"ngcp-task-agent:producer:{new_uuid()}"
        self._number = 0
        refusal, text = "", "answers leave exactly once again"
        try:
            await self._run_script(link, (), self._timeout)
        except LinkError:
            self._key = ""
            raise
        except NotPublished as error:
            self._key = ""
            if error.cause is Cause.LATER:
                raise
            if error.cause is Cause.ELSEWHERE and tries > 1:
                await self._start(link, tries - 1)
                return
            refusal = str(error)
            text = "answers leave at most once, as Redis refuses the script "
            text += f"that publishes them exactly once: {refusal}"
        self._is_refused = bool(refusal)
        self._server.say("script", refusal, journal.BACKEND_NOTE, text)

    async def _run_script(
        self, link: Link, parts: Parts, timeout: float
    ) -> tuple[list[int], str]:
        """Return the positions of refused messages, and why."""
        words: list[Any] = [1, self._key, self._number, self._expire]
        for answer, message in parts:
            words += (answer.channel, message)
        reply = await link.ask("EVALSHA", _SHA, *words, timeout=timeout)
        if isinstance(reply, exceptions.NoScriptError):
            reply = await link.ask("EVAL", _SCRIPT, *words, timeout=timeout)
        if reply is None:
            raise NotPublished("Redis has forgotten what it has published")
        if isinstance(reply, ResponseError):
            raise _not_published("EVALSHA", reply)
        try:
            refused, _, why = reply.decode(errors="replace").partition("|")
            positions = range(len(parts))
            return [positions[int(n)] for n in refused.split()], why
        except (AttributeError, LookupError, ValueError):
            # It only pretends to be Redis.
            raise NotPublished(f"EVALSHA: {reply!r:.99}") from None

    async def _publish_plainly(
        self, link: Link, parts: Parts, extra: float
    ) -> None:
        if not parts:
            return
        commands = [("PUBLISH", a.channel, message) for a, message in parts]
        try:
            replies = await link.call(commands, _PLAIN_TIMEOUT + extra)
        except LinkError as error:
            for answer, _ in parts:
                why = f"the connection broke: {error}"
                self._losses.add(answer, why, is_certain=False)
            return
        errors = [
            (answer, _not_published("PUBLISH", reply))
            for (answer, _), reply in zip(parts, replies)
            if isinstance(reply, ResponseError)
        ]
        if [e.cause for _, e in errors] == [Cause.LATER] * len(parts):
            raise errors[0][1]
        for answer, refusal in errors:
            self._losses.add(answer, f"Redis refuses it: {refusal}")


def _not_published(command: str, error: ResponseError) -> NotPublished:
    text = str(error)
    if text.startswith(("BUSY ", "LOADING ")):
        return NotPublished(text, Cause.LATER)
    if text.startswith("SET "):
        return NotPublished(text, Cause.NOT_STORED)
    # Versions of redis-py differ in which errors have a class, and then no
    # code in their text.  MOVED is one of ASK.
    kinds = (exceptions.AskError, exceptions.TryAgainError)
    codes = ("MOVED ", "ASK ", "TRYAGAIN ")
    if isinstance(error, kinds) or text.startswith(codes):
        why = "this node of the cluster takes no key of ours"
        return NotPublished(why, Cause.ELSEWHERE)
    # An unknown command is quoted with all its words.
    return NotPublished(f"{command}: {text.partition(',')[0]}")
