"""Write tests/golden/dialects.json from the rows of the reading and writing tests: `python -m
tests.golden.make`. Look at the diff before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path

from spr.dialects import Frame, get_dialect
from tests.unit.dialects.test_points import ROWS as POINTS
from tests.unit.dialects.test_reading import ROWS
from tests.unit.dialects.test_writing import EDITS

SIZE = (640, 480)


def rows() -> list[dict[str, object]]:
    edits = {(name, text): edit for name, text, edit, _ in EDITS if len(edit) == 1}
    texts = dict.fromkeys(
        [(name, text) for name, text, *_ in (*EDITS, *ROWS)] + [(name, text) for name, text, *_ in POINTS]
    )
    found: list[dict[str, object]] = []
    for name, text in texts:
        d, frame = get_dialect(name), Frame(*SIZE)
        g = d.parse(text, frame)
        edit = edits.get((name, text))
        row: dict[str, object] = {
            "dialect": name,
            "options": {},
            "text": text,
            "size": SIZE,
            "mentions": [
                {"phrase": m.phrase, "boxes": m.boxes, "span": m.span}
                | ({"points": m.points} if m.points else {})
                for m in g.mentions
            ],
            "problems": [[p.kind, *p.span] for p in g.problems],
            "plain": g.plain,
            "edit": None,
            "result": None,
        }
        if edit:
            [((m, b), box)] = edit.items()
            row |= {"edit": [m, b, box], "result": d.replace_boxes(g, edit, frame).text}
        found.append(row)
    return found


if __name__ == "__main__":
    out = Path(__file__).with_name("dialects.json")
    out.write_text(
        "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows()) + "\n]\n", encoding="utf-8"
    )
