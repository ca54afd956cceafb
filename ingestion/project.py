"""Where the project lies, here and in the world; only the standard library, for before set-up."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parents[1]
DEFAULT_REGION = "europe-west9"
SCHEMA_FOLDER = PROJECT_FOLDER / "terraform" / "schemas"

# what every script imports first
FIRST_PACKAGES = ("dotenv", "msgspec", "requests")


def check_packages() -> None:
    """End with exit code 1 and a sentence where this Python is not that of the environment."""
    missing = [package for package in FIRST_PACKAGES if find_spec(package) is None]
    if missing:
        sys.exit(
            f"The package {missing[0]} is missing: run 'make setup', and use .venv/bin/python."
        )
