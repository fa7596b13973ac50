"""``explainer health``: can this generator be used to explain?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explainer.cli import completion
from explainer.cli.options import AsJson, Debug, Device, Quiet, Seed, column, usable
from explainer.cli.terminal import (
    COLOURS,
    DISTRUSTED,
    errors_named,
    examples,
    print_json,
    print_lines,
    require_there,
)
from explainer.errors import OptionError

if TYPE_CHECKING:
    from explainer.generators.health import Health

__all__ = ["EXAMPLES", "health", "print_health"]

EXAMPLES = examples(
    ("A generator you trained, on images it has not seen", "explainer health my_generator --data held_out"),
    ("With a linear probe of its code", "explainer health faces --data faces.csv --labels smiling --json"),
)


def health(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, or the name of a generator of the zoo.",
            autocompletion=completion.generators,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Images it was not trained on, as for train.")],
    most: Annotated[int, typer.Option(min=2, help="Images to measure at most, drawn by --seed.")] = 2_000,
    labels: Annotated[
        str | None, typer.Option(help="Column of a .csv with a class for each image, for a linear probe.")
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a generator on images: errors per channel, information in the code, a verdict in words."""
    with errors_named(debug):
        require_there("data", data)
        import torch

        from explainer.generators.base import as_unit_interval
        from explainer.generators.zoo import load_generator
        from explainer.image_sets import read_image_set
        from explainer.training_run import health_as_dict

        place = usable(device) or torch.device("cpu")
        generator = load_generator(model).to(place)
        classes = None if labels is None else column(data, labels, as_text=True)
        images = read_image_set(data, generator.shape[1:])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        drawn = order[:most].sort().values
        images = images[drawn]
        if images.shape[1] != generator.shape[0]:
            raise OptionError(
                "data", f"must have the {generator.shape[0]} channels of the generator",
                received=images.shape[1], remedy="Pass images like those it was trained on.",
            )  # fmt: skip
        known = None if classes is None else [classes[index] for index in drawn]
        found = generator.health(as_unit_interval(images).to(place), known)
        if as_json:
            print_json(health_as_dict(found))
        else:
            print_health(found, generator.channel_names or ())
        if found.status == "collapsed":
            raise typer.Exit(DISTRUSTED)


def print_health(health: "Health", channel_names: Sequence[str]) -> None:
    """Print a table of errors, the facts and the verdict."""
    table = Table("reconstruction", "channel", "mse", "r2", "ssim")
    for stage, channel, *values in health.rows(channel_names):
        table.add_row(stage, escape(channel), *(f"{value:.4g}" for value in values))
    Console().print(table)
    print_lines([escape(fact) for fact in health.facts()])
    colour = COLOURS[health.status]
    sentence = f"[bold {colour}]{health.status.capitalize()}[/] {escape(health.sentence)}"
    print_lines([f"{sentence} ({health.images} images)"])
