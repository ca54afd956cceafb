"""One process per run id, and the traces of runs that were killed.

A run holds `{raw-dir}/.runs/{uuid}.lock` while it works and removes it at its end: the locks that
lie there are those of runs at work and of runs that were killed, however many have ended well.
Runs of different ids share no file and remove no folder that another one may be about to use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ingestion.batch.receipts import RUNS_FOLDER, LandingError, run_folder
from ingestion.durable_files import single_writer


@contextmanager
def sole_run(raw_dir: Path, run_id: str) -> Iterator[None]:
    """Keep a second process from working on the same run id; AnotherWriterError says who does."""
    folder = run_folder(raw_dir, run_id)
    with ExitStack() as held:
        try:
            held.enter_context(single_writer(folder))
        except OSError as error:
            raise LandingError(
                f"{raw_dir} cannot be written ({error.strerror or error}): "
                "correct this, or give another --raw-dir"
            ) from None
        try:
            yield
        finally:
            _remove_lock(folder)
    if os.name == "nt":  # there a file can be removed only when nobody has it open
        _remove_lock(folder)


def remove_traces_of_killed_runs(raw_dir: Path) -> None:
    """Remove what runs wrote that were killed before their receipt, and their locks."""
    for lock_file in (raw_dir / RUNS_FOLDER).glob("*.lock"):
        folder = lock_file.with_suffix("")
        # whoever is at work holds it; a folder that cannot be written fails the run itself
        with suppress(Timeout, OSError), FileLock(lock_file, timeout=0):
            for file in folder.glob("*.tmp"):
                entity, _, kind = file.name.partition(".")
                is_torn_receipt = kind == "json.tmp"
                if is_torn_receipt or not (folder / f"{entity}.json").exists():
                    file.unlink()
            folder.with_name(f"{folder.name}.pid").unlink(missing_ok=True)
            _remove_lock(folder)


def _remove_lock(folder: Path) -> None:
    """Remove a run's lock file, and its folder where that is empty."""
    with suppress(OSError):
        folder.rmdir()
    with suppress(OSError):
        folder.with_name(f"{folder.name}.lock").unlink()
