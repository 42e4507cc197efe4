"""Prefetching: a thread computes the items of a generator ahead of their use, a bounded number of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Generator[T, None, None], depth: int = 1) -> Generator[T, None, None]:
    """The items of a generator that runs in a thread: up to `depth` of them wait while one more is computed.

    An error in the generator is raised here, after the items before it. Closing this generator closes the other.

    >>> list(prefetched(i * i for i in range(4)))
    [0, 1, 4, 9]
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not unwanted.is_set():
            try:
                waiting.put((item, error), timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            put(_END)
        except BaseException as error:  # raised again in the thread of the consumer
            put(_END, error)
        finally:
            items.close()

    thread = threading.Thread(target=run, name="xpdense reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        unwanted.set()
        thread.join()
