"""Annotation files through fsspec: what is below a folder, XML, and the names of categories."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import fsspec

from spr.data.images import may_pass, unreachable
from spr.errors import ConfigError, DataError, is_text, said_by
from spr.store.config import parse_yaml

_ENCODING = re.compile(rb"""<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*>""")


@dataclass(frozen=True, slots=True)
class Source:
    """An annotation file, or a folder of them."""

    name: str  # as the user wrote it
    fs: Any
    path: str

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return bool(self.fs.isdir(self.path))

    def files(self, *endings: str) -> list[str]:
        """The files in it with one of these endings, as POSIX paths relative to it, sorted. Raises DataError
        when there is none.
        """
        if not self.is_folder():
            return [""]
        found = [str(p)[len(self.path.rstrip("/")) + 1 :] for p in self.fs.find(self.path)]
        chosen = sorted(p for p in found if p.lower().endswith(endings))
        if not chosen:
            raise DataError(
                f"data.annotations: {self.name}: found no file that ends in {' or '.join(endings)}"
            )
        return chosen

    def read(self, file: str = "") -> bytes:
        """The bytes of a file in it ("" = the source itself). Raises DataError when it cannot be read,
        UnfinishedError when it cannot be reached now.
        """
        path = posixpath.join(self.path, file) if file else self.path
        try:
            return bytes(self.fs.cat_file(path))
        except Exception as e:
            if may_pass(e, "://" in self.name):
                raise unreachable(path, e) from None
            raise DataError(f"data.annotations: {path}: cannot be read ({said_by(e)})") from None


def open_source(name: str, form: str) -> Source:
    """The file or folder of that name. Raises DataError when there is none."""
    fs, path = fsspec.core.url_to_fs(name)
    if not fs.exists(path):
        raise DataError(f"data.annotations: {name}: no such file, expected annotations in {form} form")
    return Source(name, fs, str(path))


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root of an XML file, in whatever encoding its first line names. Raises DataError."""
    try:
        try:
            return ElementTree.fromstring(data)
        except (ValueError, LookupError):  # expat itself knows only encodings of one byte
            said = _ENCODING.match(data)
            if said is None:
                raise
            return ElementTree.fromstring(data[said.end() :].decode(said[1].decode("ascii")))
    except (ElementTree.ParseError, ValueError, LookupError) as e:
        raise DataError(f"not valid XML ({e})") from None


def category_names(path: str) -> list[str]:
    """Names by number: one per line, or `names:` of a YAML file (a list, or a mapping from 0 on, as YOLO's
    data.yaml has).
    """
    text = _text(path)
    if not path.lower().endswith((".yaml", ".yml")):
        return [line.strip() for line in text.split("\n") if line.strip()]
    try:
        value = parse_yaml(text, f"data.categories: {path}")
    except ConfigError as e:
        raise DataError(str(e)) from None
    if not isinstance(value, dict) or "names" not in value:
        raise DataError(
            f"data.categories: {path}: found no `names:`, expected a YAML file with the names of the "
            "categories"
        )
    names = value["names"]
    if isinstance(names, dict):
        names = [names.get(n) for n in range(len(names))]
    if not isinstance(names, list) or not all(is_text(n) for n in names):
        raise DataError(
            f"data.categories: {path}: names: expected a list of names, or a mapping 0, 1, 2, … to names"
        )
    return list(names)


def category_table(path: str) -> dict[str, str]:
    """Names by label: the two columns of a CSV file, with or without a header (Open Images' class
    descriptions).
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(_text(path)), strict=True) if row]
    except csv.Error as e:
        raise DataError(f"data.categories: {path}: not CSV ({e})") from None
    bad = next((n for n, row in enumerate(rows, 1) if len(row) < 2), None)
    if bad is not None:
        raise DataError(f"data.categories: {path}:{bad}: found one column, expected two: label, name")
    return {row[0]: row[1] for row in rows}


def _text(path: str) -> str:
    fs, inner = fsspec.core.url_to_fs(path)
    if not fs.isfile(inner):
        raise DataError(f"data.categories: {path}: no such file, expected the names of the categories")
    try:
        return bytes(fs.cat_file(inner)).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(f"data.categories: {path}: not UTF-8 ({e})") from None
