"""`data.where` says which images, and can do nothing else: a configuration is shared, and its reader trusts
it.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import duckdb
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spr.data.query import Index
from spr.data.where import check_where
from spr.errors import ConfigError
from tests.unit.data.worlds import box, coco, image, index

FINE = [
    "objects >= 2",
    "objects >= 2 AND list_contains(categories, 'dog')  -- many dogs",
    "width > height OR image_id LIKE '%é%'",
    "(SELECT count(*) FROM annotations a WHERE a.image_id = images.image_id AND NOT a.crowd) > 1",
    "image_id IN (WITH big AS (SELECT image_id FROM annotations WHERE x2 - x1 > 9) FROM big)",
    "EXISTS (SELECT 1 FROM unnest(categories) t(c) WHERE c LIKE 'd%')",
    "len(list_filter(categories, lambda c: c = 'dog')) = 1",
    "hash(image_id) % 2 = 0",
    "NOT EXISTS (SELECT * FROM rejected r JOIN images i ON r.item_id = i.image_id)",
]
NOT_ONE_EXPRESSION = [
    "1=1) UNION ALL SELECT content, 5, 5 FROM read_text('/etc/passwd') WHERE (1=1",
    "1=1) UNION SELECT (1",
    "1), (2",
    "1) FROM images WHERE (1",
    "1) LIMIT (1",
    "1) ORDER BY (1",
    "1) GROUP BY (1",
    "1=1); COPY (SELECT 1) TO 'FOLDER/written.csv'; SELECT * FROM images WHERE (1=1",
    "1=1); ATTACH 'FOLDER/written.db' AS x; SELECT (1",
    "1=1); INSTALL httpfs; SELECT (1",
    "objects >",
    "1 AS x",
    "(SELECT",
    ")(",
    "objects > $1",
    "objects > ?",
    "a\0b",
    "true -- \ud800",
    "NOT " * 900 + "true",
    "(" * 10000 + "1" + ")" * 10000,
]
REACHES_OUTSIDE = [
    "(SELECT count(*) FROM read_text('FOLDER/secret')) > 0",
    "(SELECT content FROM read_text('FOLDER/secret')) = 'x'",
    "error((SELECT content FROM read_text('FOLDER/secret')))",
    "EXISTS (FROM 'FOLDER/secret.csv')",
    "EXISTS (FROM glob('FOLDER/*'))",
    "EXISTS (FROM duckdb_settings())",
    "EXISTS (FROM information_schema.tables)",
    "EXISTS (FROM main.pragma_database_size())",
    "EXISTS (FROM query('SELECT 1'))",
    "EXISTS (FROM (SHOW TABLES))",
    "EXISTS (SELECT * FROM images JOIN read_csv('FOLDER/secret') ON true)",
    "getenv('HOME') = 'x'",
    "current_setting('threads') = 'x'",
]
ANOTHER_ONE_EACH_TIME = [
    "random() < 0.5",
    "RANDOM() < 0.5",
    "uuid() > 'x'",
    "now() > '2026-01-01'",
    "current_date > '2026-01-01'",
    "CURRENT_TIMESTAMP > '2026-01-01'",
    "ago(INTERVAL 1 DAY) > '2026-01-01'",
    "(SELECT count(*) FROM annotations WHERE random() < x1) > 2",
    "EXISTS (FROM images TABLESAMPLE 10%)",
    "EXISTS (SELECT * FROM images USING SAMPLE 1)",
    "setseed(0.5) IS NULL",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two images, beside a file that must stay secret."""
    base = tmp_path_factory.mktemp("where")
    boxes = [box(3, 1, [0, 0, 10, 10]), box(4, 1, [0, 0, 5, 5], 7), box(5, 2, [1, 1, 3, 3])]
    index(coco(base, [image(1, name="é.jpg"), image(2)], boxes), base / "index")
    (base / "secret").write_text("x")
    (base / "secret.csv").write_text("a\n1\n")
    return base


@pytest.mark.parametrize("where", FINE)
def test_an_expression_over_the_index_is_taken(folder: Path, where: str) -> None:
    with duckdb.connect() as con:
        for name in ("images", "annotations", "categories", "rejected"):
            con.read_parquet(str(folder / "index" / f"{name}.parquet")).create_view(name)
        sql = f"SELECT image_id FROM images WHERE ({where}\n) ORDER BY image_id"
        expected = [row[0] for row in con.sql(sql).fetchall()]
    assert [i.image_id for i in Index(str(folder / "index")).images(where)] == expected


@pytest.mark.parametrize("where", NOT_ONE_EXPRESSION + REACHES_OUTSIDE + ANOTHER_ONE_EACH_TIME)
def test_anything_else_is_one_line_and_does_nothing(folder: Path, where: str) -> None:
    """COPY wrote a file, ATTACH a database, read_text came out in the message."""
    before = sorted(folder.rglob("*"))
    where = where.replace("FOLDER", str(folder))
    with pytest.raises(ConfigError) as e:
        Index(str(folder / "index")).images(where)
    assert str(e.value).startswith(f"data.where: {where[:300]!r}")
    assert len(str(e.value).splitlines()) == 1
    with pytest.raises(ConfigError):
        check_where(where)
    assert sorted(folder.rglob("*")) == before


def test_the_connection_is_a_second_wall(folder: Path) -> None:
    """What the tree would let through, the connection does not do."""
    before = sorted(folder.rglob("*"))
    with Index(str(folder / "index")).connect() as con:
        for sql in (
            f"SELECT * FROM read_text('{folder}/secret')",
            f"COPY (SELECT 1) TO '{folder}/written.csv'",
            f"ATTACH '{folder}/written.db' AS x",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "LOAD httpfs",
        ):
            with pytest.raises(duckdb.Error):
                con.execute(sql).fetchall()
    assert sorted(folder.rglob("*")) == before


def test_an_index_anywhere_is_read(folder: Path, tmp_path: Path) -> None:
    """The wall has doors where the index is: at a URL, in a folder with a quote, behind a link."""
    memory = fsspec.filesystem("memory")
    for file in (folder / "index").glob("*"):
        memory.pipe_file(f"/where/{file.name}", file.read_bytes())
    odd = tmp_path / "it's ü"
    odd.symlink_to(folder / "index")
    for place in ("memory://where", str(odd), f"file://{folder}/index"):
        assert len(Index(place).images("objects >= 1")) == 2


def test_a_question_without_end_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spr.data.where.SECONDS", 0.2)
    many = "unnest(range(100000))"
    endless = f"(SELECT count(*) FROM {many} a(x), {many} b(y), {many} c(z)) > 0"
    with pytest.raises(ConfigError, match="takes longer than"):
        Index(str(folder / "index")).images(endless)
    assert threading.active_count() < 20


@given(st.text(alphabet="();'\"-- \nselctfromwhrunia1=*,", max_size=40))
def test_no_text_is_a_traceback(text: str) -> None:
    """It is an expression, or a ConfigError; DuckDB never hears it otherwise."""
    with contextlib.suppress(ConfigError):
        check_where(text)
