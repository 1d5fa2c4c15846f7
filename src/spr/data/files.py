"""Annotation files through fsspec: what is below a folder, and the names of categories."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import yaml

from spr.errors import DataError


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
        """The bytes of a file in it ("" = the source itself)."""
        return bytes(self.fs.cat_file(posixpath.join(self.path, file) if file else self.path))


def open_source(name: str, form: str) -> Source:
    """The file or folder of that name. Raises DataError when there is none."""
    fs, path = fsspec.core.url_to_fs(name)
    if not fs.exists(path):
        raise DataError(f"data.annotations: {name}: no such file, expected annotations in {form} form")
    return Source(name, fs, str(path))


def category_names(path: str) -> list[str]:
    """Names by number: one per line, or `names:` of a YAML file (a list, or a mapping from 0 on, as YOLO's
    data.yaml has).
    """
    text = _text(path)
    if not path.lower().endswith((".yaml", ".yml")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = yaml.safe_load(text)["names"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise DataError(
            f"data.categories: {path}: found no `names:`, expected a YAML file with the names of the "
            "categories"
        ) from None
    if isinstance(names, dict):
        names = [names.get(n) for n in range(len(names))]
    if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise DataError(
            f"data.categories: {path}: names: expected a list of names, or a mapping 0, 1, 2, … to names"
        )
    return list(names)


def category_table(path: str) -> dict[str, str]:
    """Names by label: the two columns of a CSV file, with or without a header (Open Images' class
    descriptions).
    """
    rows = [row for row in csv.reader(io.StringIO(_text(path))) if row]
    bad = next((n for n, row in enumerate(rows, 1) if len(row) < 2), None)
    if bad is not None:
        raise DataError(f"data.categories: {path}:{bad}: found one column, expected two: label, name")
    return {row[0]: row[1] for row in rows}


def _text(path: str) -> str:
    fs, inner = fsspec.core.url_to_fs(path)
    if not fs.isfile(inner):
        raise DataError(f"data.categories: {path}: no such file, expected the names of the categories")
    return bytes(fs.cat_file(inner)).decode("utf-8-sig")
