"""Journal files, written as journald writes them, at any time of day.

Only what systemd.journal.Reader needs to read, match and follow: see
https://systemd.io/JOURNAL_FILE_FORMAT/.  ``journalctl --verify`` checks them.
"""

from __future__ import annotations

import os
import struct
import uuid
from pathlib import Path
from typing import Dict, Mapping, Tuple, Union

_DATA, _FIELD, _ENTRY, _DATA_TABLE, _FIELD_TABLE, _ARRAY = range(1, 7)
_ONLINE, _ARCHIVED = 1, 2
_BUCKETS = 4096
_FIRST_ARRAY = 64  # entries
_HEADER = struct.Struct("<8sII B7x 16s16s16s16s 19Q")

Value = Union[str, bytes, int]


class JournalFile:
    """A journal file of the system, to which records can be added.

    :param folder: where it is; its name is as journald's
    """

    def __init__(
        self, folder: Path, name: str = "system", first: int = 1
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.journal"
        self._file = open(self.path, "w+b")
        self._ids = [uuid.uuid4().bytes for _ in range(4)]
        self._state = _ONLINE
        self._end = _HEADER.size
        self._tail = 0
        self._objects = 0
        self._counts = {_DATA: 0, _FIELD: 0, _ARRAY: 0}
        self._entries = 0
        self._seqnum, self._head_seqnum = first - 1, 0
        self._times = (0, 0, 0)  # first, last, last monotonic
        self._data: Dict[bytes, Tuple[int, int]] = {}
        self._fields: Dict[bytes, int] = {}
        self._last_of: Dict[int, int] = {}  # a field's newest datum
        self._chains: Dict[Tuple[int, int], int] = {}
        # Of the whole file (0) and of each datum: its array of entries, how
        # many it holds, and how many it has room for.
        self._arrays: Dict[int, Tuple[int, int, int]] = {}
        self._uses: Dict[int, int] = {}
        self._tables = {
            _DATA: self._append(_DATA_TABLE, bytes(16 * _BUCKETS)) + 16,
            _FIELD: self._append(_FIELD_TABLE, bytes(16 * _BUCKETS)) + 16,
        }
        self._first_array = 0
        self._write_header()

    @property
    def next_number(self) -> int:
        return self._seqnum + 1

    def add(self, when: float, fields: Mapping[str, Value]) -> None:
        """Add a record.

        :param when: seconds, unix time; no earlier than that of the last one
        """
        items = []
        for name, value in fields.items():
            raw = value if isinstance(value, bytes) else str(value).encode()
            items.append(self._datum(name.encode(), raw))
        items.sort()
        usec = int(when * 1e6)
        self._seqnum += 1
        self._head_seqnum = self._head_seqnum or self._seqnum
        self._entries += 1
        first = self._times[0] or usec
        self._times = (first, usec, self._entries)
        xor = 0
        for _, hashed in items:
            xor ^= hashed
        entry = self._append(
            _ENTRY,
            struct.pack("<3Q", self._seqnum, usec, self._entries)
            + self._ids[2]
            + struct.pack("<Q", xor)
            + b"".join(struct.pack("<2Q", *item) for item in items),
        )
        for offset, _ in items:
            self._use(offset, entry)
        self._link(0, entry)
        self._write_header()

    def close(self, archive: bool = False) -> None:
        """Close the file; an archived one gets another name, as journald does
        when it rotates.
        """
        if archive:
            self._state = _ARCHIVED
            self._write_header()
            name = f"{self.path.stem}@{self._seqnum:032x}.journal"
            os.rename(self.path, self.path.with_name(name))
        self._file.close()

    def _write_header(self) -> None:
        first, last, monotonic = self._times
        tables = [
            number
            for kind in (_DATA, _FIELD)
            for number in (self._tables[kind], 16 * _BUCKETS)
        ]
        header = _HEADER.pack(
            *(b"LPKSHHRH", 0, 0, self._state, *self._ids),
            *(_HEADER.size, self._end - _HEADER.size, *tables),
            *(self._tail, self._objects, self._entries),
            *(self._seqnum, self._head_seqnum, self._first_array),
            *(first, last, monotonic),
            *(self._counts[_DATA], self._counts[_FIELD], 0),
            self._counts[_ARRAY],
        )
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        # Reading programs see a change of size by inotify.
        self._file.truncate(self._end)

    def _append(self, kind: int, body: bytes) -> int:
        """Append an object; return its offset."""
        offset, size = self._end, 16 + len(body)
        self._file.seek(offset)
        self._file.write(struct.pack("<B7xQ", kind, size) + body)
        self._file.write(bytes(-size % 8))
        self._end += size + -size % 8
        self._tail = offset
        self._objects += 1
        if kind in self._counts:
            self._counts[kind] += 1
        return offset

    def _put(self, offset: int, *numbers: int) -> None:
        self._file.seek(offset)
        self._file.write(struct.pack(f"<{len(numbers)}Q", *numbers))

    def _datum(self, name: bytes, value: bytes) -> Tuple[int, int]:
        """Return the offset and the hash of a field's value."""
        payload = name + b"=" + value
        found = self._data.get(payload)
        if found:
            return found
        hashed = jenkins(payload)
        offset = self._append(
            _DATA, struct.pack("<6Q", hashed, 0, 0, 0, 0, 0) + payload
        )
        self._chain(_DATA, hashed, offset)
        field = self._fields.get(name)
        if field is None:
            named = jenkins(name)
            field = self._append(
                _FIELD, struct.pack("<3Q", named, 0, 0) + name
            )
            self._chain(_FIELD, named, field)
        else:
            self._put(offset + 32, self._last_of[field])
        self._put(field + 32, offset)
        self._fields[name] = field
        self._last_of[field] = offset
        self._data[payload] = (offset, hashed)
        return offset, hashed

    def _chain(self, kind: int, hashed: int, offset: int) -> None:
        """Add an object to its bucket's list."""
        bucket = self._tables[kind] + 16 * (hashed % _BUCKETS)
        last = self._chains.get((kind, bucket))
        if last is None:
            self._put(bucket, offset, offset)
        else:
            self._put(last + 24, offset)
            self._put(bucket + 8, offset)
        self._chains[kind, bucket] = offset

    def _use(self, datum: int, entry: int) -> None:
        """Note that an entry has this datum."""
        uses = self._uses[datum] = self._uses.get(datum, 0) + 1
        if uses == 1:
            self._put(datum + 40, entry)
        else:
            self._link(datum, entry)
        self._put(datum + 56, uses)

    def _link(self, datum: int, entry: int) -> None:
        """Add an entry to the arrays of a datum, or of the file (0)."""
        array, used, room = self._arrays.get(datum, (0, 0, 0))
        if used == room:
            room = 2 * room or (4 if datum else _FIRST_ARRAY)
            new = self._append(_ARRAY, bytes(8 * (1 + room)))
            if array:
                self._put(array + 16, new)
            elif datum:
                self._put(datum + 48, new)
            else:
                self._first_array = new
            array, used = new, 0
        self._put(array + 24 + 8 * used, entry)
        self._arrays[datum] = (array, used + 1, room)


def jenkins(data: bytes) -> int:
    """Hash as Bob Jenkins' lookup3 does (hashlittle2), both halves."""
    top = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & top
    whole = max(0, (len(data) - 1) // 12) * 12
    for x, y, z in struct.iter_unpack("<3I", data[:whole]):
        a, b, c = (a + x) & top, (b + y) & top, (c + z) & top
        a = (a - c) & top ^ ((c << 4 | c >> 28) & top)
        c = (c + b) & top
        b = (b - a) & top ^ ((a << 6 | a >> 26) & top)
        a = (a + c) & top
        c = (c - b) & top ^ ((b << 8 | b >> 24) & top)
        b = (b + a) & top
        a = (a - c) & top ^ ((c << 16 | c >> 16) & top)
        c = (c + b) & top
        b = (b - a) & top ^ ((a << 19 | a >> 13) & top)
        a = (a + c) & top
        c = (c - b) & top ^ ((b << 4 | b >> 28) & top)
        b = (b + a) & top
    rest = data[whole:]
    if rest:
        x, y, z = struct.unpack("<3I", rest.ljust(12, b"\0"))
        a, b, c = (a + x) & top, (b + y) & top, (c + z) & top
        for into, by, turn in (
            ("c", "b", 14),
            ("a", "c", 11),
            ("b", "a", 25),
            ("c", "b", 16),
            ("a", "c", 4),
            ("b", "a", 14),
            ("c", "b", 24),
        ):
            parts = {"a": a, "b": b, "c": c}
            turned = (parts[by] << turn | parts[by] >> (32 - turn)) & top
            parts[into] = ((parts[into] ^ parts[by]) - turned) & top
            a, b, c = parts["a"], parts["b"], parts["c"]
    return c << 32 | b
