"""The catalog explains every kind of journal record, and nothing else."""

from __future__ import annotations

import re
from typing import Dict

import pytest

from ngcp_task_agent.logs import journal
from tests.parts import ROOT

CATALOG = ROOT / "debian/ngcp-task-agent.catalog"
KINDS = {
    name: kind
    for name, kind in vars(journal).items()
    if isinstance(kind, journal.Kind)
}
HEADERS = ("Subject", "Defined-By", "Support", "Documentation")
# journalctl does not escape them, so clients must not choose their values: an
# accepted request has a configured task and a valid uuid.
FIELDS = {"NGCP_TASK", "NGCP_TASK_UUID"}


def entries() -> Dict[str, str]:
    parts = re.split(r"^-- ", CATALOG.read_text(), flags=re.M)[1:]
    found = dict(part.split("\n", 1) for part in parts)
    assert len(found) == len(parts), "an id has two entries"
    return found


def test_an_entry_for_each_kind() -> None:
    assert set(entries()) == {kind.message_id for kind in KINDS.values()}


def test_ids_are_valid_and_unique() -> None:
    ids = [kind.message_id for kind in KINDS.values()]
    assert all(re.fullmatch("[0-9a-f]{32}", number) for number in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", KINDS)
def test_an_entry_has_headers_and_an_explanation(name: str) -> None:
    head, _, body = entries()[KINDS[name].message_id].partition("\n\n")
    assert [line.partition(": ")[0] for line in head.split("\n")] == list(
        HEADERS
    )
    assert body.strip()


def test_lines_fit_a_terminal_and_fields_exist() -> None:
    text = CATALOG.read_text()
    assert max(map(len, text.splitlines())) <= 76
    assert set(re.findall("@(.*?)@", text)) <= FIELDS
