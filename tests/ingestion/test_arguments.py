"""Numbers of a command line are refused in one sentence, the same for every script."""

from __future__ import annotations

import importlib
from argparse import ArgumentTypeError, _SubParsersAction
from collections.abc import Iterator

import pytest

from ingestion.arguments import Parser, count, port, seconds
from ingestion.project import PROJECT_FOLDER

FOLDERS = (".", "benchmarks", "ey_test_tech", "local_gcp")
MODULES = [
    ".".join(path.relative_to(PROJECT_FOLDER).with_suffix("").parts)
    for folder in FOLDERS
    for path in sorted((PROJECT_FOLDER / folder).glob("*.py"))
    if "add_argument" in path.read_text(encoding="utf-8")
]


def parsers_of(module: str) -> Iterator[Parser]:
    """Yield the parser of a program, and those of its commands."""
    parser = importlib.import_module(module).build_parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("module", MODULES)
def test_every_program_has_the_parser_that_helps_and_checks_its_numbers(module: str) -> None:
    for parser in parsers_of(module):
        assert isinstance(parser, Parser)
        assert not {int, float} & {action.type for action in parser._actions}


@pytest.mark.parametrize(
    "module", [one for one in MODULES if one[-8:] == "__main__" or "." not in one]
)
def test_help_fits_a_terminal_of_80_columns(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for parser in parsers_of(module):
        assert [line for line in parser.format_help().splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "1e400", "soon", "", "1e9"])
def test_what_no_clock_can_wait_for_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no number of seconds"):
        seconds(text)


def test_seconds_may_be_parts_of_one() -> None:
    assert [seconds("0.5"), seconds("60")] == [0.5, 60.0]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "many", ""])
def test_what_counts_nothing_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no whole number"):
        count(text)


def test_a_count_is_a_whole_number() -> None:
    assert count("3") == 3


@pytest.mark.parametrize("text", ["0", "-1", "65531", "80x", "1e3", "9" * 30, ""])
def test_what_no_port_can_be_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no port from 1 to 65,530"):
        port(text, least=1, most=65_530)


def test_a_port_is_a_whole_number() -> None:
    assert [port("0"), port("8080"), port("65535")] == [0, 8080, 65_535]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--entites", "unrecognized arguments: --entites (did you mean --entities?)"),
        ("--entites=users", "unrecognized arguments: --entites=users (did you mean --entities?)"),
        ("-entities", "unrecognized arguments: -entities (did you mean --entities?)"),
        ("--poll=5", "unrecognized arguments: --poll=5 (did you mean --poll-interval?)"),
        ("--pub", "unrecognized arguments: --pub (did you mean --pubsub or --publish-timeout?)"),
        ("--zzz", "unrecognized arguments: --zzz"),
        ("users", "unrecognized arguments: users (did you mean --entities users?)"),
        ("pubsub", "unrecognized arguments: pubsub (did you mean --pubsub?)"),
        ("pubsubs", "unrecognized arguments: pubsubs (did you mean --pubsub?)"),
        ("poll", "unrecognized arguments: poll"),
    ],
)
def test_a_flag_that_is_not_whole_names_the_right_one(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser()
    parser.add_argument("--entities", choices=("products", "users"))
    for flag in ("--max-polls", "--poll-interval", "--pubsub", "--publish-timeout"):
        parser.add_argument(flag)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([typed])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


@pytest.mark.parametrize(("typed", "hint"), [("emulater", " (did you mean emulator?)"), ("x", "")])
def test_a_mistyped_value_or_command_names_the_right_one(
    capsys: pytest.CaptureFixture[str], typed: str, hint: str
) -> None:
    of_flag, of_command = Parser(), Parser()
    of_flag.add_argument("--pubsub", choices=("auto", "emulator", "stand-in"))
    of_command.add_subparsers().add_parser("emulator")
    for parser, arguments in ((of_flag, ["--pubsub", typed]), (of_command, [typed])):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith(f"){hint}\n")


def test_a_command_names_its_own_flags_and_not_those_of_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = Parser(prog="tool")
    commands = parser.add_subparsers()
    commands.add_parser("up").add_argument("--folder")
    commands.add_parser("status")
    for command, hint in (("up", " (did you mean --folder?)"), ("status", "")):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([command, "--foldr", "x"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"usage: tool {command} ")
        assert said.endswith(f"error: unrecognized arguments: --foldr x{hint}\n")
