"""Show changes on stdout, as a table for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import msgspec

from ingestion.carts.changes import Change, HeldDeletions


def print_changes(changes: Sequence[Change], held: HeldDeletions, *, as_json: bool) -> None:
    """Print the changes that a poll would publish, and how many deletions it would hold."""
    if as_json:
        members = ("type", "cart_id", "before", "after")
        listed = [{name: getattr(change, name) for name in members} for change in changes]
        shown = {"changes": listed, "held_deletions": len(held.cart_ids)}
        print(json.dumps(msgspec.to_builtins(shown)))
    else:
        _print_table(changes, held)


def _print_table(changes: Sequence[Change], held: HeldDeletions) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"changes: {len(changes)}"
    if held.cart_ids:
        title += f", held deletions: {len(held.cart_ids)}"
    table = Table("change", "cart", "user", "date", "products", title=title)
    for change in changes:
        kind = change.type.rpartition("_")[2]
        for label, cart in (("before", change.before), ("after", change.after)):
            if cart:
                lines = ", ".join(f"{line.quantity} x {line.product_id}" for line in cart.products)
                name = f"{kind} ({label})" if change.before and change.after else kind
                table.add_row(name, str(cart.id), str(cart.user_id), cart.date, lines)
    # where there is no terminal to fit into, nothing is cut
    Console(width=None if sys.stdout.isatty() else 160).print(table)
