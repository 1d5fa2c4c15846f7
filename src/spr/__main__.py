"""`spr` and `python -m spr`: starts the command line, or says in one line which extra brings it."""

from __future__ import annotations

import sys

from spr.errors import missing_extra


def main() -> None:
    """Entry point of the console script."""
    try:
        import pydantic
        import rich
        import typer
        import yaml
    except ImportError:
        print(f"spr: {missing_extra('the command line', 'cli')}", file=sys.stderr)
        raise SystemExit(2) from None
    del pydantic, rich, typer, yaml
    from spr.cli import run_cli

    run_cli()


if __name__ == "__main__":
    main()
