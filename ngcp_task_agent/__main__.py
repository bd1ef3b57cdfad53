"""``python3 -m ngcp_task_agent``: the daemon."""

import sys

from ngcp_task_agent.cli import main

sys.exit(main())
