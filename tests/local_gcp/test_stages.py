"""What a terminal shows while a stage is at work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from local_gcp.stages import Stages


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(0, None, ""), (3, None, ""), (0, 7, "0/7"), (3, 7, "3/7")]
)
def test_a_bar_counts_once_it_is_known_how_many_there_are(
    done: int, total: int | None, shown: str
) -> None:
    terminal = io.StringIO()
    stages = Stages(None, Console(file=terminal, force_terminal=True, width=100), steps=1)  # type: ignore[arg-type]
    with stages.step("loading") as step:
        step.show_progress(done, total)
    # the bar, as it was drawn last
    *_, bar = (
        line for line in terminal.getvalue().splitlines() if "loading" in line and "━" in line
    )
    assert [word for word in bar.split() if "/" in word] == ([shown] if shown else [])
