"""Runs the storm: ``python -m tests.chaos --seed 7 --minutes 2``."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.run import Run
from tests.parts import ROOT


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__
    )
    parser.add_argument("--seed", type=int, help="of faults and requests")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument(
        "--rate", type=float, default=150, help="requests a second"
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="tree of the daemon"
    )
    parser.add_argument(
        "--stock-limits",
        action="store_true",
        help="clients hear for themselves, with Redis's own limits",
    )
    parser.add_argument(
        "--stop-agents", action="store_true", help="with SIGTERM, too"
    )
    parser.add_argument(
        "--kill-agents", action="store_true", help="with SIGKILL, too"
    )
    for name in ("--only", "--without"):
        parser.add_argument(
            name,
            default=[],
            type=lambda text: text.split(","),
            help=f"kinds of faults: {', '.join(KINDS)}",
        )
    parser.add_argument(
        "--keep", action="store_true", help="the logs of a good run, too"
    )
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A short path: that of a unix socket is limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    is_good = False
    try:
        with contextlib.closing(Run(options, folder)) as run:
            is_good = run.run()
    finally:
        if is_good and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"logs are in {folder}")
    print("all is well" if is_good else "FAILED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
