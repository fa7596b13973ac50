"""``explainer train``: a generator from images of one's own."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from explainer.cli import completion
from explainer.cli.health import print_health
from explainer.cli.options import NO_WORD, AsJson, Debug, Device, Quiet, Seed, usable
from explainer.cli.terminal import (
    DISTRUSTED,
    INTERRUPTED,
    errors_named,
    examples,
    print_json,
    print_lines,
    require_there,
    shows_progress,
    to_stderr,
)

__all__ = ["EXAMPLES", "train"]

EXAMPLES = examples(
    ("A folder of photographs", "explainer train --data photos --out my_generator --flip"),
    (
        "A table of microscope images, for longer",
        "explainer train --data cells.csv --out my_cells --size 32 --minutes 120",
    ),
    ("Go on with what Ctrl-C stopped", "explainer train --out my_generator --resume"),
    ("Is it good? On images it has not seen", "explainer health my_generator --data held_out"),
)


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The model folder; it appears when training has ended.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or .zip of image files, .npz with an array, .csv with a column path."),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="vae, infomax, two-stage or mixture.", autocompletion=completion.kinds_of_generators
        ),
    ] = "two-stage",
    size: Annotated[
        int, typer.Option(help="Height and width in pixels; images are cut to their central part.")
    ] = 64,
    width: Annotated[int | None, typer.Option(help="Width in pixels, where images are not square.")] = None,
    latent_dim: Annotated[
        int | None, typer.Option(help="Dimensions of the code. By default 64, of a mixture 10.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    minutes: Annotated[float, typer.Option(help="Upper bound on the time of training.")] = 30.0,
    flip: Annotated[bool, typer.Option("--flip", metavar=NO_WORD, help="Mirror half of the images.")] = False,
    sampler: Annotated[
        bool,
        typer.Option(
            "--sampler", metavar=NO_WORD, help="Fit a second VAE to the codes: samples then look like images."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", metavar=NO_WORD, help="Continue a run that was stopped, with its settings."),
    ] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a generator on images of your own. Ctrl-C stops it, --resume continues it."""
    with errors_named(debug):
        require_there("data", *([data] if data else []))
        from explainer.training_run import checkpoints_of, health_as_dict, prepare
        from explainer.training_run import train as train_model

        options = {
            "data": None if data is None else str(data), "kind": kind, "size": size, "seed": seed,
            "latent_dim": latent_dim, "steps": steps, "minutes": minutes, "flip": flip,
            "width": width, "sampler": sampler,
        }  # fmt: skip
        given = {name: value for name, value in options.items() if _was_given(context, name)}
        settings = prepare(out, given, resume=resume)
        place = usable(device)
        try:
            result = train_model(settings, out, progress=shows_progress(quiet), device=place)
        except KeyboardInterrupt:
            begun = checkpoints_of(out.resolve()).exists()
            command = f"explainer train --out {shlex.quote(str(out))} --resume"
            said = f"To continue: {command}" if begun else "Training had not begun."
            to_stderr(f"[bold yellow]Stopped[/] {escape(said)}")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            about = {"folder": str(result.folder), "files": result.files, "images": result.images}
            run = {"steps": result.steps, "seconds": result.seconds}
            print_json({**about, **run, "health": health_as_dict(result.health)})
        else:
            print_health(result.health, ())
            lines = [f"model    {result.folder}"]
            lines += [f"{name:<9}{path}" for name, path in result.files.items()]
            print_lines([escape(line) for line in lines])
        if result.health.status == "collapsed":
            raise typer.Exit(DISTRUSTED)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
