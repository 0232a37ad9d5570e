"""`heedful explain`: the words, the exact falls and the layers, for any model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.rankers.registry import MODELS, load_ranker
from heedful.recommending.recommend import Query, Recommender
from ranking_worlds import QUICK, random_log, table_of


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--quiet", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    log = random_log()
    table = table_of(log.catalog.items.ids, attributes=log.catalog.attributes)
    for name in ("attention", "popularity"):
        MODELS[name](**QUICK[name]).fit(log, table).save(folder / name)
    return folder


def test_an_item_with_its_past_and_layers(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", models / "attention", "--history", "item4, item9,item30", "--item", "item8")
    assert code == 0 and out.startswith("\nitem8  title 8: ")
    ranker = load_ranker(models / "attention")
    score = ranker.score(["item4", "item9", "item30"], ["item8"])[0]
    assert f"  score {score:.4f} = " in out
    found = re.findall(r"^ +([+-][0-9.]+) +([0-9.]+)% +([0-9.]+)%  (item\d+)  title \d+$", out, re.MULTILINE)
    assert {item for *_, item in found} == {"item4", "item9", "item30"}
    for fall, _, _, item in found:
        without = ranker.score([past for past in ("item4", "item9", "item30") if past != item], ["item8"])[0]
        assert float(fall) == pytest.approx(score - without, abs=1e-3)
    null = re.search(r"^ +([0-9.]+)% +([0-9.]+)%  no past item$", out, re.MULTILINE)
    assert null is not None
    for layer in (1, 2):
        assert sum(float(line[layer]) for line in found) + float(null[layer]) == pytest.approx(100, abs=0.3)


def test_the_best_items_where_none_is_named(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", models / "attention", "--history", "item4,item9", "-k", 2, "--past", 1)
    ranker = load_ranker(models / "attention")
    top, _ = Recommender(ranker, exact=True).top_rows(ranker.histories_of([["item4", "item9"]]), Query(k=2))
    assert code == 0
    assert re.findall(r"^(item\d+)  ", out, re.MULTILINE) == [f"item{row}" for row in top[0]]
    assert len(re.findall(r"%  item\d+  ", out)) == 2  # one past item each


def test_a_model_without_attention_and_a_past_it_does_not_know(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", models / "popularity", "--history", "item4,what", "-k", 1)
    assert code == 0 and "1 past items are unknown to the model and were left out: what" in out
    assert "popular with everyone, +1.2" in out and "layers" not in out
    code, out, _ = run(capsys, "explain", models / "attention", "--history", "what", "-k", 1)
    assert code == 0 and "the user has no history" in out and "fall" not in out


def test_what_cannot_be_explained(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", models / "attention", "--history", "item4", "--item", "item1", "--item", "nothing")
    assert code == 1 and "the model does not know that item; got: nothing" in err
    code, _, err = run(capsys, "explain", models / "attention", "--history", "item4", "-k", 0)
    assert code == 1 and "option 'k' is out of range; got: 0" in err
    assert run(capsys, "explain", models / "attention")[0] == 2
