"""REFER, the original files of RefCOCO, RefCOCO+ and RefCOCOg: `<root>/<dataset>/refs(unc|umd|google).p` and
`instances.json`.

`path` is the dataset's folder (`<root>/refcocog`); the split's name after the last "/" chooses the refs
("refcoco+/testA" takes testA). Options: `split_by` (default: umd for refcocog, else unc), `text` (`sent`, as
REFER evaluates, or `raw`).
The pickle was written by Python 2. It is read with an unpickler that knows plain containers only: whatever
names a function or a class is refused before anything is called.
Traps: a ref's own `file_name` ("…_16.jpg") is no file, the image comes from instances.json; the box is the
annotation's, [x, y, width, height], read as x2 = x + w; `category_id` of RefCOCOg's refs is COCO's. A count
other than the published split's is a note.
For `region_caption` there is one item per ref, with all its sentences as references.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spr.errors import DataError, said_by, shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    check_keys,
    load_json,
    take,
    take_id,
    take_int,
    take_list,
    take_size,
    take_text,
    take_xywh,
    wrong,
)

_REF = {"ref_id", "ann_id", "category_id", "image_id", "split", "sentences", "sent_ids", "file_name"}
_SENTENCE = {"raw", "sent", "sent_id", "tokens"}
# Refs and expressions of the published splits (REFER; MDETR's files have as many expressions).
PUBLISHED: Mapping[tuple[str, str], tuple[int, int]] = {
    ("refcoco", "val"): (3811, 10834),
    ("refcoco", "testA"): (1975, 5657),
    ("refcoco", "testB"): (1810, 5095),
    ("refcoco+", "val"): (3805, 10758),
    ("refcoco+", "testA"): (1975, 5726),
    ("refcoco+", "testB"): (1798, 4889),
    ("refcocog", "val"): (2573, 4896),
    ("refcocog", "test"): (5023, 9602),
}


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, tuples, numbers and texts; nothing that has a name."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def load_plain_pickle(path: Path) -> Any:
    """The plain containers in a pickle of Python 2 or 3; texts as UTF-8, or Latin-1 where they are not.
    Executes nothing. Raises DataError.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e})") from None
    for encoding in ("utf-8", "latin-1"):
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except Exception as e:  # a broken pickle may raise anything
            raise DataError(f"{path}: refused as a pickle of plain containers ({said_by(e)})") from None
    raise DataError(f"{path}: refused as a pickle of plain containers (its texts cannot be decoded)")


def _by_id(data: Mapping[str, Any], key: str, path: str) -> dict[Any, tuple[str, Mapping[str, Any]]]:
    return {take_id(value, "id", where): (where, value) for where, value in take_list(data, key, path)}


def instances(
    folder: Path,
) -> tuple[dict[Any, tuple[str, Mapping[str, Any]]], dict[Any, tuple[str, Mapping[str, Any]]]]:
    """(images, annotations) of instances.json by id, each with its place."""
    path = str(folder / "instances.json")
    data = load_json(path)
    if not isinstance(data, Mapping):
        raise wrong(path, type(data).__name__, "an object with images and annotations")
    return _by_id(data, "images", path), _by_id(data, "annotations", path)


def referred(
    table: Mapping[Any, tuple[str, Mapping[str, Any]]], number: int | str, where: str, what: str
) -> tuple[str, Mapping[str, Any]]:
    """An entry of instances.json by its id. Raises DataError when it is not there."""
    if number not in table:
        raise wrong(where, f"{what} {shown(number)}", "an id of instances.json")
    return table[number]


def _refs(source: Source, folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    split_by = source.option(
        "split_by", "umd" if folder.name == "refcocog" else "unc", ("unc", "umd", "google")
    )
    path = folder / f"refs({split_by}).p"
    refs = load_plain_pickle(path)
    if not isinstance(refs, list):
        raise wrong(str(path), type(refs).__name__, "a list of refs")
    wanted = source.split.rpartition("/")[2]
    splits = set()
    for number, value in enumerate(refs):
        where = f"{path}[{number}]"
        ref = check_keys(value, _REF, where)
        splits.add(str(take(ref, "split", where)))
        if ref["split"] == wanted:
            yield where, ref
    if wanted not in splits:
        raise wrong(str(path), f"splits {', '.join(sorted(splits))}", f"the split {wanted!r} among them")


def read(source: Source) -> Iterator[Item]:
    """The expressions of a split as items of `rec`, or its refs as items of `region_caption`."""
    source.check_options(("split_by", "text"))
    field = source.option("text", "sent", ("sent", "raw"))
    folder = Path(source.path)
    images, annotations = instances(folder)
    refs = expressions = 0
    for where, ref in _refs(source, folder):
        image_where, image = referred(images, take_id(ref, "image_id", where), where, "image_id")
        box_where, annotation = referred(annotations, take_id(ref, "ann_id", where), where, "ann_id")
        width, height = take_size(image, image_where)
        box = take_xywh(annotation, "bbox", box_where)
        path = source.image(take_text(image, "file_name", image_where), where)
        sentences = [(at, check_keys(s, _SENTENCE, at)) for at, s in take_list(ref, "sentences", where)]
        texts = [take_text(s, field, at).strip() for at, s in sentences]
        ref_id = take_int(ref, "ref_id", where)
        refs, expressions = refs + 1, expressions + len(texts)
        if source.protocol == "region_caption":
            yield Item(str(ref_id), source.split, path, width, height, region=box, truth=tuple(texts))
            continue
        for k, text in enumerate(texts):
            yield Item(f"{ref_id}/{k}", source.split, path, width, height, expression=text, gt=box)
    published = PUBLISHED.get((folder.name, source.split.rpartition("/")[2]))
    if published is not None and (refs, expressions) != published:
        said = (
            f"found {refs} refs with {expressions} expressions; the published split has {published[0]} "
            f"and {published[1]}"
        )
        source.notes.append(f"{folder.name} {source.split}: {said}")
