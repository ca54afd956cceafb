"""The records that a Fake Store serves first, read from a folder and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]

SAMPLE_DATA = Path(__file__).resolve().parent / "sample_data"
ENTITIES = ("products", "users", "carts")


def read_shop_data(folder: Path) -> dict[str, dict[int, Record]]:
    """Return the records by entity and id; ValueError is one sentence on what is wrong."""
    return {entity: read_records(folder / f"{entity}.json") for entity in ENTITIES}


def read_records(file: Path) -> dict[int, Record]:
    """Return the records of one file by id; ValueError is one sentence on what is wrong."""
    try:
        records = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file.parent} has no {file.name}: give another --data.") from None
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror}): give another --data."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}).") from error
    if not isinstance(records, list):
        raise ValueError(f"{file} is not a JSON array.")
    by_id: dict[int, Record] = {}
    for number, record in enumerate(records):
        record_id = record.get("id") if isinstance(record, dict) else None
        if type(record_id) is not int or record_id in by_id:
            raise ValueError(f"{file}: record {number} has no whole number of its own as its id.")
        by_id[record_id] = record
    return by_id
