"""Places by path and by URL: copied, sent, listed and removed alike; what cannot be used is said."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.cluster.storage import Place, check_free, delivered
from heedful.errors import ConfigError, FolderError
from heedful.folders import new_folder, open_folder, write_atomically


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str | None) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_endpoint}")


@pytest.mark.usefixtures("keys")
def test_files_and_folders(storage: Place, tmp_path: Path) -> None:
    assert not storage.exists() and storage.names() == set()
    storage.make()
    (storage / "a.txt").write_text("one")
    assert (storage / "a.txt").read_text() == "one"
    (tmp_path / "made" / "deep").mkdir(parents=True)
    for name in ("x.parquet", "deep/y.parquet", "deep/.hidden.parquet", "z.csv"):
        (tmp_path / "made" / name).write_text(name)
    (storage / "folder").send(tmp_path / "made")
    assert storage.names() == {"a.txt", "folder"}
    assert [str(file) for file in (storage / "folder").files(".parquet")] == [
        f"{storage}/folder/deep/y.parquet",
        f"{storage}/folder/x.parquet",
    ]
    (storage / "folder").bring(tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "y.parquet").read_text() == "deep/y.parquet"
    with storage.gathered(["folder/deep", "a.txt"]) as here:
        assert (here / "folder/deep/y.parquet").exists() and (here / "a.txt").exists()
    before = (storage / "a.txt").stamp()
    (storage / "a.txt").write_text("other")
    assert (storage / "a.txt").stamp() != before
    (storage / "a.txt").remove()
    (storage / "folder").remove()
    assert storage.names() == set()
    (storage / "nothing").remove()
    with pytest.raises(FolderError, match=r"nothing is not there"):
        (storage / "nothing").stamp()


@pytest.mark.usefixtures("keys")
def test_a_stage_folder_is_delivered(storage: Place, tmp_path: Path) -> None:
    target = storage / "model"
    for number in (1, 2):
        with (
            delivered(target, kind="model", overwrite=number == 2) as made,
            new_folder(made, kind="model", overwrite=True) as new,
        ):
            (new.path / f"{number}.txt").write_text("text")
    target.bring(tmp_path / "back")
    assert list(open_folder(tmp_path / "back", kind="model").manifest["files"]) == ["2.txt"]
    with pytest.raises(FolderError, match="model exists already; to fix: pass --overwrite"):
        check_free(target, kind="model", overwrite=False)
    with pytest.raises(FolderError, match=r"model is in the way.*a folder of model.*expected: a free place"):
        check_free(target, kind="embeddings", overwrite=True)
    (storage / "else").send(tmp_path)
    with pytest.raises(FolderError, match=r"else is in the way"):
        check_free(storage / "else", kind="embeddings", overwrite=True)


def test_what_is_no_storage() -> None:
    with pytest.raises(ConfigError, match="a URL must not hold keys; to fix: set AWS_ACCESS_KEY_ID") as raised:
        Place.of("s3://key:secret@bucket/x")
    assert "secret@" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"unsupported storage; got: nonsense://x/y.*s3://BUCKET/FOLDER"):
        Place.of("nonsense://x/y").exists()
    assert Place.of("file:///a/b").path == Path("/a/b")


def test_a_server_that_does_not_answer_and_a_bucket_that_is_not_there(
    keys: None, s3_endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(FolderError, match=r"s3://shop/x could not be written.*check its name, the network and the keys"):
        Place.of(f"s3://shop/x?scheme=http&endpoint_override=127.0.0.1:{port}").write_text("x")
    assert time.monotonic() - started < 60
    if s3_endpoint is None:
        pytest.skip("no S3-compatible server")
    with pytest.raises(FolderError, match=r"s3://nobody/x could not be written.*bucket"):
        Place.of("s3://nobody/x").write_text("x")


def test_one_machine_alone_says_that_it_takes_no_url(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with (
        pytest.raises(FolderError, match=r"one machine alone writes to its own disks.*--cluster local"),
        write_atomically("s3://b/x"),
    ):
        pass
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", "embed", str(tmp_path), "--out", "s3://shop/embeddings"])
    assert ended.value.code == 1
    assert "pass --cluster local" in capsys.readouterr().err
