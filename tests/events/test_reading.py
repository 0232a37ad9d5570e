import contextlib
import gzip
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from heedful.errors import InputError, MissingExtraError
from heedful.events.columns import EVENT, ITEM, TIME, USER, find_column
from heedful.events.databases import split_url
from heedful.events.preparing import read_events

TABLE = pa.table(
    {
        "user_id": ["u1", "ü 2", "007", "u1"],
        "item_id": ["1e5", "a'b", " x ", '"q"'],
        "timestamp": pa.array([1_600_000_000, 1_600_000_001, 1_600_000_002, 1_600_000_003]),
        "event": ["view", "buy", "view", "view"],
    }
)


def content(log):
    """Everything in a log, as plain values."""
    histories = [array.tolist() for array in vars(log.histories).values()]
    return log.users.ids.to_pylist(), log.catalog.items.ids.to_pylist(), log.kinds, histories


EXPECTED = content(read_events(TABLE))


def test_ids_are_kept_exactly():
    users, items, kinds, _ = EXPECTED
    assert sorted(items) == sorted(TABLE["item_id"].to_pylist())
    assert users == ["007", "u1", "ü 2"]
    assert kinds == ("view", "buy")


class Stream:
    """A table that shows nothing but its Arrow stream."""

    def __arrow_c_stream__(self, requested_schema=None):
        return TABLE.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda table: table.to_reader(1),
        lambda table: table.to_pandas(),
        lambda table: table.to_pandas().set_index("user_id"),
        lambda table: pl.from_arrow(table),
        lambda table: table.set_column(3, "event", table["event"].dictionary_encode()),
        lambda table: Stream(),
    ],
    ids=["reader", "pandas", "pandas index", "polars", "categories", "any stream"],
)
def test_tables_in_memory_are_read_alike(wrap):
    assert content(read_events(wrap(TABLE))) == EXPECTED


def write_parquet(folder):
    pq.write_table(TABLE, folder / "it's [1].parquet")
    return folder / "it's [1].parquet"


def write_parts(folder):
    for name, part in (("day=1/b.parquet", TABLE[:1]), ("a.parquet", TABLE[1:].select([3, 2, 1, 0]))):
        (folder / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / "parts" / name)
    (folder / "parts" / "_temporary.parquet").write_bytes(b"of another tool")
    return folder / "parts"


def write_csv(folder, name="it's.csv", delimiter=","):
    pa_csv.write_csv(TABLE, folder / name, pa_csv.WriteOptions(delimiter=delimiter, quoting_style="needed"))
    return folder / name


def write_gzip(folder):
    path = write_csv(folder)
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return f"{path}.gz"


def write_csv_parts(folder):
    """Two files with their columns in another order, as a glob."""
    pa_csv.write_csv(TABLE[:2], folder / "part-1.csv")
    pa_csv.write_csv(TABLE[2:].select([2, 3, 0, 1]), folder / "part-2.csv")
    return str(folder / "part-*.csv")


def write_duckdb(folder):
    with duckdb.connect(str(folder / "shop.db")) as connection:
        connection.register("given", TABLE)
        connection.execute('CREATE SCHEMA web; CREATE TABLE web."log.1" AS FROM given')
    return f'duckdb:///{folder}/shop.db?table=web."log.1"'


def write_sqlite(folder):
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection:
        connection.execute('CREATE TABLE "log of 1" (user_id, item_id, timestamp, event)')
        connection.executemany('INSERT INTO "log of 1" VALUES (?, ?, ?, ?)', zip(*TABLE.to_pydict().values(), strict=True))
        connection.commit()
    return f"sqlite:///{folder}/shop.db?table=log%20of%201"


WRITERS = {
    "parquet": write_parquet,
    "folder": write_parts,
    "list": lambda folder: [str(path) for path in write_parts(folder).rglob("?.parquet")],
    "csv": write_csv,
    "semicolons": lambda folder: write_csv(folder, delimiter=";"),
    "tsv": lambda folder: write_csv(folder, "log.tsv", "\t"),
    "gzip": write_gzip,
    "csv parts": write_csv_parts,
    "duckdb": write_duckdb,
    "sqlite": write_sqlite,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_sources_on_disk_are_read_alike(writer, tmp_path):
    assert content(read_events(writer(tmp_path))) == EXPECTED


@pytest.mark.parametrize(
    ("text", "users", "items"),
    [
        ("user_id,item_id,ts\n#1,x,5\n2,y,6\n", ["#1", "2"], ["x", "y"]),
        ("\ufeffuser_id,item_id,ts\r\n1,x,5\r\n2,y,6", ["1", "2"], ["x", "y"]),
        ('user_id,item_id,ts,"a ""note"""\n1,"x,\n1",5,\n2,"say ""y""",6,b\n', ["1", "2"], ['say "y"', "x,\n1"]),
        ("user_id,item_id,ts\n1,a\"b,5\n2,' y',6\n", ["1", "2"], ["' y'", 'a"b']),
        (",user_id,item_id,ts\n0,NULL,NA,5\n1,nan,1e5,6\n", ["NULL", "nan"], ["1e5", "NA"]),
    ],
    ids=["hash", "mark and crlf", "quotes", "stray quote", "words for nothing"],
)
def test_csv_text_is_taken_literally(text, users, items, tmp_path):
    (tmp_path / "log.csv").write_text(text, newline="")
    log = read_events(tmp_path / "log.csv", time_unit="s")
    assert log.users.ids.to_pylist() == users
    assert log.catalog.items.ids.to_pylist() == items


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "", "is empty; got: 0 bytes"),
        ("log.csv", "user_id,item_id,ts\n", "the source has no rows; got: columns user_id, item_id, ts"),
        ("log.csv", "\n\n", "has no header"),
        ("log.csv.gz", gzip.compress(b"", mtime=0), "has no header"),
        ("log.csv.gz", "no gzip", "the csv source cannot be read; got: .*[Gg]zip"),
        ("log.csv", "user_id,item_id,ts\n1,2,3,4\n", "the csv source cannot be read; got: .*Line: 2.*Columns: 3 Found: 4"),
        ("log.csv", "user_id,item_id,ts\n1,2\n", "the csv source cannot be read; got: .*Line: 2"),
        ("log.csv", 'user_id,item_id,ts\n1,"2,3\n', "unterminated quote"),
        ("log.csv", "user_id,item_id,ts\n1,é,3\n".encode("latin-1"), "utf-8.*decode"),
        ("log.csv", "user_id,item_id,ts,TS\n1,2,3,4\n", "columns of the same name; got: TS, ts; to fix"),
        (
            "log.csv",
            "who,item_id,ts\n1,2,3\n",
            "looks like user_id; got: the columns who, item_id, ts; expected: one of",
        ),
        ("log.parquet", "this is no parquet file at all", "the parquet source cannot be read; got: .*magic bytes"),
        ("log.xlsx", "x", "a format that is not read here; got: .xlsx; expected: .parquet, .pq, .csv"),
        ("log", "x", "got: no ending"),
    ],
)
def test_files_that_cannot_be_read(name, text, message, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_events(tmp_path / name)


def test_parquet_cut_short_or_overwritten(tmp_path):
    path = write_parquet(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:20] + b"\0" * 200 + whole[220:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="the parquet source cannot be read"):
            read_events(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.parquet", "there is no file nowhere.parquet; to fix: check the path"),
        ("none-*.parquet", r"no file matches none-\*.parquet"),
        ("empty", "no Parquet file in the folder empty"),
        ([], "of a type that cannot be read; got: builtins.list"),
        (None, "of a type that cannot be read; got: None"),
        ({"user_id": [1]}, "of a type that cannot be read; got: builtins.dict"),
        (pl.LazyFrame({"user_id": [1]}), "to fix: collect a lazy frame first"),
        (
            pd.DataFrame({"user_id": [1, "x"]}),
            "this pandas.DataFrame cannot be read; got: .*column user_id",
        ),
        ("s3://bucket/log.parquet", "a URL of this kind is not read here; got: s3://"),
        ("sqlite:///shop.db", "the URL names no table; got: sqlite:///shop.db"),
        ("sqlite:///shop.db?table=t", "there is no database file shop.db"),
    ],
)
def test_sources_that_are_not_there(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        read_events(source)


def test_formats_are_not_mixed(tmp_path):
    with pytest.raises(InputError, match="of several formats; got: csv, parquet"):
        read_events([write_csv(tmp_path), write_parquet(tmp_path)])


@pytest.mark.parametrize("writer", [write_duckdb, write_sqlite])
def test_a_table_that_is_not_there(writer, tmp_path):
    url = writer(tmp_path).split("=")[0] + "=other"
    with pytest.raises(InputError, match=r"has no table 'other'; got: the tables .*log"):
        read_events(url)


@pytest.mark.parametrize("system", ["duckdb", "sqlite"])
def test_a_file_that_is_no_database(system, tmp_path):
    (tmp_path / "shop.db").write_text("no database, but long enough to look at " * 50)
    with pytest.raises(InputError, match=r"shop\.db cannot be read"):
        read_events(f"{system}:///{tmp_path}/shop.db?table=t")


def test_a_database_file_is_relative_after_three_slashes(tmp_path, monkeypatch):
    write_sqlite(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert content(read_events("sqlite:///shop.db?table=log%20of%201")) == EXPECTED
    assert content(read_events(f"sqlite://{tmp_path}/shop.db?table=log%20of%201")) == EXPECTED


def test_sqlite_columns_of_mixed_types(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE t (user INTEGER, item TEXT, ts)")
        rows = [(1, "x", "2020-01-01"), (2, 7, 1577836800), (3, None, 1577836800.5)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        connection.commit()
    log = read_events(f"sqlite:///{tmp_path}/shop.db?table=t")
    assert log.users.ids.to_pylist() == [1, 2]
    assert log.catalog.items.ids.to_pylist() == ["7", "x"]
    assert log.histories.times.tolist() == [1577836800, 1577836800]
    assert log.rejected.to_pylist() == [
        {"user_id": "3", "item_id": None, "timestamp": "1577836800.5", "event": None, "reason": "missing item_id"}
    ]


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:s3cret@host/db?table=t", "postgresql://me:***@host/db"),
        ("postgres://me:s3cr%40et@host:5432/db?table=t&sslmode=disable", "postgresql://me:***@host:5432/db?sslmode=disable"),
        ("postgresql:///db?host=h&password=s3cret&table=t", "postgresql:///db?host=h&password=***"),
    ],
)
def test_passwords_are_masked(url, masked):
    table = split_url(url)
    assert table.masked == masked
    assert "s3cr" not in repr(table)
    secret = "s3cr@et" if "%40" in url else "s3cret"
    assert table.without_secrets(f"no entry with {secret}, {quote(secret)}") == "no entry with ***, ***"
    assert table.table == "t"


def test_postgresql_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"psycopg.*pip install 'heedful\[postgres\]'"):
        read_events("postgresql://me:s3cret@localhost/db?table=t")


def postgresql_binaries():
    places = [Path(path).parent for path in filter(None, [shutil.which("initdb")])]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def unprivileged(folder):
    """How to start a server in `folder`, which refuses to run as root: as nobody, who gets the folder."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    for path in folder.parents[:3]:  # as deep as a worker of pytest-xdist has its folder
        path.chmod(path.stat().st_mode | 0o111)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    """URL of a fresh server that asks for the password `s3cret`."""
    psycopg = pytest.importorskip("psycopg")
    binaries = postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's programs initdb and postgres are not installed")
    folder = tmp_path_factory.mktemp("postgresql")
    (folder / "password").write_text("s3cret")
    who = unprivileged(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"postgresql://me:s3cret@127.0.0.1:{port}/postgres"
    new = ["-D", "data", "-U", "me", "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8", "--no-sync"]
    subprocess.run([binaries / "initdb", *new], check=True, cwd=folder, stdout=subprocess.DEVNULL, **who)
    start = [binaries / "postgres", "-D", "data", "-p", port, "-c", "listen_addresses=127.0.0.1", "-k", folder, "-F"]
    with (folder / "log").open("w") as log, subprocess.Popen(start, cwd=folder, stderr=log, stdout=log, **who) as server:
        try:
            for _ in range(300):
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
                    break
                time.sleep(0.1)
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)


def test_postgresql_is_read_like_a_file(postgresql):
    import psycopg

    with psycopg.connect(postgresql) as connection:
        connection.execute("CREATE SCHEMA web")
        connection.execute('CREATE TABLE web.log (user_id text, item_id text, "timestamp" timestamptz, event text)')
        rows = zip(*TABLE.to_pydict().values(), strict=True)
        insert = "INSERT INTO web.log VALUES (%s, %s, to_timestamp(%s), %s)"
        connection.cursor().executemany(insert, rows)
        connection.execute(
            "CREATE TABLE numbers AS SELECT 1::bigint usr, 2::numeric item, timestamp '2020-01-01' ts, '{}'::jsonb j"
        )
        connection.execute("INSERT INTO numbers VALUES (1, 3, 'infinity', NULL)")
    log = read_events(f"{postgresql}?table=web.log")
    assert content(log) == EXPECTED
    numbers = read_events(f"{postgresql}?table=numbers", user_column="usr")
    assert numbers.users.ids.to_pylist() == [1]
    assert numbers.catalog.items.ids.to_pylist() == ["2"]
    assert numbers.histories.times.tolist() == [1577836800]
    assert numbers.rejected["reason"].to_pylist() == ["unreadable time"]


def test_postgresql_names_what_is_wrong_without_the_password(postgresql):
    with pytest.raises(InputError, match=r"me:\*\*\*@.* has no table 'other'; got: the tables") as caught:
        read_events(f"{postgresql}?table=other")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InputError, match=r"me:\*\*\*@.* cannot be read; got: .*password authentication failed") as caught:
        read_events(f"{postgresql.replace('s3cret', 'wrong-one')}?table=t")
    assert "wrong-one" not in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be read; got: .*connection"):
        read_events("postgresql://me:s3cret@127.0.0.1:1/db?table=t")


def test_columns_are_found_by_alias_in_order():
    assert find_column(["SKU", "Item_ID ", "item"], ITEM, None) == "Item_ID "
    assert find_column(["VisitorId", "session_id"], USER, None) == "VisitorId"
    assert find_column(["date", "created_at", "TS"], TIME, None) == "TS"
    assert find_column(["user_id"], EVENT, None) is None
    assert find_column(["item_id", "Sku"], ITEM, "sku") == "Sku"
    with pytest.raises(InputError, match="no column 'what'; got: the columns item_id, sku; to fix: set item_column"):
        find_column(["item_id", "sku"], ITEM, "what")


def test_columns_with_odd_names():
    table = TABLE.rename_columns(['a"b', "it's", "select", "x y"])
    options = {"user_column": 'a"b', "item_column": "it's", "time_column": "select", "event_column": "x y"}
    assert content(read_events(table, **options)) == EXPECTED


def test_integer_ids_stay_integers():
    for kind in (pa.int8(), pa.uint16(), pa.int64(), pa.uint64()):
        log = read_events(TABLE.set_column(0, "user_id", pa.array([1, 2, 3, 1], kind)))
        assert log.users.ids.type == (pa.uint64() if kind == pa.uint64() else pa.int64())
        assert log.users.ids.to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([3, 2, 1, 1]).cast(pa.decimal128(20, 0)), ["1", "2", "3"]),
        (pa.array([0, 1, 2, 2], pa.date32()), ["1970-01-01", "1970-01-02", "1970-01-03"]),
        (pa.array([b"c", "ä".encode(), b"a", b"a"]), ["a", "c", "ä"]),
    ],
)
def test_other_ids_become_text(values, text):
    assert read_events(TABLE.set_column(0, "user_id", values)).users.ids.to_pylist() == text


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1.0, 2.0, None, 1.0]), "DOUBLE"),
        (pa.array([["1"]] * 4), "VARCHAR"),
        (pa.array([True] * 4), "BOOLEAN"),
        (pa.array([1, 2, 3, 4]).cast(pa.decimal128(22, 2)), "DECIMAL"),
    ],
)
def test_other_types_are_no_ids(values, kind):
    with pytest.raises(InputError, match=f"'user_id' has a type that cannot be a user_id; got: {kind}"):
        read_events(TABLE.set_column(0, "user_id", values))
