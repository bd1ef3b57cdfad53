"""The backends: how messages arrive and how answers leave.

Each has a module and a row in this table.  Other packages can add backends as
entry points in the group ``ngcp_task_agent.backends``.
"""

from __future__ import annotations

from typing import Dict, Type

from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.backends.redis import RedisBackend

BUILT_IN: Dict[str, Type[Backend]] = {"redis": RedisBackend}
