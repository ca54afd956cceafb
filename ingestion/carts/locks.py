"""The locks on state and outbox, and whether they are still what keeps others away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar

from ingestion.durable_files import single_writer

P = ParamSpec("P")
Result = TypeVar("Result")


class Locks:
    """The locks that this process holds; none where it only looks."""

    def __init__(self) -> None:
        """Hold none."""
        self._checks: list[Callable[[], None]] = []

    def hold(self, stack: ExitStack, *places: Path) -> None:
        """Hold these until the stack ends; AnotherWriterError where another process does."""
        self._checks += [stack.enter_context(single_writer(place)) for place in places]

    def checked(self, call: Callable[P, Result]) -> Callable[P, Result]:
        """Return `call`, after which LockGoneError is raised where a lock's file has gone.

        It is what takes time in a poll; what is made durable follows on it.
        """

        def call_and_check(*args: P.args, **kwargs: P.kwargs) -> Result:
            result = call(*args, **kwargs)
            for check in self._checks:
                check()
            return result

        return call_and_check
