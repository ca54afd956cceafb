"""Files that survive a kill at any instruction, and the lock that leaves them to one process.

A file is replaced whole (`.tmp`, fsync, rename) or grows by whole lines of JSON (append, fsync); a
line that a kill has cut short is dropped by the next append and skipped by every reader. A last
line that lacks its newline only is whole: some editors leave it so. A write that fails (a full
disk) leaves no `.tmp` behind, and its OSError names the file.

For the crash tests, FAILPOINT=<step> or FAILPOINT=<step>:<n> in the environment makes the
process kill itself at the first or n-th passage of one of STEPS; it counts only beside
FAILPOINTS_ARMED, which nothing but tests/conftest.py sets.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# every durable step of the near-real-time stage, in the order in which a poll takes them;
# "-torn" is half of a write, "-written" is on the disk but not yet under its name
STEPS = (
    "quarantine-torn",
    "quarantine-appended",
    "batch-torn",
    "batch-written",
    "batch-replaced",
    "checkpoint-torn",
    "checkpoint-written",
    "checkpoint-replaced",
    "state-torn",
    "state-written",
    "state-replaced",
    "event-acknowledged",
    "dead_letter-torn",
    "dead_letter-appended",
    "published-torn",
    "published-appended",
    "batch-removed",
    "last_poll-torn",
    "last_poll-written",
    "last_poll-replaced",
    "replay-torn",
    "replay-written",
    "replay-replaced",
)

# a process that has just got the lock needs a moment to write its pid beside it
LOCK_SECONDS = 0.5

# on Windows a file that somebody reads cannot be replaced; readers are quick
HELD_FILE_SECONDS = 2.0 if os.name == "nt" else 0.0

FAILPOINTS_ARMED = ("FAILPOINTS_ARMED", "this process may kill itself")

_READ_BYTES = 1 << 16
# of linux/fs.h: the generation of an inode, which tells two files apart that had its number
_FS_IOC_GETVERSION = 0x80087601
_passages: Counter[str] = Counter()


class AnotherWriterError(Exception):
    """Another process holds the lock; `pid` is its process id, or None where it is unknown."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"another process (pid {pid or 'unknown'}) is at work")
        self.pid = pid


class LockGoneError(Exception):
    """Somebody has removed the lock's file, so another process may be at work by now."""


def failpoint(step: str, file: BinaryIO | None = None, block: bytes = b"") -> None:
    """Kill this process if an armed FAILPOINT names `step`, half of `block` written."""
    named, _, passage = os.environ.get("FAILPOINT", "").partition(":")
    name, value = FAILPOINTS_ARMED
    if named != step or os.environ.get(name) != value:
        return
    _passages[step] += 1
    if _passages[step] == int(passage or 1):
        if file:
            file.write(block[: len(block) // 2])
            file.flush()
        # Windows has no SIGKILL; there, SIGTERM to a pid is TerminateProcess
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def replace_file(path: Path, blocks: Iterable[bytes], step: str, *, durable: bool = True) -> None:
    """Write `blocks` as the whole content of `path`; readers see the old file or the new one.

    `durable=False` leaves out the fsync, for a file whose loss in a power cut costs nothing.
    """
    make_folder(path.parent)
    temporary = temporary_of(path)
    try:
        with _naming(path), temporary.open("wb") as file:
            for block in blocks:
                failpoint(f"{step}-torn", file, block)
                file.write(block)
            if durable:
                _fsync(file)
        failpoint(f"{step}-written")
        _rename(temporary, path)
    except BaseException:
        # a disk that is full would stay so
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _fsync_folder(path.parent)
    failpoint(f"{step}-replaced")


def temporary_of(path: Path) -> Path:
    """Return where the next content of `path` is written, before it is renamed."""
    return path.with_name(path.name + ".tmp")


def identity_of(path: Path) -> str:
    """Return what a file keeps when it is moved, and what no copy of it has.

    Empty where the file system does not say: ext4, xfs and btrfs do, most shared folders do not,
    and on those the number of an inode may change by itself.
    """
    if fcntl is None:
        return ""
    try:
        with path.open("rb") as file:
            generation = fcntl.ioctl(file, _FS_IOC_GETVERSION, bytes(8))
            number = os.fstat(file.fileno()).st_ino
    except OSError:
        return ""
    return f"{number}.{int.from_bytes(generation, sys.byteorder)}"


def append_lines(path: Path, lines: Iterable[bytes], step: str) -> None:
    """Append `lines`, given without their newlines, to `path`, and fsync it."""
    block = b"".join(line + b"\n" for line in lines)
    make_folder(path.parent)
    with _naming(path), path.open("a+b") as file:
        _end_last_line(file)
        failpoint(f"{step}-torn", file, block)
        file.write(block)
        _fsync(file)
    _fsync_folder(path.parent)
    failpoint(f"{step}-appended")


def end_last_line(path: Path) -> None:
    """Cut off a last line that a kill has torn, where nothing will be appended any more."""
    with _naming(path), path.open("a+b") as file:
        _end_last_line(file)
        _fsync(file)


def set_aside(path: Path) -> Path:
    """Keep what lies at `path` under another name, where an older one goes; return that name."""
    target = path.with_name(f"{path.stem}.replaced{path.suffix}")
    _rename(path, target)
    _fsync_folder(path.parent)
    return target


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each durable in the one above it."""
    if folder.is_dir():
        return
    if folder.parent != folder:  # as is the root of a drive that Windows has not
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_folder(folder.parent)


def read_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the complete lines of `path` from byte `start` on, without their newlines.

    A torn last line is left out.
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]
            elif _is_whole(line):
                yield line


@contextmanager
def single_writer(path: Path) -> Iterator[Callable[[], None]]:
    """Hold `{path}.lock` for this process, or raise AnotherWriterError.

    The lock is the operating system's and ends with the process, however that ends. But it is a
    file's, and the next process makes another one where that has been removed: what is yielded
    raises LockGoneError then. The pid stands in a file beside it, because Windows lets nobody
    read a locked file.
    """
    make_folder(path.parent)
    pid_file = path.with_name(path.name + ".pid")
    lock_file = path.with_name(path.name + ".lock")
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise AnotherWriterError(_read_pid(pid_file)) from None
    try:
        with _naming(pid_file):
            pid_file.write_text(str(os.getpid()))
        with lock_file.open("rb") as held:

            def check() -> None:
                if os.fstat(held.fileno()).st_nlink == 0:
                    raise LockGoneError(
                        f"{lock_file} was removed while this process held it, so another one may "
                        "be at work: this one has stopped, and nothing is lost. Leave the .lock "
                        "files alone, end the other one where there is one, and run again."
                    )

            yield check
    finally:
        pid_file.unlink(missing_ok=True)
        lock.release()


def _read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text())
    except (OSError, ValueError):
        return None


def _is_whole(line: bytes) -> bool:
    """Tell whether a line without its newline is a JSON object, which no beginning of one is."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _end_last_line(file: BinaryIO) -> None:
    """Drop a last line that is torn, or give it the newline that it lacks."""
    end = position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _READ_BYTES)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position == end:
        return
    file.seek(position)
    if _is_whole(file.read()):
        file.write(b"\n")
    else:
        file.truncate(position)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _rename(path: Path, target: Path) -> None:
    end = time.monotonic() + HELD_FILE_SECONDS
    while True:
        try:
            path.replace(target)
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
        except OSError as error:
            # what is in the way lies at the target
            raise OSError(error.errno, error.strerror, str(target)) from None
        else:
            return


def _fsync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
