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

import enum
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


class Cause(enum.Enum):
    """Why a batch is not published."""

    LATER = "the server is busy, or loads its data"
    ELSEWHERE = "the key belongs to another node of the cluster"
    NOT_STORED = "the number is not stored: it was not published before either"
    REFUSED = "the script does not run, or its key is gone"


class NotPublished(Exception):
    """The batch is not published by this attempt; says why."""

    def __init__(self, why: str, cause: Cause = Cause.REFUSED) -> None:
        super().__init__(why)
        self.cause = cause


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
    ) -> Dict[int, str]:
        """Publish a batch; why messages were refused, by their positions.

        :raises NotPublished: as its cause says
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
            raise not_published("EVALSHA", reply)
        try:
            if isinstance(reply, list):
                step, error = (word.decode() for word in reply)
                stored = step != "SET"
                cause = Cause.REFUSED if stored else Cause.NOT_STORED
                raise NotPublished(f"{step}: {error}", cause)
            refused, _, why = reply.decode(errors="replace").partition("|")
            return dict.fromkeys(map(int, refused.split()), why)
        except (AttributeError, TypeError, ValueError):
            # It only pretends to be Redis.
            raise NotPublished(f"EVALSHA: {reply!r:.99}") from None


def not_published(command: str, error: ResponseError) -> NotPublished:
    """What an error reply means for a batch."""
    text = str(error)
    if text.startswith(("BUSY ", "LOADING ")):
        return NotPublished(text, Cause.LATER)
    # Which errors have a class depends on the version of redis-py, which
    # then takes the code off the text.  MOVED is one of ASK.
    if isinstance(error, (AskError, TryAgainError)) or text.startswith(
        ("MOVED ", "ASK ", "TRYAGAIN ")
    ):
        why = "this node of the cluster takes no key of ours"
        return NotPublished(why, Cause.ELSEWHERE)
    # An unknown command is quoted with all its words.
    return NotPublished(f"{command}: {text.partition(',')[0]}")
