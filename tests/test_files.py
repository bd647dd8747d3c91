"""Files that survive a crash: old or new but never a part, torn lines, full disks."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa import files
from jepa.files import FileLock, JSONLines, atomic_path, open_regular, read_lines, write_text


@pytest.mark.parametrize("durable", [True, False])
def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("old", "new, with ü"):
        with atomic_path(path, durable=durable) as temporary:
            assert temporary.parent == path.parent, "another file system could not be renamed from"
            temporary.write_text(text, encoding="utf-8")
            assert path.exists() is (text != "old")
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException], written: bool
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            if written:
                temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_share_their_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(str(tmp_path / "file.txt"), "λ = 0.5\n")
    assert (tmp_path / "file.txt").read_bytes() == "λ = 0.5\n".encode()


KILLED = """
import runpy, sys
from pathlib import Path
path = Path(sys.argv[2])
write_text = runpy.run_path(sys.argv[1])["write_text"]  # without the seconds that importing torch takes
print("ready", flush=True)
while True:
    for letter in "ab":
        write_text(path, letter * 1_000_000, durable=False)
"""


def test_a_writer_killed_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "a" * 1_000_000)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, files.__file__, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            inode = path.stat().st_ino
            while path.stat().st_ino == inode:  # until it has replaced the file at least once
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_lines_are_on_disk_when_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    lines = JSONLines(path, durable=True)
    for number in range(3):
        lines.append({"step": number, "name": "α\n"})
        assert read_lines(path)[-1] == {"step": number, "name": "α\n"}
    lines.close()
    lines.close()
    assert path.read_bytes().count(b"\n") == 3
    again = JSONLines(path)
    again.append({"step": 3})
    again.close()
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2, 3]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.booleans())
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_takes_new_ones(tmp_path: Path, cut: int, durable: bool) -> None:
    path = tmp_path / "lines.jsonl"
    path.unlink(missing_ok=True)
    records = [{"step": number, "name": "ü" * number, "list": [number]} for number in range(5)]
    lines = JSONLines(path)
    for record in records:
        lines.append(record)
    lines.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    # A cut just before a newline leaves a record that is whole.
    expected = records[: complete + (whole[cut : cut + 1] == b"\n")]
    assert read_lines(path) == expected
    again = JSONLines(path, durable=durable)
    again.append({"step": 99})
    again.close()
    assert read_lines(path) == [*expected, {"step": 99}]


def test_a_missing_file_has_no_lines_and_damaged_ones_are_skipped(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "nothing.jsonl") == []
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a":1}\n\xff\xfe{"b"\n[1]\n\n3\n{"c":3}\n{"d":')
    with path.open("ab") as file:
        file.write(b"\n" + b"[" * 100_000 + b"\n" + b"1" * 10_000)
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


def test_a_record_that_is_no_json_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    lines = JSONLines(tmp_path / "lines.jsonl")
    lines.append({"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        lines.append({"a": object()})
    lines.append({"a": 2})
    lines.close()
    assert read_lines(tmp_path / "lines.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.fixture
def small_disk(mount: Callable[..., Path]) -> Path:
    """A file system of 64 kB."""
    return mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "file.txt"
    write_text(path, "old" * 1000)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new" * 100_000)
    assert path.read_text() == "old" * 1000
    assert list(small_disk.iterdir()) == [path], "the temporary file still fills the disk"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_full_disk_loses_no_line_and_appending_goes_on_when_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40_000))
    lines = JSONLines(small_disk / "lines.jsonl")

    def fill() -> None:
        for step in range(1000):
            lines.append({"step": step, "text": "x" * 500})

    with pytest.raises(OSError, match="No space left"):
        fill()
    kept = [record["step"] for record in read_lines(small_disk / "lines.jsonl")]
    count = len(kept)
    assert kept == list(range(count))
    assert 10 < count < 1000
    ballast.unlink()
    lines.append({"step": -1})
    lines.close()
    found = [record["step"] for record in read_lines(small_disk / "lines.jsonl")]
    # The line that did not fit may come later, but nothing is torn, doubled, or out of order.
    assert found in ([*range(count), -1], [*range(count), count, -1])


def test_no_file_stays_open(tmp_path: Path) -> None:
    lines = JSONLines(tmp_path / "lines.jsonl")
    lines.close()
    with atomic_path(tmp_path / "file") as temporary:
        temporary.touch()
    held = {Path(file.path) for file in psutil.Process().open_files()}
    assert not {path for path in held if path.is_relative_to(tmp_path)}


def test_a_lock_is_held_once_and_can_be_taken_again(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_whether_a_lock_is_held_can_be_seen_without_disturbing_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert not lock.is_held()
    assert not path.exists()
    assert lock.acquire()
    assert FileLock(path).is_held()
    assert lock.is_held()
    lock.release()
    assert not FileLock(path).is_held()


def test_a_look_at_a_lock_does_not_keep_anyone_from_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.005, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        lock = FileLock(path)
        assert lock.acquire()
        lock.release()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys, time; from jepa.files import FileLock; lock = FileLock(sys.argv[1])"
    code += "; print(lock.acquire(), flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not FileLock(tmp_path / "lock").acquire()
        other.kill()
        other.wait(10)
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    file, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    file.write_bytes(b"text")
    link.symlink_to(file)
    os.mkfifo(pipe)  # to open one waits for a writer
    for path in (file, link):
        with open_regular(path, links=True) as opened:
            assert opened.read() == b"text"
    for path, links in ((link, False), (pipe, False), (pipe, True), (tmp_path, True), (Path("/dev/zero"), True)):
        with pytest.raises(ValueError, match="it is no regular file"):
            open_regular(path, links=links)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing", links=True)


def test_a_line_that_is_nested_too_deeply_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 100_000 + '\n{"b": 2}\n')
    assert read_lines(path) == [{"a": 1}, {"b": 2}]
