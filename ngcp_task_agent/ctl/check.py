"""``check``: what is wrong with the configuration."""

from __future__ import annotations

import argparse

from ngcp_task_agent.config import check as config_check
from ngcp_task_agent.ctl import output
from ngcp_task_agent.ctl.failure import EX_CONFIG


def check(options: argparse.Namespace) -> int:
    """Print every fault, as ``ngcp-task-agent --check``; blocks.

    :raises OutputError: when standard output cannot be written
    """
    findings = config_check.check(options.config_dir, options.file)
    if options.json:
        output.write_json(
            {
                "is_sound": findings.is_sound,
                "faults": list(map(str, findings.faults)),
                "warnings": list(map(str, findings.warnings)),
                "summary": findings.summary,
            }
        )
    else:
        output.write("".join(f"{line}\n" for line in findings.lines()))
    return 0 if findings.is_sound else EX_CONFIG
