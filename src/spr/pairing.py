"""Refinement and the choice of a pair (method 2.5), for who wants these alone. All of it:
`spr.stages.pairing`.
"""

from spr.stages.pairing import PairConfig, choose_pair, refine

__all__ = ["PairConfig", "choose_pair", "refine"]
