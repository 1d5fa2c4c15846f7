"""The score of an answer (method 2.3-2.5), for who wants the numbers alone. All of it:
`spr.stages.scoring`.
"""

from spr.stages.scoring import PAPER_LAMBDA, ScoreConfig, combine, localization_score

__all__ = ["PAPER_LAMBDA", "ScoreConfig", "combine", "localization_score"]
