"""What tests ask of an answer's text."""

from __future__ import annotations

import json
import re


def is_json(text: str) -> bool:
    """Whether what stands in a fence, between markers, after a thought, or else the text or each of its
    lines, is JSON.
    """
    around = (r"```(?:\s*json)?(.*?)```", r"<\|\w+\|>(?:assistant)?(.*)<\|\w+\|>", r"</\w+>(.*)")
    inner = (found for pattern in around if (found := re.search(pattern, text, re.DOTALL)))
    body = next((found.group(1) for found in inner), text).strip()
    for pieces in ([body], [line for line in body.splitlines() if line.strip()]):
        try:
            for piece in pieces:
                json.loads(piece, strict=False)
            return bool(pieces)
        except ValueError:
            continue
    return False
