"""Who works: the crew that a configuration names."""

from __future__ import annotations

from spr.store.runtime import RuntimeConfig
from spr.store.workers import Crew, Workers


def crew_of(runtime: RuntimeConfig) -> Crew:
    """Local processes, or actors of a Ray cluster, for a `with` block. Raises MissingExtraError."""
    if runtime.executor == "ray":
        from spr.store.ray_workers import RayWorkers

        return RayWorkers(runtime)
    return Workers(runtime)
