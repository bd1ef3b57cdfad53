"""Producer: publishes each batch of messages exactly once.

When a connection breaks, Redis does not say what it has carried out.  So a
batch is published by a script, in one step with its number, which is kept
under a key of the producer's own.  A batch without a reply is sent again, over
any connection: one that is not newer than the number kept was carried out
before, and is not published a second time.  This is how Kafka's idempotent
producers work.

- The number is stored before anything is published.  Where that is refused,
  nothing is published.
- Each message is published by pcall: the channel is a client's choice, and one
  that is refused must not stop the others.  Its position is kept with the
  number, for a batch that is sent again.
- A producer begins with an empty batch.  So a key that is missing later means
  that the server has forgotten it, by a restart or because it is another
  server.  What was on its way then may have been published or not.
- The key expires; an empty batch now and then keeps it.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, FrozenSet, List, Sequence, Tuple

from redis.exceptions import (
    AskError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from ngcp_task_agent.backends.redis.connection import Link, patience

Message = Tuple[str, bytes]  # a channel and what to publish there

_EXPIRE = 600  # seconds; more than that where pings are rarer
_SCRIPT = b"""\
local kept = redis.pcall('GET', KEYS[1])
if type(kept) == 'table' then return kept end
if kept then
    local last, refused = string.match(kept, '^(%d+)(.*)$')
    if tonumber(ARGV[1]) <= tonumber(last) then return refused end
elseif ARGV[1] ~= '0' then
    return false
end
local stored = redis.pcall('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if stored.err then return {stored.err} end
local refused = ''
for i = 3, #ARGV, 2 do
    if type(redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])) == 'table' then
        refused = refused .. ' ' .. (i - 3) / 2
    end
end
if refused ~= '' then
    redis.pcall('SET', KEYS[1], ARGV[1] .. refused, 'EX', ARGV[2])
end
return refused
"""
_SHA = hashlib.sha1(_SCRIPT).hexdigest()
# MOVED is one of ASK.  Which errors have a class depends on the version of
# redis-py, which then takes the code off the text.
_ELSEWHERE = (AskError, TryAgainError)
_ELSEWHERE_CODES = ("MOVED ", "ASK ", "TRYAGAIN ")


class NotPublished(Exception):
    """The script did not publish the batch; says why.

    :ivar is_certain: also not when it was sent before
    """

    is_certain = False


class Forgotten(NotPublished):
    """The server does not know the producer any more."""


class Elsewhere(NotPublished):
    """Another node of the cluster would have to do it."""


class Passing(NotPublished):
    """The server will do it later."""


class ScriptRefused(NotPublished):
    """The server does not run the script, or does not let it write."""

    def __init__(self, why: str, is_certain: bool) -> None:
        super().__init__(why)
        self.is_certain = is_certain


class Producer:
    """Numbers its batches, one at a time.

    :param ping_interval: seconds until the next batch, at most
    """

    def __init__(self, ping_interval: float) -> None:
        self._key = f"ngcp-task-agent:producer:{uuid.uuid4()}"
        self._expire = max(_EXPIRE, int(3 * ping_interval))
        self._number = -1

    def next(self) -> None:
        """Begin another batch; until then publish() repeats the last one."""
        self._number += 1

    async def publish(
        self, link: Link, messages: Sequence[Message], timeout: float
    ) -> FrozenSet[int]:
        """Publish a batch; the positions of messages that were refused.

        :param timeout: seconds to answer, beside those for the size
        :raises NotPublished: as its kind says
        :raises LinkError: when the link is lost, and with it the answer
        """
        words: List[Any] = [1, self._key, self._number, self._expire]
        for message in messages:
            words += message
        within = patience(timeout, sum(len(body) for _, body in messages))
        reply = await link.ask("EVALSHA", _SHA, *words, timeout=within)
        if isinstance(reply, NoScriptError):
            reply = await link.ask("EVAL", _SCRIPT, *words, timeout=within)
        if isinstance(reply, bytes):
            return frozenset(map(int, reply.split()))
        if reply is None:
            raise Forgotten("Redis has forgotten what it has published")
        if isinstance(reply, list):
            raise ScriptRefused(reply[0].decode(errors="replace"), True)
        raise _refusal(reply)


def is_passing(error: ResponseError) -> bool:
    """Whether the server, which runs a script for too long, will do it later.

    One that still loads its data closes the link, as redis-py has it.
    """
    return str(error).startswith("BUSY ")


def _refusal(error: Any) -> NotPublished:
    text = str(error)
    if is_passing(error):
        return Passing(text)
    if isinstance(error, _ELSEWHERE) or text.startswith(_ELSEWHERE_CODES):
        return Elsewhere(text)
    return ScriptRefused(text, False)
