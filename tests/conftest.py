"""Settings of all tests: hypothesis is quick by default and repeatable; nothing may reach the network."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
settings.register_profile("default", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("default")
