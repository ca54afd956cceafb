"""What a run of the stage did, what it leaves behind, and the exit code that follows from both."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ingestion.carts.poller import PollResult
from ingestion.carts.publishing import PublishTotals, StopReason

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """Goes to stdout. `held_deletions`, `waiting` and `dead_letters` are what is left behind."""

    polls: int = 0
    failed_polls: int = 0
    carts: int = 0
    created: int = 0
    modified: int = 0
    deleted: int = 0
    held_deletions: int = 0
    quarantined: int = 0
    published: int = 0
    dead_lettered: int = 0
    waiting: int = 0
    dead_letters: int = 0

    def add_poll(self, result: PollResult) -> None:
        """Count a poll that was believed; what is held or quarantined is so now."""
        self.carts = result.carts
        self.created += result.created
        self.modified += result.modified
        self.deleted += result.deleted
        if result.changed:
            self.held_deletions = result.held
            self.quarantined = result.quarantined

    def add_published(self, totals: PublishTotals, waiting: int, dead_letters: int) -> None:
        """Count what was published, and take what waits now."""
        self.published += totals.published
        self.dead_lettered += totals.rejected
        self.waiting = waiting
        self.dead_letters = dead_letters

    def exit_code(self, poll_failed: bool, stopped_by: StopReason | None) -> int:
        """Return the exit code of a run that ends after this poll and this publishing."""
        if poll_failed or stopped_by is StopReason.UNUSABLE:
            return 1
        return 3 if self.waiting or self.dead_letters or self.held_deletions else 0

    def log_poll(self, result: PollResult | None, published: int, seconds: float) -> None:
        """Write the one line of a poll, as a warning where somebody has to act; None has failed."""
        shown = result or PollResult(changed=False, carts=self.carts)
        log.log(
            logging.WARNING if self.held_deletions or self.dead_letters else logging.INFO,
            "%s poll=%d carts=%d created=%d modified=%d deleted=%d held=%d quarantined=%d "
            "published=%d waiting=%d dead_letters=%d seconds=%.3f",
            "polled" if result else "failed",
            self.polls,
            shown.carts,
            shown.created,
            shown.modified,
            shown.deleted,
            self.held_deletions,
            self.quarantined,
            published,
            self.waiting,
            self.dead_letters,
            seconds,
        )
