"""Files that survive a kill: what is left behind where a write fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ingestion import durable_files
from ingestion.durable_files import (
    append_lines,
    identity_of,
    make_folder,
    read_lines,
    replace_file,
    single_writer,
)


def test_the_parents_of_a_new_folder_are_made_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable_files, "_fsync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    replace_file(tmp_path / "a" / "c" / "file", [b"x"], "any")
    assert synced[2:] == [tmp_path / "a", tmp_path / "a" / "c"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace_file(file, [b"old"], "any")

    def blocks() -> object:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=f"No space left on device: '{file}'"):
        replace_file(file, blocks(), "any")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


def test_a_disk_without_room_for_a_pid_is_told_with_the_file(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*/any\.pid"):
            single_writer(tmp_path / "any").__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_moved_keeps_its_identity_and_what_is_copied_does_not(tmp_path: Path) -> None:
    file, moved, copy = (tmp_path / name for name in ("file", "moved", "copy"))
    file.write_bytes(b"x")
    identity = identity_of(file)
    if not identity:
        pytest.skip("this file system does not tell a file from its copy")
    file.rename(moved)
    assert identity_of(moved) == identity
    shutil.copy2(moved, copy)
    moved.unlink()
    shutil.copy2(copy, moved)  # perhaps with the number of the one that has gone
    assert len({identity, identity_of(copy), identity_of(moved)}) == 3


def test_a_file_that_a_reader_holds_is_replaced_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file cannot be replaced while it is open."""
    attempts = []
    replace = Path.replace

    def held_twice(path: Path, target: Path) -> Path:
        attempts.append(path)
        if len(attempts) < 3:
            raise PermissionError(13, "the file is in use")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", held_twice)
    monkeypatch.setattr(durable_files, "HELD_FILE_SECONDS", 60.0)
    replace_file(tmp_path / "file", [b"new"], "any")
    assert (len(attempts), (tmp_path / "file").read_bytes()) == (3, b"new")
    monkeypatch.setattr(durable_files, "HELD_FILE_SECONDS", 0.0)
    attempts.clear()
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "file", [b"newer"], "any")


def test_an_append_drops_the_torn_line_before_it(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"one\n" + b"t" * 100_000)
    assert list(read_lines(file)) == [b"one"]
    append_lines(file, [b"two"], "any")
    assert file.read_bytes() == b"one\ntwo\n"


def test_an_append_to_a_file_of_one_torn_line_begins_it_anew(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"torn")
    append_lines(file, [b"one"], "any")
    assert file.read_bytes() == b"one\n"


def test_a_last_line_that_lacks_its_newline_only_is_whole(tmp_path: Path) -> None:
    """As an editor leaves it."""
    file = tmp_path / "file"
    file.write_bytes(b'{"a":1}\n{"b":2}')
    assert list(read_lines(file)) == [b'{"a":1}', b'{"b":2}']
    append_lines(file, [b'{"c":3}'], "any")
    assert file.read_bytes() == b'{"a":1}\n{"b":2}\n{"c":3}\n'


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    with pytest.raises(OSError, match=r"directory: '.*/file\.json'$"):
        replace_file(tmp_path / "file.json", [b"{}"], "state")
    assert list(tmp_path.iterdir()) == [tmp_path / "file.json"]
