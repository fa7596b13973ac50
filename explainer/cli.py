"""The command ``explainer``: parses, calls, prints.

Exit codes: 0, done; 1, done, and the verdict is "do not trust" (of an explanation; of several: of any of
them, or one could not be explained), "collapsed" (of a generator), or of an audit "confounded"; 2, wrong
input, named on stderr with its remedy (``--debug`` adds the traceback); 3, a fault in this package; 4, an
audit found too little evidence, if asked with ``--fail-on insufficient``; 130, stopped by Ctrl-C.

Results go to stdout, everything else to stderr. With ``--json`` stdout is one JSON object or list
and nothing else. torch is imported inside the commands, so that ``explainer --help`` is quick.
"""

import json
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explainer.errors import ExplainerError, OptionError, OutputError

if TYPE_CHECKING:
    from explainer.classifier import Classifier
    from explainer.explanation import Explanation
    from explainer.fidelity_result import Fidelity
    from explainer.generators.health import Health

__all__ = ["app", "main"]

DISTRUSTED, WRONG_INPUT, FAULT, INSUFFICIENT, INTERRUPTED = 1, 2, 3, 4, 130

# The face in scikit-image's astronaut(), cropped as the zoo's faces are: centre x, centre y, half-width.
ASTRONAUT_FACE = (224, 115, 60)

_COLOURS = {"trust": "green", "limits": "yellow", "distrust": "red"}
_COLOURS |= {"healthy": "green", "weak": "yellow", "collapsed": "red"}
_COLOURS |= {"not detected": "green", "insufficient": "yellow", "confounded": "red"}
_FAIL_ON = ("confounded", "insufficient", "never")

app = typer.Typer(
    help="Explain an image classifier by changing the image until the classifier changes its mind.",
    epilog="Exit codes: 0 done, 1 the verdict is 'do not trust', 'collapsed' or 'confounded', 2 wrong input, "
    "3 a fault in this package, 4 an audit found too little evidence (if asked), 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default that of the classifier.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")]


_OF_CLASSIFIER = "About a classifier that is not of the zoo"
ClassifierWord = Annotated[
    str,
    typer.Option(
        help="Of the zoo (faces/smile), a file (model.onnx, model.pt2), or package.module:function. What a "
        "file does not say of its images comes from the options below, or from model.onnx.json beside it."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="PIXELS", help="224, or height x width: 224x160.", rich_help_panel=_OF_CLASSIFIER),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Subtracted from images in [0, 1]: .485,.456,.406.", rich_help_panel=_OF_CLASSIFIER),
]
Std = Annotated[
    str | None,
    typer.Option(help="What they are then divided by: .229,.224,.225.", rich_help_panel=_OF_CLASSIFIER),
]
ClassNames = Annotated[
    str | None,
    typer.Option(help="In the order of the outputs: cat,dog.", rich_help_panel=_OF_CLASSIFIER),
]
KindOfClassifier = Annotated[
    str | None,
    typer.Option(
        "--kind", help="auto, binary, multiclass, multilabel or regression.", rich_help_panel=_OF_CLASSIFIER
    ),
]
OutputsOfClassifier = Annotated[
    str | None, typer.Option("--outputs", help="logits or probabilities.", rich_help_panel=_OF_CLASSIFIER)
]
Channels = Annotated[
    int | None,
    typer.Option(help="Channels it takes, if not those of the image.", rich_help_panel=_OF_CLASSIFIER),
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from explainer import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the animation.")] = Path("demo"),
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain, without a file of your own, what 'smiling' means to a classifier of the zoo."""
    with _errors_named(debug):
        _make_folder(out)
        from skimage.data import astronaut

        from explainer.generators.zoo import load_classifier
        from explainer.image import as_image
        from explainer.pipeline import explain

        x, y, half = ASTRONAUT_FACE
        face = astronaut()[y - half : y + half, x - half : x + half].copy()
        explanation = explain(
            as_image(face),
            load_classifier("faces/smile"),
            seed=seed,
            device=device,
            progress=_shows_progress(quiet),
        )
        _deliver(explanation, out, as_json)


@app.command("explain")
def explain_image(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG or TIFF, 8 or 16 bit, any size. Several, or a folder, a .csv with a column "
            "path, a .zip or .npz, are explained together."
        ),
    ],
    classifier: ClassifierWord,
    generator: Annotated[str, typer.Option(help="A generator of the zoo; auto: the one that fits.")] = "auto",
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
        str, typer.Option(help="Maps to make, with commas: difference,integrated_gradients; none makes none.")
    ] = "difference",
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Replace pixels in the order of each map: is it true?")
    ] = False,
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
    with _errors_named(debug):
        square = None if crop is None else _parse_crop(crop)
        if out is not None:
            _make_folder(out)
        options: dict[str, Any] = {
            "generator": generator,
            "target": int(target) if target is not None and target.isdecimal() else target,
            "levels": level or None,
            "saliency": _names(saliency),
            "fidelity": fidelity,
            "seed": seed,
            "device": device,
            "progress": _shows_progress(quiet),
        }
        from explainer.classifier_files import open_classifier, parsed

        about = parsed(
            size=size,
            mean=mean,
            std=std,
            class_names=class_names,
            kind=kind,
            outputs=outputs,
            channels=channels,
        )
        model = open_classifier(classifier, about)
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
        _deliver(explain(pixels, model, **options), out, as_json)


@app.command()
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The model folder; it appears when training has ended.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or .zip of image files, .npz with an array, .csv with a column path."),
    ] = None,
    kind: Annotated[str, typer.Option(help="vae, infomax, two-stage or mixture.")] = "two-stage",
    size: Annotated[
        int, typer.Option(help="Height and width in pixels; images are cut to their central part.")
    ] = 64,
    width: Annotated[int | None, typer.Option(help="Width in pixels, where images are not square.")] = None,
    latent_dim: Annotated[
        int | None, typer.Option(help="Dimensions of the code. By default 64, of a mixture 10.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    minutes: Annotated[float, typer.Option(help="Upper bound on the time of training.")] = 30.0,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the images.")] = False,
    sampler: Annotated[
        bool, typer.Option("--sampler", help="Fit a second VAE to the codes: samples then look like images.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped, with its settings.")
    ] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a generator on images of your own. Ctrl-C stops it, --resume continues it."""
    with _errors_named(debug):
        from explainer.training_run import checkpoints_of, health_as_dict, prepare
        from explainer.training_run import train as train_model

        options = {
            "data": None if data is None else str(data), "kind": kind, "size": size, "seed": seed,
            "latent_dim": latent_dim, "steps": steps, "minutes": minutes, "flip": flip,
            "width": width, "sampler": sampler,
        }  # fmt: skip
        given = {name: value for name, value in options.items() if _was_given(context, name)}
        settings = prepare(out, given, resume=resume)
        try:
            result = train_model(settings, out, progress=not quiet)
        except KeyboardInterrupt:
            begun = checkpoints_of(out.resolve()).exists()
            command = f"explainer train --out {shlex.quote(str(out))} --resume"
            said = f"To continue: {command}" if begun else "Training had not begun."
            _to_stderr(f"[bold yellow]Stopped[/] {escape(said)}")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            about = {"folder": str(result.folder), "files": result.files, "images": result.images}
            run = {"steps": result.steps, "seconds": result.seconds}
            _print_json({**about, **run, "health": health_as_dict(result.health)})
        else:
            _print_health(result.health, ())
            lines = [f"model    {result.folder}"]
            lines += [f"{name:<9}{path}" for name, path in result.files.items()]
            Console().print(escape("\n".join(lines)), soft_wrap=True, highlight=False)
        if result.health.status == "collapsed":
            raise typer.Exit(DISTRUSTED)


@app.command()
def health(
    model: Annotated[str, typer.Argument(help="A model folder, or the name of a generator of the zoo.")],
    data: Annotated[Path, typer.Option(help="Images it was not trained on, as for train.")],
    most: Annotated[int, typer.Option(min=2, help="Images to measure at most, evenly spread.")] = 2_000,
    labels: Annotated[
        str | None, typer.Option(help="Column of a .csv with a class for each image, for a linear probe.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure a generator on images: errors per channel, information in the code, a verdict in words."""
    with _errors_named(debug):
        from explainer.generators.base import as_unit_interval
        from explainer.generators.zoo import load_generator
        from explainer.image_sets import read_image_set
        from explainer.training_run import health_as_dict

        generator = load_generator(model)
        images = read_image_set(data, generator.shape[1:])
        stride = -(-len(images) // most)
        classes = None if labels is None else _column_of(data, labels)[::stride]
        images = images[::stride]
        if images.shape[1] != generator.shape[0]:
            raise OptionError(
                "data", f"must have the {generator.shape[0]} channels of the generator",
                received=images.shape[1], remedy="Pass images like those it was trained on.",
            )  # fmt: skip
        found = generator.health(as_unit_interval(images), classes)
        if as_json:
            _print_json(health_as_dict(found))
        else:
            _print_health(found, generator.channel_names or ())
        if found.status == "collapsed":
            raise typer.Exit(DISTRUSTED)


@app.command("fidelity")
def fidelity_of_maps(
    data: Annotated[
        Path, typer.Argument(help="Folder or .zip of images, .npz with an array, .csv with a column path.")
    ],
    classifier: Annotated[str, typer.Option(help="A classifier of the zoo, such as faces/smile.")],
    saliency: Annotated[
        list[str] | None, typer.Option(help="A method; may be repeated. By default four of them.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Of the walk; by default the zoo's of the same name as the classifier.")
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
    as_json: AsJson = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Replace pixels in the order of saliency maps: which map is true to the classifier?"""
    with _errors_named(debug):
        if out is not None:
            _make_folder(out)
        from explainer.generators.base import as_unit_interval
        from explainer.generators.zoo import load_classifier, load_generator
        from explainer.image_sets import read_image_set
        from explainer.replacement import fidelity
        from explainer.saliency.methods import WALKED, require_methods, saliency_batch, walk_images
        from explainer.walks.base import require_levels

        methods = require_methods(
            saliency or ["difference", "path_integrated", "integrated_gradients", "grad_cam"]
        )
        truth = None if labels is None else _column(data, labels)
        model = load_classifier(classifier)
        walker = None
        if filler == "inpainting" or set(methods) & set(WALKED):
            walker = load_generator(generator or classifier.partition("/")[0])
        size = walker.shape[1:] if walker is not None else (model.size or (64, 64))
        images = as_unit_interval(read_image_set(data, size))
        model.check(images[:4])
        wanted = model.target(int(target) if target is not None and target.isdecimal() else target, images)
        levels = require_levels([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
        walks = None
        if walker is not None and set(methods) & set(WALKED):
            walks = walk_images(walker, model, images, wanted, levels)
        maps = saliency_batch(methods, model, images, wanted, walked=walks, seed=seed)
        found = fidelity(
            images, truth, model, maps,
            target=wanted.index if wanted.against is None else (wanted.against, wanted.index),
            filler=walker if filler == "inpainting" and walker is not None else filler,
            unit=unit,  # type: ignore[arg-type]
            steps=steps, draws=draws, seed=seed, progress=_shows_progress(quiet),
        )  # fmt: skip
        paths = {} if out is None else _write_fidelity(found, out)
        if as_json:
            _print_json({**found.record(), "files": paths})
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
        lines = [*found.sentences(), *(f"{kind:<6}{path}" for kind, path in paths.items())]
        Console().print("\n".join(escape(line) for line in lines), soft_wrap=True, highlight=False)


@app.command()
def audit(
    classifier: ClassifierWord,
    data: Annotated[
        Path, typer.Option(help="A .csv with a column path or file, the label and the attributes.")
    ],
    label: Annotated[str, typer.Option(help="Column of the true class, by name or number.")],
    attributes: Annotated[str, typer.Option(metavar="A,B", help="Columns the classifier should not use.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.json, audit.xml (JUnit), audit.md and audit.csv.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column of the person or patient.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Class to audit; may be repeated. By default all, of two one.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="An unbiased classifier to compare with, named like --classifier.")
    ] = None,
    generator: Annotated[str, typer.Option(help="A generator of the zoo; auto: the one that fits.")] = "auto",
    images: Annotated[int, typer.Option(help="Images walked at most.")] = 500,
    oracle_steps: Annotated[int, typer.Option(help="Training steps of the oracles.")] = 400,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="confounded: leave with 1 if an attribute is; insufficient: also with 4 if the evidence is "
            "not enough; never.",
        ),
    ] = "confounded",
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    class_names: ClassNames = None,
    kind: KindOfClassifier = None,
    outputs: OutputsOfClassifier = None,
    channels: Channels = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find out whether a classifier uses attributes it should not use."""
    with _errors_named(debug):
        if fail_on not in _FAIL_ON:
            raise OptionError(
                "fail-on", "is unknown", received=fail_on, remedy=f"Choose one of {', '.join(_FAIL_ON)}."
            )
        if out is not None:
            _make_folder(out)
        from explainer.audit_run import audit_table, write_report
        from explainer.classifier_files import open_classifier, parsed

        about = parsed(
            size=size, mean=mean, std=std, class_names=class_names, kind=kind, outputs=outputs,
            channels=channels,
        )  # fmt: skip
        model = open_classifier(classifier, about)
        report = audit_table(
            data, model, label=label, group=group,
            attributes=[name.strip() for name in attributes.split(",") if name.strip()],
            targets=[int(word) if word.isdecimal() else word for word in target] if target else None,
            reference=None if reference is None else open_classifier(reference, about),
            generator=generator, n_images=images, oracle_steps=oracle_steps, seed=seed,
            progress=_shows_progress(quiet),
        )  # fmt: skip
        files = {} if out is None else write_report(report, out)
        if as_json:
            _print_json({**report.to_dict(), "files": files})
        else:
            for finding in report.findings:
                said = f"[bold {_COLOURS[finding.verdict.status]}]{finding.verdict.status}[/]"
                about_it = escape(f"{finding.attribute} ({finding.target}): {finding.verdict.sentence}")
                Console().print(f"{said}  {about_it}", soft_wrap=True, highlight=False)
            lines = [*report.warnings.values(), *report.skipped]
            lines += [f"{kind:<9}{path}" for kind, path in files.items()]
            Console().print(escape("\n".join(filter(None, lines))), soft_wrap=True, highlight=False)
        if report.confounded and fail_on != "never":
            raise typer.Exit(DISTRUSTED)
        if report.of_status("insufficient") and fail_on == "insufficient":
            raise typer.Exit(INSUFFICIENT)


@app.command()
def models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the generators and classifiers that come with the package."""
    with _errors_named(debug):
        from explainer.generators.zoo import list_models

        rows = [row for card in list_models() for row in _rows(card)]
        if as_json:
            _print_json(rows)
            return
        table = Table(*rows[0]) if rows else Table("name")
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    Args:
        arguments: Words after ``explainer``; those of the process if None.

    Raises:
        SystemExit: Always, with one of the exit codes above.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="explainer")
    except Exception:  # left to Python this would end with 1, which here means "do not trust"
        traceback.print_exc()
        sys.exit(FAULT)


@contextmanager
def _errors_named(debug: bool) -> Iterator[None]:
    """Turn an error the user can put right into one line on stderr and exit code 2."""
    try:
        yield
    except ExplainerError as error:
        if debug:
            traceback.print_exc()
        _to_stderr(f"[bold red]Error[/] {escape(str(error))}")
        raise typer.Exit(WRONG_INPUT) from None


def _to_stderr(text: str) -> None:
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


def _shows_progress(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _make_folder(out: Path) -> None:
    """Make the folder before any work is done, so that nobody waits for a result that cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "out",
            "cannot be made",
            received=f"{out}: {error.strerror}",
            remedy="Name a folder in a place that can be written to.",
        ) from error


def _column(table: Path, name: str) -> list[Any]:
    """The true classes in a table's column: numbers or names."""
    import pandas as pd

    if table.suffix.lower() != ".csv":
        raise OptionError(
            "labels",
            "are read from a table",
            received=table,
            remedy="Pass a .csv with the columns path and label.",
        )
    rows = pd.read_csv(table)
    if name not in rows:
        raise OptionError(
            "labels",
            "is no column of the table",
            received=name,
            remedy=f"Choose from: {', '.join(rows.columns)}.",
        )
    return rows[name].tolist()


def _write_fidelity(found: "Fidelity", out: Path) -> dict[str, str]:
    """The page, the record and the curves as a table."""
    paths = {"html": out / "fidelity.html", "json": out / "fidelity.json", "csv": out / "curves.csv"}
    found.to_html(paths["html"])
    paths["json"].write_text(json.dumps(found.record(), indent=1, allow_nan=False), encoding="utf-8")
    found.to_frame().to_csv(paths["csv"], index=False)
    return {kind: str(path) for kind, path in paths.items()}


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _column_of(table: Path, name: str) -> list[str]:
    """A column of the table of images."""
    import pandas as pd

    rows = pd.read_csv(table, dtype=str) if table.suffix.lower() == ".csv" else pd.DataFrame()
    if name not in rows.columns:
        raise OptionError(
            "labels", "is no column of the table of images", received=name,
            remedy=f"Choose one of: {', '.join(map(str, rows.columns))}." if len(rows.columns)
            else "Pass --data with a .csv that has this column.",
        )  # fmt: skip
    return rows[name].fillna("").tolist()


def _print_health(health: "Health", channel_names: Sequence[str]) -> None:
    table = Table("reconstruction", "channel", "mse", "r2", "ssim")
    for stage, channel, *values in health.rows(channel_names):
        table.add_row(stage, escape(channel), *(f"{value:.4g}" for value in values))
    Console().print(table)
    for fact in health.facts():
        Console().print(escape(fact), highlight=False, soft_wrap=True)
    colour = _COLOURS[health.status]
    sentence = f"[bold {colour}]{health.status.capitalize()}[/] {escape(health.sentence)}"
    Console().print(f"{sentence} ({health.images} images)", soft_wrap=True, highlight=False)


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
    if as_json:
        failed = [outcome.to_dict() for outcome in found.failed]
        _print_json({"summary": summary.to_dict(), "failed": failed, "files": files})
    else:
        lines = [*summary.sentences(), *(f"{kind:<5}{path}" for kind, path in files.items())]
        Console().print(escape("\n".join(lines)), soft_wrap=True, highlight=False)
    if summary.failed or summary.verdicts["distrust"]:
        raise typer.Exit(DISTRUSTED)


def _names(words: str) -> tuple[str, ...]:
    """Names with commas between them; "none" is no name."""
    names = tuple(name.strip() for name in words.split(",") if name.strip())
    return () if names == ("none",) else names


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


def _deliver(explanation: "Explanation", out: Path | None, as_json: bool) -> None:
    """Write the files, print the result, and leave with 1 if it is not to be trusted."""
    files: dict[str, str] = {}
    if out is not None:
        for kind, write in (("html", explanation.to_html), ("gif", explanation.to_gif)):
            path = out / f"explanation.{kind}"
            write(path)
            files[kind] = str(path)
    if as_json:
        _print_json({**explanation.to_dict(), "files": files})
    else:
        _print_explanation(explanation, files)
    if explanation.verdict.status == "distrust":
        raise typer.Exit(DISTRUSTED)


def _print_explanation(explanation: "Explanation", files: dict[str, str]) -> None:
    verdict = explanation.verdict
    table = Table("level", "achieved", "reached", "reason")
    for frame in explanation.frames.itertuples():
        table.add_row(
            f"{frame.level:.2f}",
            f"{frame.achieved:.3f}",
            "[green]yes[/]" if frame.reached else "[red]no[/]",
            escape(frame.reason) if isinstance(frame.reason, str) else "",
        )
    Console().print(table)
    lines = [f"[bold {_COLOURS[verdict.status]}]Verdict[/] {escape(verdict.sentence)}"]
    lines += [f"  - {escape(reason)}" for reason in verdict.reasons]
    lines += [f"{kind:<5}{escape(path)}" for kind, path in files.items()]
    # soft_wrap: a path broken over two lines cannot be copied
    Console().print("\n".join(lines), soft_wrap=True, highlight=False)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _rows(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What there is to load in a model folder: name, kind, shape or size in pixels, bytes, licence."""
    folder = files("explainer._models") / card["name"]
    entries = {card["name"]: ("generator", card["generator"])} if "generator" in card else {}
    for name, entry in card.get("classifiers", {}).items():
        entries[f"{card['name']}/{name}"] = ("classifier", entry)
    for name, (kind, entry) in entries.items():
        yield {
            "name": name,
            "kind": f"{kind} ({entry['kind']})" if "kind" in entry else kind,
            "shape": entry["options"]["shape"] if kind == "generator" else entry["size"],
            "bytes": len((folder / entry["file"]).read_bytes()),
            "licence": entry.get("licence", card["licence"]),
        }


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " x ".join(str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
