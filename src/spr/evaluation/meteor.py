"""METEOR 1.5 as pycocoevalcap runs it: the original Java program. Optional, and refused in one line when a
part of it is missing.

In: tokenised captions with their references. Out: one score per item. Needs `java` on the PATH and the
package pycocoevalcap (its meteor-1.5.jar). There is no version in Python with the same numbers (stemmer,
WordNet and paraphrase tables), so we do not pretend to have one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from spr.errors import ConfigError


def require_meteor() -> None:
    """Raises ConfigError that says which part is missing."""
    if shutil.which("java") is None:
        raise ConfigError(
            "options.meteor: found no `java` on the PATH, expected a Java runtime (Debian: "
            "default-jre-headless); CIDEr needs none"
        )
    if find_spec("pycocoevalcap") is None:
        raise ConfigError(
            "options.meteor: found no package pycocoevalcap, expected it for its meteor-1.5.jar: pip "
            "install pycocoevalcap"
        )


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each caption in [0, 1]; texts are tokens joined by blanks. Raises ConfigError when it
    cannot be computed here.
    """
    require_meteor()
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    truth = {k: list(group) for k, group in enumerate(references)}
    try:
        _, scores = scorer.compute_score(truth, {k: [caption] for k, caption in enumerate(captions)})
    finally:  # the package leaves the Java process and its pipes open
        process = scorer.meteor_p
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return [float(s) for s in scores]
