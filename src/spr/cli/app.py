"""The commands. Each loads the configuration and calls one function of `spr.run` or `spr.commands`; what
becomes of errors is `spr.cli.main`'s.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spr import __version__
from spr.errors import UserError
from spr.store.bars import progress_shown
from spr.store.files import check_empty, write_whole
from spr.store.folders import ADAPTER, EVALUATION, STAGES, TABLES

if TYPE_CHECKING:
    from spr.run.wiring import Config

FOUND_WRONG = 3  # exit code of an examination

progress = progress_shown()
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the configuration.")
]
Overwrite = Annotated[
    str | None,
    typer.Option(
        "--overwrite",
        metavar="STAGE",
        help="Redo this stage and what depends on it.",
        autocompletion=lambda: list(STAGES),
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Who works: local (processes of this machine) or ray (a cluster).",
        autocompletion=lambda: ["local", "ray"],
    ),
]
Preview = Annotated[
    Path | None, typer.Option("--preview", metavar="FILE", help="Write an HTML picture of the result.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spr {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the trace of an error (anywhere in the command).")
    ] = False,
) -> None:
    """Spatial Preference Rewarding."""


def _load(path: Path, overrides: list[str] | None, executor: str | None = None) -> Config:
    from spr.run.wiring import load_config

    return load_config(path, _overrides(overrides, executor))


def _overrides(overrides: list[str] | None, executor: str | None) -> list[str]:
    """What the options of a command change in the configuration."""
    return [*(overrides or []), *([f"runtime.executor={executor}"] if executor is not None else [])]


def _stage(name: str, config: Config, overwrite: str | None) -> None:
    """Run one stage."""
    from spr.run import pipeline

    run = pipeline.begin(config, [name], progress, overwrite)
    pipeline.DO[name](config, run, progress)


def _formats() -> list[str]:
    from spr.commands.export import WRITERS

    return list(WRITERS)


def _check_writable(page: Path | None) -> None:
    """Raise UserError for a page that could not be written, before it is made."""
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise UserError(f"--preview {page}: expected a file in a folder that exists")


@app.command("run")
def run_all(
    config: ConfigPath,
    until: Annotated[
        str,
        typer.Option(
            metavar="STAGE",
            help=f"Last stage to run: {', '.join(STAGES)}.",
            autocompletion=lambda: list(STAGES),
        ),
    ] = "report",
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    executor: Executor = None,
) -> None:
    """Run all stages; finished ones are left as they are."""
    from spr.run import pipeline

    pipeline.run_pipeline(_load(config, overrides, executor), progress, until, overwrite)


@app.command("config")
def show_config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the configuration with every default, override and path resolved."""
    from spr.run.pipeline import config_text

    typer.echo(config_text(_load(config, overrides)), nl=False)


@app.command()
def index(
    config: ConfigPath,
    check: Annotated[
        bool, typer.Option("--check", help="Open every image and compare it with its annotation.")
    ] = False,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
) -> None:
    """Read the annotations once into an index."""
    loaded = _load(config, overrides)
    _stage("index", loaded, overwrite)
    if check:
        from spr.commands.check import check_run

        found = check_run(loaded, progress)
        typer.echo(found.text)
        if found.set_aside:
            raise typer.Exit(FOUND_WRONG)


@app.command()
def regions(
    config: ConfigPath,
    preview: Preview = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    executor: Executor = None,
) -> None:
    """Draw random region queries (method 2.1)."""
    _check_writable(preview)
    loaded = _load(config, overrides, executor)
    _stage("regions", loaded, overwrite)
    if preview is not None:
        from spr.commands.previews import preview_regions

        write_whole(preview, preview_regions(loaded))


@app.command()
def describe(
    config: ConfigPath,
    preview: Preview = None,
    overrides: Overrides = None,
    overwrite: Overwrite = None,
    executor: Executor = None,
) -> None:
    """Let the model describe each region several times (method 2.2); --preview only shows the prompts as the
    model receives them.
    """
    _check_writable(preview)
    loaded = _load(config, overrides, executor)
    if preview is None:
        _stage("describe", loaded, overwrite)
        return
    from spr.commands.doctor import preview_prompts

    write_whole(preview, preview_prompts(loaded, progress))


def _add_stage(name: str, doc: str) -> None:
    def command(
        config: ConfigPath,
        overrides: Overrides = None,
        overwrite: Overwrite = None,
        executor: Executor = None,
    ) -> None:
        _stage(name, _load(config, overrides, executor), overwrite)

    command.__doc__ = doc
    app.command(name)(command)


_add_stage("score", "Score every candidate and its refinement (method 2.3, 2.4).")
_add_stage("pair", "Best refined against worst original answer (method 2.5).")


@app.command()
def report(config: ConfigPath, overrides: Overrides = None, overwrite: Overwrite = None) -> None:
    """One self-contained HTML file about the run."""
    _stage("report", _load(config, overrides), overwrite)


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
) -> None:
    """Preference training with LoRA (method 2.6)."""
    from spr.run.wiring import trainings
    from spr.store.run import Run

    loaded = _load(config, overrides)
    if merge is not None:
        for name in trainings(loaded):
            check_empty(merge / name)
    _stage("train", loaded, overwrite)
    if merge is not None:
        from spr.training.merge import merge_adapter

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
    executor: Executor = None,
) -> None:
    """Measure the models on the benchmarks, or score a file of answers."""
    if predictions is not None:
        from spr.evaluation.predictions_file import score_file

        typer.echo(score_file(predictions))
        return
    if config is None:
        raise UserError("evaluate: found neither CONFIG nor --predictions FILE, expected one of them")
    from spr.run import pipeline

    loaded = _load(config, overrides, executor)
    asked = pipeline.models_asked(loaded, [name.strip() for name in models.split(",")])
    run = pipeline.begin(loaded, ["evaluate"], progress, overwrite)
    pipeline.do_evaluate(loaded, run, progress, asked)
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
    executor: Executor = None,
) -> None:
    """Vary a value of the configuration; stages that do not depend on it are shared. One table, one plot."""
    from spr.run.ablate import ablate as run_ablation

    typer.echo(run_ablation(config, vary, _overrides(overrides, executor), progress, overwrite))


@app.command()
def export(
    config: ConfigPath,
    format: Annotated[str, typer.Option(help="trl | llamafactory | ms-swift", autocompletion=_formats)],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    adapter: Annotated[str, typer.Option(help="Whose training; default: the first.")] = "",
    template: Annotated[str, typer.Option(help="The model's template, as the other trainer names it.")] = "",
    overrides: Overrides = None,
) -> None:
    """Write the pairs, and the run's training, in the form that another trainer starts as it is."""
    from spr.commands.export import export_run

    result = export_run(_load(config, overrides), format, out, adapter, template, progress)
    for reason, count in Counter(d.reason for d in result.dropped).items():
        progress.tell(f"left out: {count} pairs, {reason}")
    for missing in result.missing:
        progress.tell(f"warning: {format} cannot be told {missing}")
    progress.tell(f"{result.pairs} pairs, {result.images} images: {out}; how to start is in README.md")


@app.command()
def doctor(config: ConfigPath, overrides: Overrides = None) -> None:
    """Does this model, served this way, read and write boxes in the frame we think it does?"""
    from spr.commands.doctor import doctor_config

    findings = doctor_config(_load(config, overrides), progress)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(FOUND_WRONG)


@app.command()
def dialects(
    name: Annotated[
        str | None, typer.Argument(help="One family, or '{base: qwen3_vl, scale: 1024}'.")
    ] = None,
    parse: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show what the dialect reads in this text.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the original image.")] = None,
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
) -> None:
    """The whole loop on the embedded world, on a CPU."""
    from spr.lab.demo import run_demo

    typer.echo(run_demo(out, quick, progress))
