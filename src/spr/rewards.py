"""The score as a reward function. All of it: `spr.stages.rewards`."""

from spr.stages.rewards import SpatialReward

__all__ = ["SpatialReward"]
