"""README and docs say what is so: flags, targets, links, dependencies and error texts."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

from ingestion.project import PROJECT_FOLDER
from start_apis_GCP import APIS

PAGES = [PROJECT_FOLDER / "README.md", *sorted((PROJECT_FOLDER / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SCRIPTS = [
    "batch_ingestion",
    "near_realtime_ingestion_2",
    "start_apis_GCP",
    "kpi_report",
]
# how a program is called, and the module that holds its parser
PROGRAMS = {
    **{f"{script}.py": script for script in SCRIPTS},
    "python -m local_gcp": "local_gcp.__main__",
}
PROSE = [*PAGES, PROJECT_FOLDER / "CHANGELOG.md", *PROJECT_FOLDER.glob("*/README.md")]


def section(heading: str) -> str:
    """Return the text under a heading of the README or a page, up to the next heading."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", TEXT, re.M | re.S)
    assert found, f"no page has a section '{heading}'"
    return found[2]


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return every long flag of a parser and of its subcommands, --help apart."""
    flags = set()
    for action in parser._actions:
        flags |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                flags |= flags_of(subparser)
    return flags - {"--help"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_of_a_program_is_in_its_table_and_no_other(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", "some-project")
    parser = importlib.import_module(PROGRAMS[program]).build_parser()
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section(f"`{program}`"), re.M))
    assert documented == flags_of(parser)


def test_flags_in_the_commands_shown_exist() -> None:
    for program, module in PROGRAMS.items():
        parser = importlib.import_module(module).build_parser()
        for command in re.findall(rf"{program}[^|`\n]*(?:\\\n[^\n]*)*", TEXT, re.M):
            assert set(re.findall(r"--[a-z][a-z-]+", command)) - {"--help"} <= flags_of(parser)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(PROJECT_FOLDER)))
def test_what_is_to_be_typed_is_no_comment_which_zsh_would_run(page: Path) -> None:
    typed = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert not [line for block in typed for line in block.splitlines() if re.search("(^| )#", line)]


def test_the_guide_shows_each_api_that_is_enabled() -> None:
    shown = re.findall(
        r"^(?:already|switched) on +(\S+)$", section("Step 4: Enable the APIs"), re.M
    )
    assert tuple(shown) == APIS


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_FOLDER / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", TEXT, re.M))
    assert named, "no page names a make target"
    assert named <= targets


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(PROJECT_FOLDER)))
def test_every_relative_link_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target} names no heading of {linked.name}"


def test_every_direct_dependency_is_pinned_and_explained() -> None:
    pins = []
    for path in PROJECT_FOLDER.glob("requirements*.txt"):
        lines = path.read_text().splitlines()
        pins += [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert all(re.fullmatch(r"[A-Za-z0-9._\[\]-]+==[\w.]+", pin) for pin in pins)
    explained = set(re.findall(r"`([\w.-]+)`", section("Dependencies")))
    assert {re.split(r"[=\[]", pin)[0] for pin in pins} <= explained


def printed_texts() -> str:
    """Return every string that the project's programs can print; a value inside one reads `…`."""
    texts = []
    folders = ("ingestion", "local_gcp", "reporting")
    modules = [path for folder in folders for path in (PROJECT_FOLDER / folder).rglob("*.py")]
    for path in [*PROJECT_FOLDER.glob("*.py"), *modules]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sdr]|%\.\d+f", "…", node.value))
    for name in ("Makefile", "Start-project.bat", "terraform/variables.tf"):
        texts.append((PROJECT_FOLDER / name).read_text(encoding="utf-8"))
    return "\n".join(texts)


def test_every_error_text_in_troubleshooting_is_one_that_a_program_prints() -> None:
    rows = re.findall(r"^\| `([^`]+)`", section("Troubleshooting"), re.M)
    assert len(rows) >= 10
    printed = printed_texts()
    assert [text for text in rows if text not in printed] == []
