"""The command line. Each command loads the configuration and calls one function of `pipeline`, or one of the
tools.

A user's mistake is one line on stderr and exit code 2; `--debug` shows the trace. Progress goes to stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spr.errors import UserError
from spr.store.bars import BarProgress
from spr.store.folders import ADAPTER, EVALUATION, PAIRS, TABLES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Spatial Preference Rewarding.",
)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the configuration.")
]
Overwrite = Annotated[
    str | None, typer.Option("--overwrite", metavar="STAGE", help="Redo this stage and what depends on it.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")]
Preview = Annotated[
    Path | None, typer.Option("--preview", metavar="FILE", help="Write an HTML picture of the result.")
]


def _stage(name: str, config_path: Path, overrides: list[str] | None, overwrite: str | None) -> None:
    from spr.run import pipeline
    from spr.run.wiring import load_config

    config = load_config(config_path, overrides or [])
    run = pipeline.open_run(config)
    if overwrite is not None:
        pipeline.overwrite(run, overwrite)
    pipeline.DO[name](config, run, BarProgress())


@app.command("run")
def run_all(
    config: ConfigPath,
    until: Annotated[
        str,
        typer.Option(
            help="Last stage to run: index, regions, describe, score, pair, train, evaluate, report."
        ),
    ] = "report",
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Run all stages; finished ones are left as they are."""
    from spr.run import pipeline
    from spr.run.wiring import load_config
    from spr.store.run import Run

    pipeline.check_stage(until)
    loaded = load_config(config, overrides or [])
    if overwrite is not None:
        pipeline.overwrite(Run(loaded.run), overwrite)
    pipeline.run_pipeline(loaded, BarProgress(), until)


@app.command()
def index(
    config: ConfigPath,
    check: Annotated[
        bool, typer.Option("--check", help="Open every image and compare it with its annotation.")
    ] = False,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Read the annotations once into an index."""
    _stage("index", config, overrides, overwrite)
    if check:
        from spr.commands.check import check_run
        from spr.run.wiring import load_config

        typer.echo(check_run(load_config(config, overrides or []), BarProgress()))


@app.command()
def regions(
    config: ConfigPath,
    preview: Preview = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Draw random region queries (method 2.1)."""
    _stage("regions", config, overrides, overwrite)
    if preview is not None:
        from spr.commands.previews import preview_regions
        from spr.run.wiring import load_config

        preview.write_text(preview_regions(load_config(config, overrides or [])), encoding="utf-8")


@app.command()
def describe(
    config: ConfigPath,
    preview: Preview = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Let the model describe each region several times (method 2.2); --preview only shows the prompts as the
    model receives them.
    """
    if preview is not None:
        from spr.commands.doctor import preview_prompts
        from spr.run.wiring import load_config

        preview.write_text(preview_prompts(load_config(config, overrides or [])), encoding="utf-8")
        return
    _stage("describe", config, overrides, overwrite)


def _add_stage(name: str, doc: str) -> None:
    def command(
        config: ConfigPath, overrides: Overrides = None, overwrite: Overwrite = None, debug: Debug = False
    ) -> None:
        _stage(name, config, overrides, overwrite)

    command.__doc__ = doc
    app.command(name)(command)


_add_stage("score", "Score every candidate and its refinement (method 2.3, 2.4).")
_add_stage("pair", "Best refined against worst original answer (method 2.5).")
_add_stage("report", "One self-contained HTML file about the run.")


@app.command()
def train(
    config: ConfigPath,
    merge: Annotated[
        Path | None,
        typer.Option(
            "--merge", metavar="DIR", help="Also write merged weights there, one folder per adapter."
        ),
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Preference training with LoRA (method 2.6)."""
    _stage("train", config, overrides, overwrite)
    if merge is not None:
        from spr.run.wiring import load_config, trainings
        from spr.store.run import Run
        from spr.training.merge import merge_adapter

        loaded = load_config(config, overrides or [])
        for name in trainings(loaded):
            merge_adapter(loaded.model.checkpoint, Run(loaded.run).path(ADAPTER, name), str(merge / name))


@app.command()
def evaluate(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]")] = None,
    models: Annotated[
        str, typer.Option(help="Comma-separated: base, names of adapters, adapter (all of them).")
    ] = "base,adapter",
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score answers produced elsewhere.")
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Measure the models on the benchmarks, or score a file of answers."""
    if predictions is not None:
        from spr.evaluation.predictions_file import score_file

        typer.echo(score_file(predictions))
        return
    if config is None:
        raise UserError("evaluate: found neither CONFIG nor --predictions FILE, expected one of them")
    from spr.run import pipeline
    from spr.run.wiring import load_config

    loaded = load_config(config, overrides or [])
    run = pipeline.open_run(loaded)
    if overwrite is not None:
        pipeline.overwrite(run, overwrite)
    pipeline.do_evaluate(loaded, run, BarProgress(), tuple(m.strip() for m in models.split(",")))
    typer.echo(run.read_bytes(EVALUATION, TABLES).decode())


@app.command()
def ablate(
    config: ConfigPath,
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="A.B=X,Y", help="A value to vary; given again: every combination."),
    ],
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    debug: Debug = False,
) -> None:
    """Vary a value of the configuration; stages that do not depend on it are shared. One table, one plot."""
    from spr.run.ablate import ablate as run_ablation

    typer.echo(run_ablation(config, vary, overrides or [], BarProgress(), overwrite))


@app.command()
def export(
    config: ConfigPath,
    format: Annotated[str, typer.Option(help="trl | llamafactory | ms-swift")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write the pairs in the form that another trainer loads as it is."""
    from spr.commands.export import export_pairs
    from spr.run import pipeline
    from spr.run.depends import fresh
    from spr.run.wiring import dialect_of, image_store, load_config
    from spr.types import TrainingPair

    loaded = load_config(config, overrides or [])
    run = pipeline.open_run(loaded)
    fresh(loaded, run, "pair")
    pairs = run.read_stage(TrainingPair, PAIRS)
    export_pairs(pairs, format, out, dialect_of(loaded), image_store(loaded).load)


@app.command()
def doctor(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Does this model, served this way, read and write boxes in the frame we think it does?"""
    from spr.commands.doctor import doctor_config
    from spr.run.wiring import load_config

    doctor_config(load_config(config, overrides or []), BarProgress())


@app.command()
def dialects(
    name: Annotated[str | None, typer.Argument(help="One family.")] = None,
    parse: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show what the dialect reads in this text.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the original image.")] = None,
    debug: Debug = False,
) -> None:
    """How each model family writes boxes."""
    from spr.cli.dialects import dialects as show

    show(name, parse, size)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/demo, or runs/demo-quick.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, labelled quick.")] = False,
    debug: Debug = False,
) -> None:
    """The whole loop on the embedded world, on a CPU."""
    from spr.lab.demo import run_demo

    typer.echo(run_demo(out, quick, BarProgress()))
