"""Producer: publishes each batch of messages exactly once.

When a connection breaks, Redis does not say what it has carried out.  So a
batch is published by a script, in one step with its number, which is kept
under a key of the producer's own.  A batch without a reply is sent again, over
any connection: one that is not newer than the number kept was carried out
before, and is not published a second time.  This is how Kafka's idempotent
producers work.

- The number is stored before anything is published.  Where that is refused,
  nothing was and nothing is published.
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
import time
import uuid
from typing import Any, Dict, List, Sequence, Tuple

from redis.exceptions import (
    AskError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from ngcp_task_agent.backends.redis.connection import Link

#: A channel, and what to publish there.
Message = Tuple[str, bytes]
#: How messages of a batch are lost, by their positions.
Lost = Dict[int, str]

_EXPIRE = 600  # seconds, or three ping intervals, whichever is more
_SCRIPT = b"""\
local kept = redis.pcall('GET', KEYS[1])
if type(kept) == 'table' then return {'GET', kept.err} end
if kept then
    local last, refused = string.match(kept, '^(%d+)(.*)$')
    if tonumber(ARGV[1]) <= tonumber(last) then return refused end
elseif ARGV[1] ~= '0' then
    return false
end
local stored = redis.pcall('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if stored.err then return {'SET', stored.err} end
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


class NotPublished(Exception):
    """The script has not published the batch; says why.

    :ivar is_certain: also not when it was sent before
    """

    def __init__(self, why: str, is_certain: bool = False) -> None:
        super().__init__(why)
        self.is_certain = is_certain


class Elsewhere(NotPublished):
    """The key belongs to another node of the cluster."""


class Busy(NotPublished):
    """The server runs a script for too long, and will do it later."""


class Producer:
    """Numbers its batches, and publishes one at a time.

    :param ping_interval: seconds between two batches, as a rule
    """

    def __init__(self, ping_interval: float) -> None:
        self._key = f"ngcp-task-agent:producer:{uuid.uuid4()}"
        self._expire = max(_EXPIRE, int(3 * ping_interval))
        self._number = -1
        self._stored = time.monotonic()

    @property
    def may_be_forgotten(self) -> bool:
        """Whether its key may have expired: better begin another."""
        return time.monotonic() - self._stored > self._expire / 2

    def next(self) -> None:
        """Begin another batch; until then publish() repeats the last one."""
        self._number += 1

    async def publish(
        self, link: Link, messages: Sequence[Message], timeout: float
    ) -> Lost:
        """Publish a batch.

        :raises NotPublished: as its kind says
        :raises LinkError: when the link is lost before the reply
        """
        words: List[Any] = [1, self._key, self._number, self._expire]
        for message in messages:
            words += message
        reply = await link.ask("EVALSHA", _SHA, *words, timeout=timeout)
        if isinstance(reply, NoScriptError):
            reply = await link.ask("EVAL", _SCRIPT, *words, timeout=timeout)
        self._stored = time.monotonic()
        if reply is None:
            raise NotPublished("Redis has forgotten what it has published")
        if isinstance(reply, ResponseError):
            raise _refusal(reply)
        try:
            if isinstance(reply, list):
                step, error = (word.decode() for word in reply)
                raise NotPublished(
                    f"{step}: {error}", is_certain=step == "SET"
                )
            refused = map(int, reply.split())
            return dict.fromkeys(refused, "is lost: Redis refuses it")
        except (AttributeError, TypeError, ValueError):
            # It only pretends to be Redis.
            raise NotPublished(f"EVALSHA: {reply!r:.99}") from None


def is_busy(error: ResponseError) -> bool:
    """Whether the server will do it later.

    One that still loads its data closes the link, as redis-py has it.
    """
    return str(error).startswith("BUSY ")


def _refusal(error: Any) -> NotPublished:
    # Which errors have a class depends on the version of redis-py, which
    # then takes the code off the text.  MOVED is one of ASK.
    text = str(error)
    if is_busy(error):
        return Busy(text)
    if isinstance(error, (AskError, TryAgainError)) or text.startswith(
        ("MOVED ", "ASK ", "TRYAGAIN ")
    ):
        return Elsewhere("this node of the cluster takes no key of ours")
    # An unknown command is quoted with all its words.
    return NotPublished(f"EVALSHA: {text.partition(',')[0]}")
