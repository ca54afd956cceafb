"""Where the project lies; only the standard library, so that it can be asked before any set-up."""

from __future__ import annotations

from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parents[1]
SCHEMA_FOLDER = PROJECT_FOLDER / "terraform" / "schemas"
