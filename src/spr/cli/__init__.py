"""The command line: commands, and what becomes of errors."""

from spr.cli.app import app
from spr.cli.main import run_cli

__all__ = ["app", "run_cli"]
