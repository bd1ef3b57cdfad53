"""The backends: how messages arrive and how answers leave.

One module for each, and its row in the table.  Another package can add one by
an entry point of the group ``ngcp_task_agent.backends``.
"""

from __future__ import annotations

from typing import Dict, Type

from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.backends.redis import RedisBackend

BUILT_IN: Dict[str, Type[Backend]] = {"redis": RedisBackend}
