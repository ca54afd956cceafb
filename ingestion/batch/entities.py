"""What the batch stage can read: the entities of the API, and what a record of each must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ingestion.records import Id
from ingestion.redaction import REDACTED


@dataclass(frozen=True)
class Entity:
    """What the API calls an entity, and the members that a record of it must have."""

    path: str
    required: Mapping[str, Any]
    # what silver reads besides, at whatever depth: in no object may it stand twice
    read: tuple[str, ...] = ()
    key: str = "id"
    redacted: frozenset[str] = REDACTED

    @property
    def members(self) -> tuple[str, ...]:
        """Return the names of all members that are read."""
        return (*self.required, *self.read)

    def record_type(self) -> type[Any]:
        """Return the type that a valid record can be decoded as."""
        return msgspec.defstruct("Record", list(self.required.items()), gc=False)


# another entity is another line, with its schema in terraform/schemas/{entity}_raw.json
ENTITIES = {
    "products": Entity(
        "/products",
        {"id": Id, "title": str, "price": float, "category": str},
        read=("description", "image", "rating", "rate", "count"),
    ),
    "users": Entity(
        "/users",
        {"id": Id, "email": str, "username": str},
        read=(
            *("name", "firstname", "lastname", "phone", "address", "street", "city", "zipcode"),
            *("geolocation", "lat", "long"),
        ),
    ),
    "carts": Entity(
        "/carts",
        {"id": Id, "userId": Id, "date": str, "products": list},
        read=("productId", "quantity"),
    ),
}
# the carts are read as events by the near-real-time stage: a snapshot of them is asked for by name
DEFAULT_ENTITIES = ("products", "users")
