"""What the commands that go on where they stood share: a log with a JSON object per line, under a name that
holds a digest of the code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import spr


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; its folder is made, and a last line that a kill has cut is taken off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


def code_digest(pattern: str) -> str:
    """A digest of the package and of these commands: what another version did says nothing."""
    here = Path(__file__).parent
    files = sorted([*here.glob(pattern), *Path(spr.__file__).parent.rglob("*.py")])
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=4).hexdigest()
