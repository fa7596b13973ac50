"""``explainer fidelity``: which saliency map is true to the classifier?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explainer.cli import completion
from explainer.cli.options import (
    AsJson,
    Channels,
    ClassifierWord,
    ClassNames,
    Debug,
    Device,
    KindOfClassifier,
    Mean,
    OutputsOfClassifier,
    Quiet,
    Seed,
    Size,
    Std,
    as_target,
    column,
    opened,
    usable,
)
from explainer.cli.terminal import (
    errors_named,
    examples,
    make_folder,
    print_json,
    print_lines,
    require_there,
    shows_progress,
)
from explainer.errors import OptionError

if TYPE_CHECKING:
    from explainer.fidelity_result import Fidelity

__all__ = ["EXAMPLES", "fidelity_of_maps"]

EXAMPLES = examples(
    (
        "Four methods on the faces of a table with the true class in a column",
        "explainer fidelity faces.csv --classifier faces/smile --labels smiling --out fidelity",
    ),
    (
        "Two methods that need no generator, on a classifier of your own",
        "explainer fidelity photos --classifier model.onnx --class-names cat,dog --target dog "
        "--saliency occlusion --saliency feature_ablation",
    ),
)


OF_GRADIENTS = ["difference", "path_integrated", "integrated_gradients", "grad_cam"]
OF_CALLS = ["difference", "occlusion"]


def fidelity_of_maps(
    data: Annotated[
        Path, typer.Argument(help="Folder or .zip of images, .npz with an array, .csv with a column path.")
    ],
    classifier: ClassifierWord,
    saliency: Annotated[
        list[str] | None,
        typer.Option(
            help="A method; may be repeated. By default four of them, without a gradient two.",
            autocompletion=completion.saliency_methods,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="Of the walk: of the zoo, or a folder that `explainer train` made. By default the zoo's of "
            "the same name as the classifier.",
            autocompletion=completion.generators,
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Column of the .csv with the true class, by name or number.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Class the maps speak of, by name or number.")] = None,
    filler: Annotated[
        str, typer.Option(help="uniform, blur, mean, marginal, or inpainting by the generator.")
    ] = "uniform",
    unit: Annotated[str, typer.Option(help="pixels or superpixels.")] = "pixels",
    steps: Annotated[int, typer.Option(help="Steps from none to all of the pixels.")] = 20,
    draws: Annotated[int, typer.Option(help="Draws of noise.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder for fidelity.html, .json and curves.csv.")] = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    class_names: ClassNames = None,
    kind: KindOfClassifier = None,
    outputs: OutputsOfClassifier = None,
    channels: Channels = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Replace pixels in the order of saliency maps: which map is true to the classifier?"""
    with errors_named(debug):
        require_there("data", data)
        make_folder(out)
        from explainer.generators.base import as_unit_interval
        from explainer.generators.zoo import load_generator
        from explainer.image_sets import read_image_set
        from explainer.replacement import fidelity
        from explainer.saliency.methods import WALKED, require_methods, saliency_batch, walk_images
        from explainer.walks.base import require_levels
        from explainer.walks.evolution import EvolutionWalk

        asked = require_methods(saliency) if saliency else None
        truth = None if labels is None else column(data, labels)
        place = usable(device)
        about = {
            "size": size, "mean": mean, "std": std, "class_names": class_names, "kind": kind,
            "outputs": outputs, "channels": channels,
        }  # fmt: skip
        model = opened(classifier, place, **about)
        walker = None
        if filler == "inpainting" or set(asked or OF_CALLS) & set(WALKED):
            walker = load_generator(generator or _same_name(classifier)).to(place or "cpu")
        pixels = walker.shape[1:] if walker is not None else (model.size or (64, 64))
        images = as_unit_interval(read_image_set(data, pixels)).to(place or "cpu")
        model.check(images[:4])
        methods = asked or require_methods(OF_GRADIENTS if model.differentiable else OF_CALLS)
        wanted = model.target(as_target(target), images)
        levels = require_levels([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
        walks = None
        if walker is not None and set(methods) & set(WALKED):
            walks = walk_images(
                walker, model, images, wanted, levels, walk=None if model.differentiable else EvolutionWalk()
            )
        maps = saliency_batch(methods, model, images, wanted, walked=walks, seed=seed)
        found = fidelity(
            images, truth, model, maps,
            target=wanted.index if wanted.against is None else (wanted.against, wanted.index),
            filler=walker if filler == "inpainting" and walker is not None else filler,
            unit=unit,  # type: ignore[arg-type]
            steps=steps, draws=draws, seed=seed, progress=shows_progress(quiet),
        )  # fmt: skip
        paths = {} if out is None else _write_fidelity(found, out)
        if as_json:
            print_json({**found.record(), "files": paths})
            return
        for measure in found.measures:
            table = Table(measure, "area", "interval", "better than")
            for row in found.ranking(measure).to_dict("records"):
                interval = f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] == row["low"] else ""
                name = escape(row["method"])
                table.add_row(
                    f"[dim]{name}[/]" if row["control"] else name, f"{row['area']:.3f}", interval,
                    escape(row["better than"]),
                )  # fmt: skip
            Console().print(table)
        lines = [*found.sentences(), *(f"{name:<6}{path}" for name, path in paths.items())]
        print_lines([escape(line) for line in lines])


def _write_fidelity(found: "Fidelity", out: Path) -> dict[str, str]:
    """The page, the record and the curves as a table."""
    paths = {"html": out / "fidelity.html", "json": out / "fidelity.json", "csv": out / "curves.csv"}
    found.to_html(paths["html"])
    paths["json"].write_text(json.dumps(found.record(), indent=1, allow_nan=False), encoding="utf-8")
    found.to_frame().to_csv(paths["csv"], index=False)
    return {kind: str(path) for kind, path in paths.items()}


def _same_name(classifier: str) -> str:
    """The generator of the zoo that belongs to a classifier of the zoo."""
    name, slash, _ = classifier.partition("/")
    if not slash or name not in completion.generators(name):
        raise OptionError(
            "generator", "must be named for a classifier that is not of the zoo", received="nothing",
            remedy="Pass --generator with a name of the zoo or a folder that `explainer train` made, or only "
            "--saliency methods that need none, such as integrated_gradients.",
        )  # fmt: skip
    return name
