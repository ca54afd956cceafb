"""Numbers of a command line are refused in one sentence, the same for every script."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from ingestion.arguments import Parser, count, seconds


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


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--entites", "unrecognized arguments: --entites (did you mean --entities?)"),
        ("--entites=users", "unrecognized arguments: --entites=users (did you mean --entities?)"),
        ("--zzz", "unrecognized arguments: --zzz"),
    ],
)
def test_a_mistyped_flag_names_the_right_one(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser()
    parser.add_argument("--entities")
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
