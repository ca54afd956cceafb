"""Where the material beside the project lies; a test that needs it skips without it."""

from __future__ import annotations

from ingestion.project import PROJECT_FOLDER

SHARED = PROJECT_FOLDER.parent / "shared"
FAKESTORE = SHARED / "fakestore"
