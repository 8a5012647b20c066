"""A bounded cache of one process, shared by its threads."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Removes the least recently used entry when it holds more than `max_entries`."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Key) -> Value | None:
        """The value of a key; None when there is none."""
        with self._lock:
            value = self.entries.get(key)
            if value is not None:
                self.entries.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> None:
        """Set the value of a key."""
        with self._lock:
            self.entries[key] = value
            self.entries.move_to_end(key)
            if len(self.entries) > self.max_entries:
                self.entries.popitem(last=False)

    def remove(self, key: Key) -> None:
        """Remove a key, if it is there."""
        with self._lock:
            self.entries.pop(key, None)

    def clear(self) -> None:
        """Remove every key."""
        with self._lock:
            self.entries.clear()
