"""Flickr30k Entities: which phrase of a sentence has which boxes.

`flickr30k`: the original. `path` holds Sentences/<id>.txt, Annotations/<id>.xml and <split>.txt (the split
after the last "/"); pictures: <id>.jpg. `[/EN#<chain>/<type>/… words]`; chain 0 is not visual. An XML
`object` has one or more `name` (chains) and a `bndbox`, or `scene` / `nobndbox`; several objects may share a
chain, then the phrase has several boxes. Corners are read as they are.
`flickr30k_mdetr`: MDETR's final_flickr_{mergedGT,separateGT}_{split}.json. COCO style, one "image" per
sentence; `tokens_positive_eval` has the spans of the phrases, an annotation belongs to every phrase whose
span is among its `tokens_positive`. Sizes may be texts ("500"). In a mergedGT file every phrase has its one
merged box, so ANY equals MERGED there: a note says so. It has no phrase types.

Only phrases that have a box are asked. The question lists them in lower case without commas [Ferret].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spr.data.files import parse_xml
from spr.errors import DataError, shown
from spr.evaluation.items import Item, PhraseTruth
from spr.evaluation.readers.base import (
    Source,
    check_keys,
    checked_size,
    load_json,
    read_text,
    take_id,
    take_list,
    take_text,
    take_whole,
    take_xywh,
    to_box,
    wrong,
)
from spr.evaluation.readers.mdetr import IMAGE_KEYS, by_image_id
from spr.types import Box

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[A-Za-z]+)+) ([^\]]*)\]")
_TOP = {"info", "licenses", "images", "annotations", "categories"}
_ANNOTATION = {
    "area",
    "iscrowd",
    "image_id",
    "category_id",
    "id",
    "bbox",
    "tokens_positive",
    "phrase_ids",
    "segmentation",
}


def _asked(phrases: list[PhraseTruth]) -> str:
    return ", ".join(p.phrase.lower().replace(",", "").strip() for p in phrases)


def _number(element: ElementTree.Element | None, name: str, where: str) -> int:
    found = element.find(name) if element is not None else None
    text = (found.text or "").strip() if found is not None else ""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise wrong(f"{where}: {name}", shown(text), "a whole number")
    return int(text)


def read_boxes(path: Path) -> tuple[tuple[int, int], dict[str, list[Box]]]:
    """((width, height), chain -> boxes) of an annotation file."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{path}: found a DOCTYPE, expected plain XML (entities are not expanded)")
    try:
        root = parse_xml(data)
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    size = root.find("size")
    chains: dict[str, list[Box]] = {}
    for number, element in enumerate(root.findall("object")):
        where = f"{path}: object {number}"
        corners = element.find("bndbox")
        if corners is None:
            continue  # a scene, or not visible
        box = to_box([_number(corners, name, where) for name in ("xmin", "ymin", "xmax", "ymax")], where)
        for name in element.findall("name"):
            chains.setdefault((name.text or "").strip(), []).append(box)
    sides = _number(size, "width", str(path)), _number(size, "height", str(path))
    return checked_size(*sides, str(path)), chains


def read_phrases(line: str, where: str) -> list[tuple[str, str, str]]:
    """(chain, types joined by "/", words) of the phrases of a sentence, in order."""
    found = [(m.group(1), m.group(2).strip("/"), m.group(3).strip()) for m in _PHRASE.finditer(line)]
    if len(found) != line.count("[/EN#"):
        raise wrong(where, shown(line), "[/EN#<chain>/<type> words] with its closing bracket")
    return found


def read_entities(source: Source) -> Iterator[Item]:
    """Items of `phrase_grounding` from the original files: one per sentence that has a phrase with a box."""
    source.check_options(())
    root = Path(source.path)
    split = source.split.rpartition("/")[2]
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise DataError(f"{listing}: no such file, expected the ids of the split, one a line")
    for name in read_text(listing).split():
        image = source.image(f"{name}.jpg", str(listing))
        (width, height), chains = read_boxes(root / "Annotations" / f"{name}.xml")
        sentences = root / "Sentences" / f"{name}.txt"
        if not sentences.is_file():
            raise DataError(f"{sentences}: no such file, expected the sentences of image {name}")
        for number, line in enumerate(read_text(sentences).splitlines()):
            found = read_phrases(line, f"{sentences}:{number + 1}")
            phrases = [
                PhraseTruth(words, tuple(chains[chain]), types)
                for chain, types, words in found
                if chain in chains
            ]
            if phrases:
                yield Item(
                    f"{name}_{number}",
                    source.split,
                    image,
                    width,
                    height,
                    expression=_asked(phrases),
                    phrases=tuple(phrases),
                )


def _span(value: object, where: str) -> tuple[int, int]:
    """(start, end) of a span, or of a list with one span."""
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not (isinstance(inner, list) and len(inner) == 2 and all(isinstance(v, int) for v in inner)):
        raise wrong(where, shown(value), "[[start, end]]")
    return int(inner[0]), int(inner[1])


def _truths(
    entry: Mapping[str, Any], boxes: list[tuple[str, Mapping[str, Any]]], where: str
) -> list[PhraseTruth]:
    """The phrases of a sentence with the boxes whose spans include theirs."""
    caption = take_text(entry, "caption", where)
    held = [
        ({_span(s, at) for at, s in take_list(b, "tokens_positive", place)}, take_xywh(b, "bbox", place))
        for place, b in boxes
    ]
    phrases = []
    for at, value in take_list(entry, "tokens_positive_eval", where):
        span = _span(value, at)
        own = tuple(box for spans, box in held if span in spans)
        if not own:
            raise wrong(
                at,
                f"the phrase {shown(caption[slice(*span)])} without a box",
                "an annotation whose tokens_positive include its span",
            )
        phrases.append(PhraseTruth(caption[slice(*span)].strip(), own))
    return phrases


def read_mdetr(source: Source) -> Iterator[Item]:
    """Items of `phrase_grounding` from MDETR's files: one per sentence that has a phrase with a box."""
    source.check_options(())
    path = source.file()
    data = check_keys(load_json(path), _TOP, path)
    boxes = by_image_id(data, path, _ANNOTATION)
    if "mergedGT" in Path(path).name:
        source.notes.append(f"{Path(path).name}: every phrase has one merged box, so r1_any equals r1_merged")
    for where, value in take_list(data, "images", path):
        entry = check_keys(value, IMAGE_KEYS, where)
        number = take_id(entry, "id", where)
        phrases = _truths(entry, boxes.get(number, []), where)
        if phrases:
            image = source.image(take_text(entry, "file_name", where), where)
            sides = take_whole(entry, "width", where), take_whole(entry, "height", where)
            width, height = checked_size(*sides, where)
            yield Item(
                str(number),
                source.split,
                image,
                width,
                height,
                expression=_asked(phrases),
                phrases=tuple(phrases),
            )
