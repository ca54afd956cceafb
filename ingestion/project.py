"""Where the project lies, here and in the world; only the standard library, for before set-up."""

from __future__ import annotations

from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parents[1]
DEFAULT_REGION = "europe-west9"
SCHEMA_FOLDER = PROJECT_FOLDER / "terraform" / "schemas"
