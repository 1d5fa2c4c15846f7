"""Spatial Preference Rewarding: preference pairs that teach a vision-language model to describe regions and
draw tight boxes.
"""

__version__ = "0.1.0"
