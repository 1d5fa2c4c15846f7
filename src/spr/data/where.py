"""`data.where` is one expression, and nothing else: a shared configuration must not be able to read or write
a file, open a connection, or mean something else tomorrow.

In: the text. Out: nothing, or ConfigError. DuckDB itself parses it (its own syntax tree as JSON); what the
tree may hold is a list of what is allowed: the tables of the index, sub-queries over them, and functions that
give the same for the same arguments. `lock` then takes from a connection what it could do beyond that.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spr.errors import ConfigError

if TYPE_CHECKING:
    import duckdb

SECONDS = 120.0  # ours: that a question to an index may take
TABLES = ("images", "annotations", "categories", "rejected")
# what is a function though it is written without brackets, or that DuckDB's list of functions does not tell
OUTSIDE = ("current_time", "current_timestamp", "localtime", "localtimestamp", "getenv", "read_text", "query")
_NONE = ("modifiers", "where_clause", "group_expressions", "group_sets", "having", "sample", "qualify")
_FROM = ("BASE_TABLE", "SUBQUERY", "JOIN", "EMPTY", "EXPRESSION_LIST")


def check_where(where: str) -> None:
    """Raise ConfigError unless the text is one deterministic expression over the tables of an index."""
    import duckdb  # here: the reading of annotations does without

    if "\0" in where:
        raise wrong(where, "found a character 0")
    with duckdb.connect() as con:
        try:
            ((text,),) = con.execute("SELECT json_serialize_sql($1)", [f"SELECT ({where}\n)"]).fetchall()
        except duckdb.Error as e:  # half of a character
            raise wrong(where, e) from None
        refused = _refused(con)
    try:
        tree = json.loads(text)
    except RecursionError:
        raise wrong(where, "nested too deeply") from None
    if tree["error"]:
        raise wrong(where, tree["error_message"])
    node = tree["statements"][0]["node"]
    if (
        len(tree["statements"]) != 1
        or node["type"] != "SELECT_NODE"
        or any(node[key] for key in _NONE)
        or node["from_table"]["type"] != "EMPTY"
        or node["cte_map"]["map"]
        or len(node["select_list"]) != 1
    ):
        raise wrong(where, "found more than an expression, expected one that is true or false for an image")
    parts = list(_parts(node))
    tables = {*TABLES, *(entry["key"] for part in parts for entry in part.get("cte_map", {}).get("map", ()))}
    for part in parts:
        _check(where, part, tables, refused)


def wrong(where: str, what: object) -> ConfigError:
    """The one line about an expression."""
    shown = repr(where) if len(where) <= 300 else repr(where[:300]) + "..."
    return ConfigError(f"data.where: {shown}: {' '.join(str(what).split())}")


def _check(where: str, part: Mapping[str, Any], tables: Collection[str], refused: Collection[str]) -> None:
    """Raise ConfigError for a part of a tree that is not allowed."""
    if part.get("sample"):
        raise wrong(where, "found a sample, which is another one each time")
    for key in ("from_table", "left", "right"):
        source = part.get(key)
        if not isinstance(source, dict) or "alias" not in source or "class" in source:
            continue  # no source of rows
        if source["type"] == "TABLE_FUNCTION":
            name = source["function"].get("function_name", "")
            if name != "unnest":
                raise wrong(where, f"found the table function {name!r}, expected tables of the index")
        elif source["type"] not in _FROM:
            raise wrong(where, f"found {source['type']}, expected tables of the index")
    if part.get("type") == "BASE_TABLE" and part["qualified_name"]["path"] not in [[t] for t in tables]:
        name = ".".join(part["qualified_name"]["path"])
        raise wrong(where, f"found the table {name!r}, expected one of {', '.join(TABLES)}")
    if part.get("class") == "PARAMETER":
        raise wrong(where, "found a place for a value ($1 or ?), expected the value")
    name = str(part.get("function_name", "")).lower()
    if part.get("type") == "COLUMN_REF" and len(part["column_names"]) == 1:
        name = str(part["column_names"][0]).lower()  # current_date looks like a column
    if name in refused:
        raise wrong(where, f"found {name}, which is not the same each time or reaches outside")


def _parts(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a tree."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _refused(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Functions that are not the same each time, and macros that call one."""
    rows = con.sql(
        "SELECT lower(function_name), stability, lower(macro_definition) FROM duckdb_functions() "
        "WHERE stability <> 'CONSISTENT' OR macro_definition IS NOT NULL"
    ).fetchall()
    refused = {*OUTSIDE, *(name for name, stability, _ in rows if stability is not None)}
    macros = [(name, set(re.findall(r"\w+", text))) for name, _, text in rows if text is not None]
    while new := {name for name, words in macros if words & refused} - refused:
        refused |= new
    return refused


# --- a connection that can do nothing else --------------------------------------------------------


def lock(con: duckdb.DuckDBPyConnection, files: Collection[str]) -> None:
    """From now on the connection reads these files, and does nothing else outside itself."""
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
        f"allowed_paths = [{listed}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        con.execute(f"SET {setting}")


@contextmanager
def limited(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A query that takes longer than SECONDS is stopped: `duckdb.InterruptException`."""
    over = threading.Event()

    def watch() -> None:
        wait = SECONDS
        while not over.wait(wait):  # again and again: one that comes while a query is planned is not heard
            con.interrupt()
            wait = 0.2

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
