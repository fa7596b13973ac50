"""``explainer explain``: one image or many, from files to pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explainer.cli import completion
from explainer.cli.options import (
    NO_WORD,
    AsJson,
    Channels,
    ClassifierWord,
    ClassNames,
    Debug,
    Device,
    GeneratorWord,
    KindOfClassifier,
    Mean,
    OutputsOfClassifier,
    Quiet,
    Seed,
    Size,
    Std,
    as_target,
    names,
    opened,
)
from explainer.cli.terminal import (
    COLOURS,
    DISTRUSTED,
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
    from explainer.classifier import Classifier
    from explainer.explanation import Explanation

__all__ = ["EXAMPLES", "deliver", "explain_images"]

EXAMPLES = examples(
    (
        "A photograph of a face, cut to the square around the face, and a classifier of the zoo",
        "explainer explain face.png --classifier faces/smile --crop 224,115,60 --out page",
    ),
    (
        "A classifier of your own, in a file, with a generator you trained",
        "explainer explain photo.png --classifier model.onnx --mean .5 --std .5 --class-names cat,dog "
        "--generator my_generator --out page",
    ),
    (
        "The function smile() of mymodels.py in this folder; three levels; two maps, tested",
        "explainer explain face.png --classifier mymodels:smile --level .1 --level .5 --level .9 "
        "--saliency difference,integrated_gradients --fidelity --out page",
    ),
    (
        "A folder of images; stopped, it goes on where it was",
        "explainer explain photos --classifier faces/smile --generator faces --out pages",
    ),
    (
        "A generator with named axes (explainer guide): is the change of one of them enough?",
        "explainer explain cell.png --classifier model.onnx --generator guided --along 'nucleus size' "
        "--out page",
    ),
    ("For a script", "explainer explain face.png --classifier faces/smile --seed 1 --json --quiet"),
)


def explain_images(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG or TIFF, 8 or 16 bit, any size. Several, or a folder, a .csv with a column "
            "path, a .zip or .npz, are explained together."
        ),
    ],
    classifier: ClassifierWord,
    generator: GeneratorWord = "auto",
    target: Annotated[str | None, typer.Option(help="Class to walk to and fro, by name or number.")] = None,
    level: Annotated[
        list[float] | None,
        typer.Option(help="Level to walk to; may be repeated. By default ten from .05 to .95."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,HALF", help="Square to cut out first: centre and half-width in pixels."),
    ] = None,
    saliency: Annotated[
        str,
        typer.Option(
            help="Maps to make, with commas: difference,integrated_gradients; none makes none.",
            autocompletion=completion.saliency_methods,
        ),
    ] = "difference",
    fidelity: Annotated[
        bool,
        typer.Option(
            "--fidelity", metavar=NO_WORD, help="Replace pixels in the order of each map: is it true?"
        ),
    ] = False,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            metavar=NO_WORD,
            help="Also make the checks that cost as much as the walk, and those of a set.",
        ),
    ] = False,
    along: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS", help="Named axis to walk along, and nowhere else; may be repeated."),
    ] = None,
    lock: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS", help="Named axis that stays as it is; may be repeated."),
    ] = None,
    towards: Annotated[
        str | None,
        typer.Option(metavar="CLUSTER", help="Cluster of a mixture to walk to, by name or number."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for explanation.html and explanation.gif, or of several images for index.html and "
            "the explanations; the same command goes on where it was stopped. Without it only a summary."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images that walk together.")] = 32,
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
    """Explain images: walk each to every level asked for, check the walk, and say whether to trust it."""
    with errors_named(debug):
        square = None if crop is None else _parse_crop(crop)
        require_there("images", *images)
        make_folder(out)
        options: dict[str, Any] = {
            "generator": generator,
            "target": as_target(target),
            "levels": level or None,
            "saliency": names(saliency),
            "fidelity": fidelity,
            "thorough": thorough,
            "along": along or (),
            "lock": lock or (),
            "towards": as_target(towards),
            "seed": seed,
            "device": device,
            "progress": shows_progress(quiet),
        }
        about = {
            "size": size, "mean": mean, "std": std, "class_names": class_names, "kind": kind,
            "outputs": outputs, "channels": channels,
        }  # fmt: skip
        model = opened(classifier, None, **about)
        if len(images) > 1 or _is_set(images[0]):
            if square is not None:
                raise OptionError(
                    "crop", "is for one image", received=f"{len(images)} arguments",
                    remedy="Crop the files first, or explain them one by one.",
                )  # fmt: skip
            _explain_several(images, model, out, as_json, batch_size=batch_size, **options)
            return
        from explainer.image import as_image
        from explainer.pipeline import explain

        pixels = as_image(images[0])
        if square is not None:
            _, height, width = pixels.shape
            rows, columns = _cut(square, height, width)
            pixels = pixels[:, rows, columns].clone()
        deliver(explain(pixels, model, **options), out, as_json)


def _is_set(path: Path) -> bool:
    """Whether a path names several images."""
    return path.is_dir() or path.suffix.lower() in (".csv", ".zip", ".npz")


def _explain_several(
    images: Sequence[Path], classifier: "Classifier", out: Path | None, as_json: bool, **options: Any
) -> None:
    """Explain several images, print what they come to, and leave with 1 if one is not to be trusted."""
    from explainer.pipeline import explain_many

    found = explain_many(
        images[0] if len(images) == 1 else images,
        classifier,
        out=None if out is None else out / "explanations",
        **options,
    )
    files = {}
    if out is not None:
        files = {"html": str(found.to_html(out / "index.html")), "explanations": str(out / "explanations")}
    summary = found.summary()
    checked = found.checked
    if as_json:
        failed = [outcome.to_dict() for outcome in found.failed]
        of_set = {} if checked is None else {"set": checked.record()}
        print_json({"summary": summary.to_dict(), "failed": failed, **of_set, "files": files})
    else:
        said = [] if checked is None else checked.sentences()
        lines = [*summary.sentences(), *said, *(f"{kind:<13}{path}" for kind, path in files.items())]
        print_lines([escape(line) for line in lines])
    distrusted = checked is not None and checked.verdict.status == "distrust"
    if summary.failed or summary.verdicts["distrust"] or distrusted:
        raise typer.Exit(DISTRUSTED)


def _parse_crop(crop: str) -> tuple[int, int, int]:
    words = crop.split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() for word in words) or int(words[2]) == 0:
        raise OptionError(
            "crop",
            "must be three whole numbers, the centre x, the centre y and a half-width above 0",
            received=crop,
            remedy="Write it as --crop 224,115,60.",
        )
    x, y, half = (int(word) for word in words)
    return x, y, half


def _cut(square: tuple[int, int, int], height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of a square, which must lie inside the image."""
    x, y, half = square
    if x < half or y < half or x + half > width or y + half > height:
        raise OptionError(
            "crop",
            f"must lie inside the image of {width} x {height} pixels",
            received=f"columns {x - half} to {x + half}, rows {y - half} to {y + half}",
            remedy="Move the centre or take a smaller half-width.",
        )
    return slice(y - half, y + half), slice(x - half, x + half)


def deliver(explanation: "Explanation", out: Path | None, as_json: bool) -> None:
    """Write the files, print the result, and leave with 1 if it is not to be trusted."""
    files: dict[str, str] = {}
    if out is not None:
        for kind, write in (("html", explanation.to_html), ("gif", explanation.to_gif)):
            path = out / f"explanation.{kind}"
            write(path)
            files[kind] = str(path)
    if as_json:
        print_json({**explanation.to_dict(), "files": files})
    else:
        _print_explanation(explanation, files)
    if explanation.verdict.status == "distrust":
        raise typer.Exit(DISTRUSTED)


def _print_explanation(explanation: "Explanation", files: dict[str, str]) -> None:
    verdict = explanation.verdict
    own = explanation.original.class_name
    said = f"The classifier says {own}. " if own else ""
    print_lines(
        [escape(f"{said}Levels: {explanation.level_word}; {explanation.original.level:.2g} as it is.")]
    )
    table = Table("level", "achieved", "reached", "reason")
    for frame in explanation.frames.itertuples():
        table.add_row(
            f"{frame.level:.2f}",
            f"{frame.achieved:.3f}",
            "[green]yes[/]" if frame.reached else "[red]no[/]",
            escape(frame.reason) if isinstance(frame.reason, str) else "",
        )
    Console().print(table)
    lines = [f"[bold {COLOURS[verdict.status]}]Verdict[/] {escape(verdict.sentence)}"]
    lines += [f"  - {escape(reason)}" for reason in verdict.reasons]
    named = explanation.attribution_by_axis
    if named is not None:
        lines += [escape(said) for said in (named.sentence, *named.warnings)]
    lines += [f"{kind:<5}{escape(path)}" for kind, path in files.items()]
    print_lines(lines)
