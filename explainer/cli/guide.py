"""``explainer guide``: look at a generator's code, say what its axes should mean, and look again."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from explainer.cli import completion
from explainer.cli.options import NO_WORD, AsJson, Debug, Device, Quiet, Seed, column, usable
from explainer.cli.terminal import (
    INTERRUPTED,
    errors_named,
    examples,
    make_folder,
    print_json,
    print_lines,
    require_there,
    shows_progress,
    to_stderr,
)
from explainer.errors import OptionError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from explainer.generators.base import Generator

__all__ = ["EXAMPLES", "guide_generator"]

EXAMPLES = examples(
    (
        "Look: a page with every image, from which a lasso takes ids",
        "explainer guide my_generator --data photos --map map.html",
    ),
    (
        "Say what you saw in a file, and see in seconds what the code already holds",
        "explainer guide my_generator --data photos --guidance said.csv --post-hoc --out named",
    ),
    (
        "Fine-tune the generator to it, and look again",
        "explainer guide my_generator --data photos --guidance said.csv --out guided --map map.html",
    ),
    (
        "An explanation in these words, by one of them alone",
        "explainer explain photo.png --classifier model.onnx --generator guided --along 'nucleus size'",
    ),
)


def guide_generator(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, or the name of a generator of the zoo.",
            autocompletion=completion.generators,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Images it was trained on, as for train.")],
    guidance: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What you say of them: a .csv or .json that Guidance.save wrote, or a .csv with the columns "
            "Unique_id,delta,x_anchor,y_anchor. Without it only a map is made.",
        ),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the .csv with what the guidance calls each image. By default names of files; of "
            "an .npz numbers from 0.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The model folder to be, with a strip of each axis.")
    ] = None,
    post_hoc: Annotated[
        bool,
        typer.Option(
            "--post-hoc", metavar=NO_WORD, help="Train nothing: name directions of the code as it is."
        ),
    ] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps of the fine-tuning.")] = 1500,
    minutes: Annotated[float, typer.Option(help="Upper bound on its time.")] = 30.0,
    latent_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="A page with a map of the code, of 3,000 images at most."),
    ] = None,
    axes: Annotated[str | None, typer.Option(metavar="A,B", help="Two named axes the map is along.")] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Name the axes of a generator's code by labels, rankings, pairs and anchors of images."""
    with errors_named(debug):
        require_there("data", data)
        _require_work(guidance, out, latent_map, axes)
        make_folder(None if latent_map is None else latent_map.parent)
        import torch

        from explainer.generators.zoo import load_generator
        from explainer.image_sets import open_image_set

        place = usable(device) or torch.device("cpu")
        generator = load_generator(model).to(place)
        found = open_image_set(data)
        known = _names(found.names, data) if ids is None else [str(each) for each in column(data, ids)]
        images = found.read((generator.shape[1], generator.shape[2]))
        files = {}
        lines = []
        if guidance is not None and out is not None:
            from explainer.generators.directions import name_axes
            from explainer.generators.guidance import Guidance
            from explainer.generators.guiding import guide
            from explainer.training_run import checkpoints_of

            said = Guidance.load(guidance)
            _require_axes(axes, [*(() if generator.axes is None else generator.axes.names), *said.names])
            if post_hoc:
                generator = name_axes(generator, images, said, ids=known, seed=seed)
            else:
                folder = checkpoints_of(out.resolve())
                try:
                    generator = guide(
                        generator, images, said, ids=known, steps=steps, minutes=minutes, seed=seed,
                        resume_from=folder, progress=shows_progress(quiet),
                    )  # fmt: skip
                except KeyboardInterrupt:
                    to_stderr("[bold yellow]Stopped[/] The same command goes on where it was.")
                    raise typer.Exit(INTERRUPTED) from None
            generator.save(out)
            if not post_hoc:
                shutil.rmtree(folder)
            files["model"] = str(out)
            files |= _strips(generator, out)
            lines += _sentences(generator)
        if latent_map is not None:
            files["map"] = _write_map(generator, images, known, axes, latent_map, seed)
        if as_json:
            named = None if generator.axes is None else generator.axes.plain()
            measured = dict(_record(generator)) if guidance is not None and named is None else {}
            more = {"guidance": measured} if measured else {}
            print_json({"images": len(images), "axes": named, **more, "files": files})
        else:
            print_lines(
                [escape(line) for line in [*lines, *(f"{kind:<9}{path}" for kind, path in files.items())]]
            )


def _require_work(guidance: Path | None, out: Path | None, latent_map: Path | None, axes: str | None) -> None:
    """Refuses a command that would do nothing, or write over a folder."""
    if (guidance is None) != (out is None):
        missing = "guidance" if guidance is None else "out"
        raise OptionError(
            missing, "is missing", received="nothing",
            remedy="Pass --guidance with what you say and --out for the guided generator, or neither.",
        )  # fmt: skip
    if guidance is None and latent_map is None:
        raise OptionError(
            "guidance, map", "leave nothing to do", received="neither",
            remedy="Add --map map.html to look, or --guidance said.csv --out guided.",
        )  # fmt: skip
    if axes is not None and latent_map is None:
        raise OptionError(
            "axes", "are those of a map, and none is made", received=axes,
            remedy="Add --map map.html, or leave --axes out.",
        )  # fmt: skip
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(
            "out", "is taken", received=out, remedy="Choose a new folder, or remove that one first."
        )


def _pair(axes: str) -> tuple[str, str]:
    """The two names of ``A,B``."""
    first, _, second = (word.strip() for word in axes.partition(","))
    return first, second


def _require_axes(axes: str | None, names: Sequence[str]) -> None:
    """The axes of the map are among those there will be: asked before the fine-tuning, which takes long."""
    for name in () if axes is None else _pair(axes):
        if name not in names:
            known = ", ".join(f'"{each}"' for each in dict.fromkeys(names)) or "none"
            raise OptionError(
                "axes", "names no axis", received=name or axes, remedy=f"Pass two of: {known}, as A,B."
            )


def _names(names: Sequence[str], data: Path) -> list[str]:
    """What guidance calls images: names of files, with their folders if two files have one name."""
    if data.suffix.lower() == ".npz":
        return [str(number) for number in range(len(names))]
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _sentences(generator: "Generator") -> list[str]:
    """Each axis, and what the fine-tuning cost."""
    if generator.axes is None:
        lines = ["The code has no named axes; anchored images were moved."]
    else:
        lines = [str(axis) for axis in generator.axes.axes]
    record = _record(generator)
    if "R2 before" in record:
        before, after = (
            ", ".join(f"{each:.3f}" for each in record[name]) for name in ("R2 before", "R2 after")
        )
        known = record.get("measured images trained on", 0)
        but = f" ({known} of them trained on, since too few are not guided)" if known else ""
        aside = f"{record['held-out images']} images set aside{but}"
        lines += [f"R2 of {aside}: {before} before, {after} after.", f"Health {record['health']}"]
    return lines


def _record(generator: "Generator") -> Mapping[str, Any]:
    """What was measured before and after, with named axes or without."""
    if generator.axes is not None:
        return generator.axes.record
    history = getattr(generator, "history", None)
    return {} if history is None else dict(history.attrs.get("guidance", {}))


def _strips(generator: "Generator", out: Path) -> dict[str, str]:
    """A strip of each named axis, as PNG in the model folder."""
    from explainer.report.latent_map import traversal

    files = {}
    for number, name in enumerate(() if generator.axes is None else generator.axes.names, start=1):
        path = out / f"axis_{number}.png"  # a name may hold what a path may not
        traversal(generator, name, path=path)
        files[f"axis {number}"] = str(path)
    return files


def _write_map(
    generator: "Generator", images: "Tensor", known: Sequence[str], axes: str | None, path: Path, seed: int
) -> str:
    """The page of a map, of images drawn by the seed where they are too many."""
    import torch

    from explainer.report.latent_map import MOST_IMAGES, latent_map, latent_page

    pair = None if axes is None else _pair(axes)
    rows = (
        torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MOST_IMAGES].sort().values
    )
    figure = latent_map(generator, images[rows], ids=[known[row] for row in rows.tolist()], axes=pair)
    return str(latent_page(figure, path))
