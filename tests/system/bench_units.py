"""What ``make bench-units`` runs; no test, so its name does not say test."""

from __future__ import annotations

from bench import units
from tests.system.machine import Here


def test_print_the_cost_of_a_run(node: Here) -> None:
    units.compare(node)
