"""The folder of versions: what is published, what is removed, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heedful.errors import ConfigError, FolderError
from heedful.updating.shop import FACTS, Shop


def publish(shop: Shop, number: int) -> None:
    shop.work.mkdir(parents=True)
    (shop.work / FACTS).write_text(json.dumps({"version": number}))
    shop.publish(number, shop.current())


def current(shop: Shop) -> int:
    version = shop.current()
    assert version is not None
    return version.number


def test_the_latest_is_in_service_and_the_way_back_leads_one_version_down(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in (1, 2, 3):
        publish(shop, number)
    assert current(shop) == 3
    assert shop.roll_back().number == current(shop) == 2
    assert shop.roll_back().number == current(shop) == 1
    with pytest.raises(ConfigError, match="no such version"):
        shop.roll_back()
    assert shop.roll_back(3).number == current(shop) == 3
    with pytest.raises(ConfigError, match=r"no such version.*expected: 1, 2, 3"):
        shop.roll_back(9)


def test_old_versions_are_removed_but_never_the_one_in_service(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in range(1, 6):
        publish(shop, number)
    shop.roll_back(1)
    shop.remove_old(2)
    assert [version.number for version in shop.versions()] == [1, 4, 5]
    assert not list(tmp_path.glob(".removed-*"))


def test_a_run_that_was_killed_between_rename_and_link_is_finished_by_the_next(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    publish(shop, 1)
    (tmp_path / "versions" / "0002").mkdir()
    (tmp_path / ".publishing").write_text("2")
    with shop.locked():
        assert current(shop) == 2
    # A way back is a decision: the next run does not undo it.
    shop.roll_back(1)
    with shop.locked():
        assert current(shop) == 1


def test_a_marker_without_its_version_changes_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    publish(shop, 1)
    (tmp_path / ".publishing").write_text("2")
    with shop.locked():
        assert current(shop) == 1


def test_a_link_that_leads_nowhere_says_what_to_do(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    publish(shop, 1)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("versions/0007")
    with pytest.raises(FolderError, match=r"leads nowhere.*heedful rollback"):
        shop.current()
