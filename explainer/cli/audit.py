"""``explainer audit``: does a classifier use what it should not use?"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

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
    usable,
)
from explainer.cli.terminal import (
    COLOURS,
    DISTRUSTED,
    INSUFFICIENT,
    errors_named,
    examples,
    make_folder,
    print_json,
    print_lines,
    require_there,
    shows_progress,
)
from explainer.errors import OptionError, OutputError

__all__ = ["EXAMPLES", "audit"]

FAIL_ON = ("confounded", "insufficient", "never")

EXAMPLES = examples(
    (
        "Does the smile classifier use gender or age? The files are for people, CI and further work",
        "explainer audit --classifier faces/smile --data faces.csv --label smiling --attributes gender,age "
        "--group person --out audit --html audit.html",
    ),
    (
        "A classifier of your own in CI: also fail if the evidence is not enough",
        "explainer audit --classifier model.pt2 --generator my_generator --data test.csv --label tumour "
        "--attributes scanner --fail-on insufficient --json --quiet",
    ),
)


def audit(
    context: typer.Context,
    classifier: ClassifierWord,
    data: Annotated[
        Path, typer.Option(help="A .csv with a column path or file, the label and the attributes.")
    ],
    label: Annotated[str, typer.Option(help="Column of the true class, by name or number.")],
    attributes: Annotated[str, typer.Option(metavar="A,B", help="Columns the classifier should not use.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.json, audit.xml (JUnit), audit.md and audit.csv.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The report as one page that needs no network.")
    ] = None,
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images", metavar=NO_WORD, help="Leave every picture out of the page, for privacy."
        ),
    ] = False,
    group: Annotated[str | None, typer.Option(help="Column of the person or patient.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Class to audit; may be repeated. By default all, of two one.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="An unbiased classifier to compare with, named like --classifier.")
    ] = None,
    generator: GeneratorWord = "auto",
    images: Annotated[int, typer.Option(help="Images walked at most.")] = 500,
    oracle_steps: Annotated[int, typer.Option(help="Training steps of the oracles.")] = 400,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            autocompletion=lambda incomplete: completion.one_of(FAIL_ON, incomplete),
            help="confounded: leave with 1 if an attribute is; insufficient: also with 4 if the evidence is "
            "not enough or a column could not be asked about; never.",
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
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find out whether a classifier uses attributes it should not use."""
    with errors_named(debug):
        if fail_on not in FAIL_ON:
            raise OptionError(
                "fail-on", "is unknown", received=fail_on, remedy=f"Choose one of {', '.join(FAIL_ON)}."
            )
        if no_images and html is None:
            raise OptionError(
                "no-images", "is for a page, and none is asked for", received="no --html",
                remedy="Add --html FILE, or leave --no-images out: the other files hold no pictures.",
            )  # fmt: skip
        if html is not None and html.is_dir():
            raise OutputError(
                "html", "is a folder, not a file", received=html,
                remedy="Name a file, such as audit.html in that folder.",
            )  # fmt: skip
        require_there("data", data)
        make_folder(out)
        make_folder(None if html is None else html.parent)
        from explainer.audit_run import audit_table, write_report

        place = usable(device)
        about = {
            "size": size, "mean": mean, "std": std, "class_names": class_names, "kind": kind,
            "outputs": outputs, "channels": channels,
        }  # fmt: skip
        model = opened(classifier, place, **about)
        peer = None if reference is None else opened(reference, place, **about)
        report = audit_table(
            data, model, label=label, group=group,
            attributes=names(attributes), targets=[as_target(word) for word in target] if target else None,
            reference=peer,
            generator=generator, n_images=images, oracle_steps=oracle_steps, seed=seed,
            progress=shows_progress(quiet),
        )  # fmt: skip
        report = replace(report, provenance={**report.provenance, "command": _command(context)})
        files = {} if out is None else write_report(report, out)
        if html is not None:
            files["html"] = str(report.to_html(html, images=not no_images))
        if as_json:
            print_json({**report.to_dict(), "files": files})
        else:
            for finding in report.findings:
                said = f"[bold {COLOURS[finding.verdict.status]}]{finding.verdict.status}[/]"
                about_it = escape(f"{finding.attribute} ({finding.target}): {finding.verdict.sentence}")
                print_lines([f"{said}  {about_it}"])
            lines = [*report.warnings.values(), *report.skipped]
            lines += [f"{name:<9}{path}" for name, path in files.items()]
            print_lines([escape(line) for line in lines if line])
        if report.confounded and fail_on != "never":
            raise typer.Exit(DISTRUSTED)
        if (report.of_status("insufficient") or report.skipped) and fail_on == "insufficient":
            raise typer.Exit(INSUFFICIENT)


def _command(context: typer.Context) -> str:
    """What was typed, for the provenance: options that were given, in the order of the manual."""
    words = ["explainer", "audit"]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[str(parameter.name)]
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return shlex.join(words)
