"""What is served changes while requests go on: models, slots, keys, a database that comes late."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_worlds import SLOTS, shop_attributes, shop_log, train

from heedful.errors import FolderError, HeedfulError, InputError
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig
from heedful.serving.security import add_key
from heedful.serving.store import Store, StoreUnavailable
from ranking_worlds import table_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    train("last-item").save(folder / "first")
    train("popularity").save(folder / "second")
    return folder


@pytest.fixture
def serving(models: Path, tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "slots.toml").write_text(SLOTS)
    (tmp_path / "shared").mkdir()
    serving = Serving(Choice(str(models / "first")), config(tmp_path), tmp_path / "shared")
    serving.start()
    yield serving
    serving.close()


def config(folder: Path, **options: object) -> ServeConfig:
    return ServeConfig.from_dict({"database": str(folder / "shop.sqlite"), "slots": str(folder / "slots.toml"), **options})


def test_another_model_takes_over(serving: Serving) -> None:
    old = serving.engine
    loaded = serving.swap("second")
    assert serving.engine.ranker.name == "popularity" and serving.engine.version == loaded.version != old.version
    assert old.rank(old.past_of(["item1"]), ["item2"]).rows.tolist() == [2]  # a request under way ends with the old one
    assert serving.engine.slots is not None and serving.engine.slots.ranker is serving.engine.ranker


def test_the_other_workers_follow(serving: Serving, models: Path, tmp_path: Path) -> None:
    other = Serving(Choice(str(models / "first")), serving.config, tmp_path / "shared")
    other.start()
    serving.swap("second")
    assert other.engine.ranker.name == "last-item"
    other.refresh()
    assert other.engine.ranker.name == "popularity" and other.engine.version == serving.engine.version
    late = Serving(Choice(str(models / "first")), serving.config, tmp_path / "shared")  # as after a crash
    late.start()
    assert late.engine.ranker.name == "popularity"
    for one in (other, late):
        one.close()


def test_a_model_in_the_place_of_the_old(serving: Serving, models: Path) -> None:
    before = serving.engine.version
    serving.refresh()
    assert serving.engine.version == before
    train("averaging").save(models / "first", overwrite=True)
    serving.refresh()
    assert serving.engine.ranker.name == "averaging" and serving.problems == {}


def test_a_link_that_is_turned_to_another_model(models: Path, tmp_path: Path) -> None:
    (models / "current").symlink_to("first")
    serving = Serving(Choice(str(models / "current")), config(tmp_path))
    serving.start()
    (models / "next").symlink_to("second")
    (models / "next").rename(models / "current")
    serving.refresh()
    assert serving.engine.ranker.name == "popularity"
    serving.close()


@pytest.mark.parametrize("damage", ["no folder", "no manifest", "manifest", "weights", "nothing"])
def test_a_broken_model_is_refused_and_the_old_one_stays(serving: Serving, models: Path, damage: str) -> None:
    broken, old = models / "second", serving.engine
    if damage == "no folder":
        shutil.rmtree(broken)
    elif damage == "no manifest":
        (broken / "manifest.json").unlink()
    elif damage == "manifest":
        (broken / "manifest.json").write_text("{")
    elif damage == "weights":
        (broken / "users_of_item.npy").write_bytes(b"nonsense")
    if damage == "nothing":
        assert serving.swap("second").ranker.name == "popularity"
        return
    with pytest.raises(FolderError):
        serving.swap("second")
    assert serving.engine is old
    serving.refresh()
    assert serving.engine is old and serving.problems == {}


def test_a_watched_model_that_breaks_is_reported_until_it_is_whole_again(serving: Serving, models: Path) -> None:
    old = serving.engine
    manifest = models / "first" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text("{")
    serving.refresh()
    assert serving.engine is old and "manifest.json cannot be read" in serving.problems["model"]
    manifest.unlink()
    serving.refresh()
    assert serving.engine is old and "no manifest.json" in serving.problems["model"]
    manifest.write_text(whole)
    serving.refresh()
    assert serving.problems == {} and serving.engine.version == old.version


@pytest.mark.parametrize("path", ["..", "../..", "/etc", "../models-of-others/x", "second/../../../etc"])
def test_models_from_elsewhere_are_out_of_reach(serving: Serving, path: str) -> None:
    with pytest.raises(InputError, match="out of reach"):
        serving.swap(path)


def test_a_path_that_no_system_takes(serving: Serving) -> None:
    with pytest.raises(HeedfulError):
        serving.swap("x" * 256)


def test_a_model_that_the_slots_do_not_fit(serving: Serving, models: Path) -> None:
    log = shop_log()
    attributes = shop_attributes().drop_columns(["department"])
    ranker = train("last-item")
    ranker.fit(log, table_of(log.catalog.items.ids, attributes=attributes)).save(models / "third")
    old = serving.engine
    with pytest.raises(HeedfulError, match=r"slot 'books'.*unknown column.*department"):
        serving.swap("third")
    assert serving.engine is old


def test_slots_that_are_edited(serving: Serving, tmp_path: Path) -> None:
    old = serving.engine
    file = tmp_path / "slots.toml"
    file.write_text(SLOTS + "[[slot]]\nname = 'x'\nrule = 'nonsense'\n")
    serving.refresh()
    assert serving.engine is old and "rule is wrong" in serving.problems["slots"]
    file.write_text(SLOTS.replace('"books"', '"novels"'))
    serving.refresh()
    assert serving.engine.slots is not None and [slot.name for slot in serving.engine.slots.slots] == ["novels"]
    assert serving.problems == {} and "novels" in serving.slots_text


def test_slots_from_the_page_reach_the_other_workers(serving: Serving, models: Path, tmp_path: Path) -> None:
    other = Serving(Choice(str(models / "first")), serving.config, tmp_path / "shared")
    other.start()
    serving.put_slots(SLOTS.replace('"books"', '"novels"'))
    other.refresh()
    assert other.slots_text == serving.slots_text == (tmp_path / "slots.toml").read_text()
    other.close()
    with pytest.raises(HeedfulError):
        serving.put_slots("nonsense")
    assert "novels" in serving.slots_text and "novels" in (tmp_path / "slots.toml").read_text()


def test_keys_that_are_added_and_taken_out(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = add_key(file, "first", ["rank"])
    serving = Serving(Choice(str(models / "first")), config(tmp_path, keys=str(file)))
    serving.start()
    second = add_key(file, "second", ["rank"])
    assert serving.keys is not None and serving.keys.find(second) is None
    serving.refresh()
    assert serving.keys.find(first) and serving.keys.find(second)
    file.write_text("[[key]")
    serving.refresh()
    assert serving.keys.find(first) and "not a file of API keys" in serving.problems["keys"]  # a broken file opens nothing
    for closed in (lambda: file.write_text(""), file.unlink):
        closed()
        serving.refresh()
        assert serving.keys.find(first) is None and "holds no API key" in serving.problems["keys"]
        third = add_key(file.with_name("other.toml"), "third", ["rank"])
        file.with_name("other.toml").rename(file)
        serving.refresh()
        assert serving.keys.find(third) and serving.problems == {}
    serving.close()


def test_a_database_that_comes_late(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **options: object) -> Store:
        raise StoreUnavailable("the database cannot be reached")

    serving = Serving(Choice(str(models / "first")), config(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "open", gone)
        serving.start()
        engine = serving.engine
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            engine.past("ann")
        assert engine.rank(engine.past_of(["item2"]), ["item1"]).rows.tolist() == [1]  # which needs no database
        serving.refresh()
        assert "database" in serving.problems
    serving.refresh()
    assert serving.problems == {} and serving.engine.rank(serving.engine.past("ann"), ["item1"]).rows.tolist() == [1]
    serving.close()


def test_what_cannot_be_served_at_all(models: Path, tmp_path: Path) -> None:
    for choice, options, words in (
        (Choice(str(models / "nowhere")), {}, "no such folder"),
        (Choice(str(models / "first"), str(models / "second")), {}, "holds something else"),
        (Choice(str(models / "first")), {"keys": str(tmp_path / "keys.toml")}, "holds no API key"),
    ):
        with pytest.raises(HeedfulError, match=words):
            Serving(choice, config(tmp_path, **options)).start()


def test_the_choice_is_kept_for_workers_that_start_later(serving: Serving, models: Path, tmp_path: Path) -> None:
    """Also for a server that starts later; another model in the place of the first is a new instruction."""
    serving.swap("second")
    for _ in range(2):
        later = Serving(Choice(str(models / "first")), serving.config, tmp_path / "shared")
        later.start()
        assert later.engine.ranker.name == "popularity" and later.choice == serving.choice
        later.close()
    train("averaging").save(models / "first", overwrite=True)
    later = Serving(Choice(str(models / "first")), serving.config, tmp_path / "shared")
    later.start()
    assert later.engine.ranker.name == "averaging"
    later.close()


@pytest.mark.parametrize("damaged", ["model", "slots", "keys"])
@pytest.mark.parametrize("how", ["nonsense", "cut off", "not text", "gone"])
def test_workers_start_on_the_last_good_state(models: Path, tmp_path: Path, damaged: str, how: str) -> None:
    keys, slots = tmp_path / "keys.toml", tmp_path / "slots.toml"
    slots.write_text(SLOTS)
    key = add_key(keys, "first", ["rank"])
    options = config(tmp_path, keys=str(keys))
    (tmp_path / "run").mkdir()
    first = Serving(Choice(str(models / "first")), options, tmp_path / "shared", tmp_path / "run")
    first.start()
    for file in {"model": [f for f in (models / "first").rglob("*") if f.is_file()], "slots": [slots], "keys": [keys]}[
        damaged
    ]:
        if how == "gone":
            file.unlink()
        else:
            content = {"nonsense": b"[[", "cut off": file.read_bytes()[:-3], "not text": b"\xff\xfe\x00"}[how]
            file.write_bytes(content)
    late = Serving(Choice(str(models / "first")), options, tmp_path / "shared", tmp_path / "run")
    late.start()
    assert late.engine.version == first.engine.version and late.slots_text == SLOTS
    assert late.keys is not None and (late.keys.find(key) is None) == (damaged == "keys" and how == "gone")
    assert damaged in late.problems
    first.refresh()
    assert first.engine.slots is not None and [slot.name for slot in first.engine.slots.slots] == ["books"]
    for one in (first, late):
        one.close()


def test_a_served_model_can_be_deleted_and_written_over(serving: Serving, models: Path) -> None:
    """What is served is a copy: a table that is cut short while it is mapped into memory ends a process."""
    for file in (models / "first").rglob("*.npy"):
        file.write_bytes(b"")
    engine = serving.engine
    assert len(engine.rank(engine.past_of(["item1"]), [f"item{n}" for n in range(60)]).rows) == 60


def test_copies_of_models_are_removed(serving: Serving, tmp_path: Path) -> None:
    for _ in range(3):
        for name in ("second", "first"):
            serving.swap(name)
    assert len(list((tmp_path / "shared" / "models").iterdir())) == 2
