"""What may be wrong with a cluster is said before the work, with what to do about it."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.cluster import connect, connection
from heedful.cluster.connection import check_paths
from heedful.cluster.storage import Place
from heedful.errors import ClusterError, FolderError, MissingExtraError


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heedful\[cluster\]'"), connect("auto"):
        pass
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", "score", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out"), "--cluster", "auto"])
    assert ended.value.code == 1
    assert "pip install 'heedful[cluster]'" in capsys.readouterr().err


def test_an_address_where_nothing_answers_is_found_out_at_once() -> None:
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match=f"nothing answers at 127.0.0.1:{port}.*ray start --head"),
        connect(f"127.0.0.1:{port}"),
    ):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", "host:port", ":6379"])
def test_an_invalid_address(address: str) -> None:
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    with (
        pytest.raises(ClusterError, match=r"invalid address of a cluster.*expected: auto, local or HOST:PORT"),
        connect(address),
    ):
        pass


def test_a_node_with_another_version(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_VERSION", "9.9.9")
    with (
        pytest.raises(ClusterError, match=r"the node .* has another version of heedful; got: 0\.1\.0; expected: 9\.9\.9"),
        connect("auto"),
    ):
        pass


def test_a_node_without_heedful(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "on_every_node", lambda function: {"10.0.0.7 (abc)": None})
    with (
        pytest.raises(ClusterError, match=r"the node 10\.0\.0\.7 \(abc\) has no heedful.*pip install 'heedful\[cluster\]=="),
        connect("auto"),
    ):
        pass


def test_storage_that_nodes_do_not_share(ray_session: None, tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    check_paths([place], place)
    with pytest.raises(FolderError, match=r"the node .* does not share this storage; got: .*nowhere is not there"):
        check_paths([place / "nowhere"])
    with pytest.raises(FolderError, match=r"does not share this storage; got: .* cannot be written"):
        check_paths([], place / "nowhere")
    assert list(tmp_path.iterdir()) == []
