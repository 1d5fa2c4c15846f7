"""What becomes of a command: a user's mistake is one line and exit code 2, `--debug` shows the trace."""

from __future__ import annotations

import sys

from spr.cli.app import app
from spr.errors import SprError, UserError
from spr.store.bars import errors


def run_cli(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the user become one line and exit code 2, other known errors exit code
    1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        app(args=arguments, prog_name="spr")
    except SprError as e:
        if debug:
            raise
        errors.print(f"spr: {e}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2 if isinstance(e, UserError) else 1) from None
    except KeyboardInterrupt:
        errors.print("spr: stopped; run the same command again to go on", markup=False)
        raise SystemExit(130) from None
