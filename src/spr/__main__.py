"""`spr` and `python -m spr`: starts the command line, or says in one line which extra brings it."""

from __future__ import annotations

import sys

from spr.errors import missing_extra


def main() -> None:
    """Entry point of the console script."""
    try:
        _main()
    except KeyboardInterrupt:  # before spr.cli.main listens
        raise SystemExit(130) from None


def _main() -> None:
    try:
        import pydantic
        import rich
        import typer
        import yaml
    except ImportError:
        print(f"spr: {missing_extra('the command line', 'cli')}", file=sys.stderr)
        raise SystemExit(2) from None
    del pydantic, rich, typer, yaml
    from spr.cli.main import leave, run_cli

    try:
        run_cli()
    except SystemExit as e:
        leave(int(e.code or 0))


if __name__ == "__main__":
    main()
