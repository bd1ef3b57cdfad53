"""``python3 -m ngcp_task_agent``: the daemon."""

import sys

from ngcp_task_agent.daemon import early_signals as signals

signals.at_start(sys.argv)

from ngcp_task_agent.daemon.cli import main  # noqa: E402

sys.exit(main())
