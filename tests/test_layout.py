"""The house: stages on top, their parts in packages, and arrows that point one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion.project import PROJECT_FOLDER

SCRIPTS = sorted(PROJECT_FOLDER.glob("*.py"))
STAGES = {path.stem for path in SCRIPTS}
PACKAGES = ("ingestion", "local_gcp", "reporting", "benchmarks")
MODULES = [
    *SCRIPTS,
    *(path for package in PACKAGES for path in sorted((PROJECT_FOLDER / package).rglob("*.py"))),
]
TESTS = sorted((PROJECT_FOLDER / "tests").rglob("test_*.py"))

# a rule of the house: who may not know whom
FORBIDDEN = [
    ("ingestion", "local_gcp"),
    ("ingestion", "reporting"),
    ("ingestion.batch", "ingestion.carts"),
    ("ingestion.carts", "ingestion.batch"),
    ("reporting", "local_gcp"),
    *((stage, "local_gcp") for stage in sorted(STAGES)),
    *((package, stage) for package in PACKAGES for stage in sorted(STAGES)),
]


def name_of(path: Path) -> str:
    """Return a module's dotted name."""
    return ".".join(path.relative_to(PROJECT_FOLDER).with_suffix("").parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yield what a module imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_a_newcomer_meets_the_stages_only() -> None:
    assert len(SCRIPTS) <= 5
    assert {"batch_ingestion", "near_realtime_ingestion_2", "start_apis_GCP"} <= STAGES


@pytest.mark.parametrize(("who", "whom"), FORBIDDEN)
def test_arrows_point_one_way(who: str, whom: str) -> None:
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in MODULES
        if is_within(name_of(path), who)
        for imported in imports_of(path)
        if is_within(imported, whom)
    ]
    assert wrong == []


def test_every_class_and_function_is_small_enough_to_be_read() -> None:
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            limit = 180 if isinstance(node, ast.ClassDef) else 60
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > limit and node.name != "build_parser":
                    long.append(f"{name_of(path)}.{node.name}: {lines} lines")
    assert long == []


def test_each_module_has_its_tests_where_the_tree_says() -> None:
    folders = {path.parent.relative_to(PROJECT_FOLDER) for path in MODULES} - {Path()}
    tested = {path.parent.relative_to(PROJECT_FOLDER / "tests") for path in TESTS}
    assert {
        folder for folder in folders if folder.name not in ("benchmarks", "reporting")
    } <= tested


def test_no_merge_was_left_half_done() -> None:
    folders = [path.parent for path in MODULES] + [PROJECT_FOLDER / "docs"]
    texts = {path for folder in folders for path in folder.glob("*") if path.is_file()}
    marked = [
        str(path)
        for path in sorted(texts)
        if re.search(rb"^(<<<<<<<|>>>>>>>) ", path.read_bytes(), re.MULTILINE)
    ]
    assert marked == []
