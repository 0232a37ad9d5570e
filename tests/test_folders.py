"""Stage folders and files: whole or not at all, and checked when they are opened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heedful import folders
from heedful.errors import FolderError
from heedful.folders import FORMAT_VERSION, Folder, check_writable, new_folder, open_folder, write_atomically
from ranking_worlds import python, unprivileged


def make(path: Path, text: str = "content", **options: Any) -> Folder:
    with new_folder(path, kind="model", **options) as folder:
        (folder.path / "a.txt").write_text(text)
        (folder.path / "inner").mkdir()
        (folder.path / "inner" / "b.bin").write_bytes(b"12345")
        folder.manifest["fact"] = 7
    return open_folder(path, kind="model")


def names_in(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


@pytest.fixture
def finished_process() -> str:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_what_is_written_can_be_opened(tmp_path: Path) -> None:
    folder = make(tmp_path / "deep" / "er" / "model")
    assert folder.file("a.txt").read_text() == "content" and folder.file("inner/b.bin").read_bytes() == b"12345"
    assert folder.has("a.txt") and not folder.has("c.txt") and folder.manifest["fact"] == 7
    assert folder.manifest["format_version"] == FORMAT_VERSION and folder.manifest["kind"] == "model"
    assert folder.manifest["versions"]["heedful"] and folder.manifest["created"].endswith("+00:00")
    folder.verify()
    assert names_in(tmp_path / "deep" / "er") == ["model"]
    with pytest.raises(FolderError, match=r"model has no file 'c.txt'; got: a.txt, inner/b.bin; expected: c.txt"):
        folder.file("c.txt")


def test_the_hash_is_that_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    one, same, other = make(tmp_path / "1"), make(tmp_path / "2"), make(tmp_path / "3", "other")
    assert one.content_hash == same.content_hash != other.content_hash
    shutil.move(tmp_path / "1", tmp_path / "moved")
    assert open_folder(tmp_path / "moved", kind="model").content_hash == one.content_hash


def test_nothing_is_there_before_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model", kind="model") as folder:
        assert not (tmp_path / "model").exists()
        assert names_in(tmp_path) == [folder.path.name] and folder.path.name.startswith(".model.partial-")


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "model", kind="model") as folder:
        (folder.path / "a.txt").write_text("x")
        raise error
    assert names_in(tmp_path) == []


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "model", kind="model"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FolderError, match=r"model could not be written; got: .*No space left.*free space and permissions"):
        fill()
    assert names_in(tmp_path) == []


def test_overwrite(tmp_path: Path) -> None:
    make(tmp_path / "model")
    with pytest.raises(
        FolderError, match=r"model exists already; to fix: pass --overwrite to replace it, or choose another"
    ):
        make(tmp_path / "model", "new")
    assert open_folder(tmp_path / "model", kind="model").file("a.txt").read_text() == "content"
    assert make(tmp_path / "model", "new", overwrite=True).file("a.txt").read_text() == "new"
    assert names_in(tmp_path) == ["model"]


def test_readers_find_the_old_one_or_the_new_one_at_any_time(tmp_path: Path) -> None:
    make(tmp_path / "model")
    done, missing = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            if not (tmp_path / "model" / "a.txt").exists():
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        make(tmp_path / "model", str(number), overwrite=True)
    done.set()
    reader.join()
    assert not missing and names_in(tmp_path) == ["model"]


def test_overwrite_where_folders_cannot_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    make(tmp_path / "model")
    assert make(tmp_path / "model", "new", overwrite=True).file("a.txt").read_text() == "new"
    assert names_in(tmp_path) == ["model"]


def test_a_failed_overwrite_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "model")
    with pytest.raises(ValueError, match="half way"), new_folder(tmp_path / "model", kind="model", overwrite=True):
        raise ValueError("half way")
    assert open_folder(tmp_path / "model", kind="model").file("a.txt").read_text() == "content"
    assert names_in(tmp_path) == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_heedful_did_not_make_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "file").write_text("mine")
    with new_folder(tmp_path / "embeddings", kind="embeddings"):
        pass
    for name, got in (
        ("photos", "a file or folder that heedful did not make"),
        ("file", "a file or folder that heedful did not make"),
        ("embeddings", "a folder of embeddings"),
    ):
        with pytest.raises(FolderError, match=rf"{name} is in the way; got: {got}; expected: a free place; to fix: choose"):
            make(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"miaow" and (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_a_free_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    make(tmp_path / "model").verify()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "model", tmp_path / "file" / "deeper" / "model"):
        with pytest.raises(FolderError, match=r"file(/deeper)? cannot be created; got: .*; to fix: choose another --out"):
            check_writable(out, kind="model")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder in which nobody may write, outside those that only the owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="heedful-read-only-"))
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_parent(read_only: Path) -> None:
    with unprivileged():
        for out in (read_only / "model", read_only / "new" / "model"):
            with pytest.raises(FolderError, match=r"(is not writable|could not be written|cannot be created); .*to fix: "):
                make(out)
        with (
            pytest.raises(FolderError, match=r"x.parquet could not be written; got: .*ermission denied"),
            write_atomically(read_only / "x.parquet") as path,
        ):
            path.write_text("x")
    assert names_in(read_only) == []


# Opening


def test_what_is_no_folder_of_that_kind(tmp_path: Path) -> None:
    make(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match=r"nowhere is not a folder of model; got: no such folder; .*`heedful train`"):
        open_folder(tmp_path / "nowhere", kind="model")
    with pytest.raises(
        FolderError, match=r"empty is not a finished folder of sequences; got: no manifest.json.*`heedful prepare`"
    ):
        open_folder(tmp_path / "empty", kind="sequences")
    with pytest.raises(FolderError, match=r"model holds something else; got: model; expected: embeddings.*`heedful embed`"):
        open_folder(tmp_path / "model", kind="embeddings")
    with pytest.raises(FolderError, match=r"is not a folder of report; .*`heedful evaluate`"):
        open_folder(tmp_path / "model" / "a.txt", kind="report")


def test_damage_is_found(tmp_path: Path) -> None:
    make(tmp_path / "model")
    file = tmp_path / "model" / "inner" / "b.bin"
    for content, match in (
        (b"1234", r"inner/b.bin is damaged; got: 4 bytes; expected: 5 bytes; to fix: make the folder again"),
        (b"12346", r"inner/b.bin has been changed since it was written; got: another hash"),
    ):
        file.write_bytes(content)
        with pytest.raises(FolderError, match=match):
            open_folder(tmp_path / "model", kind="model")
    file.unlink()
    with pytest.raises(FolderError, match=r"inner/b.bin is missing; to fix: make the folder again or restore the file"):
        open_folder(tmp_path / "model", kind="model")


def test_large_files_are_hashed_by_verify_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "model")
    monkeypatch.setattr(folders, "HASHED_ON_OPEN_BYTES", 5)
    (tmp_path / "model" / "a.txt").write_text("CONTENT")
    folder = open_folder(tmp_path / "model", kind="model")
    with pytest.raises(FolderError, match=r"a.txt has been changed since it was written"):
        folder.verify()
    monkeypatch.setattr(folders, "HASHED_ON_OPEN_BYTES", 7)
    with pytest.raises(FolderError, match=r"a.txt has been changed since it was written"):
        open_folder(tmp_path / "model", kind="model")


@pytest.mark.parametrize("name", ["../outside.txt", "inner/../../outside.txt", "/etc/hostname"])
def test_a_manifest_cannot_name_what_lies_outside(tmp_path: Path, name: str) -> None:
    make(tmp_path / "model")
    (tmp_path / "outside.txt").write_text("secret")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 6, "sha256": "?"}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match=r"manifest.json names a file outside its folder; got: .*(outside.txt|hostname)"):
        open_folder(tmp_path / "model", kind="model")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "manifest.json cannot be read"),
        ("{ half", "manifest.json cannot be read"),
        ("[1]", "manifest.json is not a manifest"),
        ("{}", "manifest.json is not a manifest"),
        ('{"files": {"a.txt": 3}}', "manifest.json is not a manifest"),
        ('{"files": {"a.txt": {"bytes": 7}}}', "manifest.json is not a manifest"),
        (b"\xff\xfe\x00", "manifest.json cannot be read"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, text: str | bytes, match: str) -> None:
    make(tmp_path / "model")
    (tmp_path / "model" / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FolderError, match=match):
        open_folder(tmp_path / "model", kind="model")


# What killed runs leave behind

_KILLED = """
import os, signal, sys
from heedful.folders import new_folder, write_atomically
with new_folder(sys.argv[1], kind="model") as folder:
    (folder.path / "manifest.json").write_text("{}")
    with write_atomically(sys.argv[2]) as path:
        path.write_text("half a fi")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_nothing_that_is_taken_for_a_whole(tmp_path: Path) -> None:
    assert python(_KILLED, tmp_path / "model", tmp_path / "file").returncode == -9
    assert not (tmp_path / "model").exists() and not (tmp_path / "file").exists()
    assert len(names_in(tmp_path)) == 2
    with pytest.raises(FolderError, match="no such folder"):
        open_folder(tmp_path / "model", kind="model")
    make(tmp_path / "model")
    with write_atomically(tmp_path / "file") as path:
        path.write_text("whole")
    assert names_in(tmp_path) == ["file", "model"]


def test_only_what_killed_runs_left_is_removed(tmp_path: Path, finished_process: str) -> None:
    stale, running = tmp_path / f".m [1].partial-{finished_process}-ab", tmp_path / f".m [1].partial-{os.getpid()}-cd"
    other = tmp_path / f".other.partial-{finished_process}-ef"
    for folder in (stale, running, other):
        folder.mkdir()
        (folder / "x").write_text("x")
    make(tmp_path / "m [1]")
    assert names_in(tmp_path) == sorted([running.name, other.name, "m [1]"])


# Single files


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with write_atomically(target) as path:
        path.write_text("one")
        assert not target.exists()
    with pytest.raises(ValueError, match="half way"), write_atomically(target) as path:
        path.write_text("two")
        raise ValueError("half way")
    assert target.read_text() == "one" and names_in(target.parent) == ["file"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "taken", tmp_path / "file" / "below"):
        with (
            pytest.raises(FolderError, match=rf"{target.name} could not be written; got: .*; to fix: check free space"),
            write_atomically(target) as path,
        ):
            path.write_text("y")
    assert names_in(tmp_path) == ["file", "taken"]
