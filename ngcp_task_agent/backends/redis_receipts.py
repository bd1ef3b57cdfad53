"""Receipts: they tell what Redis has carried out of what was published.

A connection that breaks does not say whether Redis has still carried out what
was on its way.  So answers are published in one transaction with a receipt,
which goes to a channel of the backend's own.  The connection that reads is
subscribed to it, so it hears the receipt if, and only if, the answers left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from typing import Dict, Optional

from ngcp_task_agent import journal
from ngcp_task_agent.backends.redis_link import Link

_TOKEN = 16  # bytes, so that nobody can guess what he has not heard


class Receipt:
    """What is published with some answers, once.

    :ivar token: its text
    :ivar heard: done when it is heard, with True, or with False when nobody
        is left who could hear it
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(_TOKEN).encode()
        loop = asyncio.get_running_loop()
        self.heard: asyncio.Future[bool] = loop.create_future()

    def settle(self, is_heard: bool) -> None:
        if not self.heard.done():
            self.heard.set_result(is_heard)


class Receipts:
    """Those of one backend that are still awaited.

    :param name: the backend's, for the journal
    :ivar channel: where they are published, and nothing else is
    """

    def __init__(self, name: str) -> None:
        self.channel = f"ngcp-task-agent-receipts-{uuid.uuid4()}".encode()
        self._name = name
        self._ear: Optional[Link] = None
        self._awaited: Dict[bytes, Receipt] = {}
        self._told_impossible = False

    def listen(self, link: Link) -> None:
        """This link, which knows its server, is subscribed."""
        self._ear = link

    @property
    def silent(self) -> float:
        """Seconds since anything was heard there."""
        return time.monotonic() - self._ear.heard if self._ear else 0.0

    def stop_listening(self) -> None:
        """Nobody is subscribed any more: what was not heard never will be."""
        self._ear = None
        for receipt in self._awaited.values():
            receipt.settle(False)
        self._awaited.clear()

    def issue(self, server: Optional[bytes]) -> Optional[Receipt]:
        """A receipt to publish at this server; None if nobody would hear."""
        if server is None or not self._ear or server != self._ear.server:
            return None
        receipt = Receipt()
        self._awaited[receipt.token] = receipt
        return receipt

    def hear(self, token: bytes) -> None:
        """This came on the channel."""
        receipt = self._awaited.pop(token, None)
        if receipt:
            receipt.settle(True)

    def forget(self, receipt: Receipt) -> None:
        """Nobody wants to know any more whether it is heard."""
        self._awaited.pop(receipt.token, None)

    def impossible(self, what: str, error: object) -> None:
        """Tell the journal, once, that there can be none, and why."""
        if not self._told_impossible:
            self._told_impossible = True
            journal.record(
                journal.BACKEND_NOTE,
                f"backend {self._name}: Redis refuses {what} ({error}): "
                "answers on a connection that breaks may be lost",
                backend=self._name,
            )
