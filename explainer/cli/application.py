"""The command line as a whole: its manual, its commands in the order of use, and how it ends."""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from explainer.cli import audit, demo, explain, fidelity, guide, health, models, train
from explainer.cli.options import NO_WORD
from explainer.cli.terminal import FAULT, WRONG_INPUT, print_error

__all__ = ["app", "main"]

# A backslash at the end of a line joins it to the next: prose is wrapped by the terminal, lists are not.
MANUAL = """
Explain an image classifier by changing the image until the classifier changes its mind.

A generator, a variational autoencoder trained on images like yours, makes the changes, step by step, so \
that what changes is what the classifier looks at, and not noise. Checks then say whether what you see is \
evidence.

[bold]Start here[/]
  explainer demo     [dim]a first explanation, without files of your own[/]
  explainer models   [dim]the generators and classifiers that come along[/]

[bold]With your own[/]
  [dim]1. once: a generator for images like yours[/]
     explainer train --data photos --out my_generator
  [dim]2. is it good enough?[/]
     explainer health my_generator --data held_out
  [dim]3. what does the classifier look at in this image?[/]
     explainer explain photo.png --classifier model.pt2 \\
       --generator my_generator --out page
  [dim]4. which map of it is true to the classifier?[/]
     explainer fidelity photos --classifier model.pt2 \\
       --generator my_generator --out fidelity
  [dim]5. does it use what it should not use?[/]
     explainer audit --classifier model.onnx --generator my_generator \\
       --data table.csv --label tumour --attributes sex,scanner --html audit.html
  [dim]6. in your words? say what the axes of the generator's code mean[/]
     explainer guide my_generator --data photos --guidance said.csv \\
       --out guided

[bold]A classifier[/] is faces/smile (of the zoo), model.onnx, model.pt2 (of torch.export.save) or \
package.module:function, which loads yours. A file of weights alone (.pt, .pth) cannot be opened without \
the code of its network: write that function, or export the model. Pickles and TorchScript can run \
programs when they are opened, and are refused.

[bold]Images[/] are PNG, JPEG or TIFF, 8 or 16 bit; a folder or .zip of them; a .csv with a column path; .npz.

[bold]Every command[/] takes --json (one JSON value on stdout, nothing else), --seed (same seed, same \
result), --device (cpu, cuda, cuda:1), --quiet (no progress), --debug (the traceback of an error) and --help \
(with examples).
"""

EPILOG = """
[bold]Exit codes[/]
    0  done
    1  done, and the verdict is 'do not trust', 'collapsed' or 'confounded'
    2  wrong input: a line on stderr says what came, and the remedy
    3  a fault in this package
    4  an audit found too little evidence, if asked with --fail-on
  130  stopped by Ctrl-C

[bold]Completion[/]
  explainer --install-completion   [dim]in bash, zsh, fish, PowerShell[/]
"""

app = typer.Typer(
    help=MANUAL,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

_EXPLAINING, _GENERATORS, _CLASSIFIERS = "Explaining", "Generators", "What a classifier uses"

app.command("demo", epilog=demo.EXAMPLES, rich_help_panel=_EXPLAINING)(demo.demo)
app.command("explain", epilog=explain.EXAMPLES, rich_help_panel=_EXPLAINING)(explain.explain_images)
app.command("fidelity", epilog=fidelity.EXAMPLES, rich_help_panel=_EXPLAINING)(fidelity.fidelity_of_maps)
app.command("audit", epilog=audit.EXAMPLES, rich_help_panel=_CLASSIFIERS)(audit.audit)
app.command("train", epilog=train.EXAMPLES, rich_help_panel=_GENERATORS)(train.train)
app.command("health", epilog=health.EXAMPLES, rich_help_panel=_GENERATORS)(health.health)
app.command("guide", epilog=guide.EXAMPLES, rich_help_panel=_GENERATORS)(guide.guide_generator)
app.command("models", epilog=models.EXAMPLES, rich_help_panel=_GENERATORS)(models.models)

# Of click, which typer needed in earlier versions and carries within itself in later ones.
_UsageError: type[Exception] = cast(Any, typer.BadParameter.__mro__[1])


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar=NO_WORD, help="Print the version and stop.")
    ] = False,
) -> None:
    if version:
        from explainer import __version__

        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    Args:
        arguments: Words after ``explainer``; those of the process if None.

    Raises:
        SystemExit: Always, with one of the exit codes that ``explainer --help`` lists.
    """
    words = None if arguments is None else list(arguments)
    try:
        code = app(args=words, prog_name="explainer", standalone_mode=False)
    except _UsageError as error:
        _print_usage(error)
        sys.exit(WRONG_INPUT)
    except Exception:  # left to Python this would end with 1, which here means "do not trust"
        traceback.print_exc()
        sys.exit(FAULT)
    sys.exit(code if isinstance(code, int) else 0)


def _print_usage(error: Exception) -> None:
    """One line on words that are no command, or options that are missing or unknown."""
    said = error.format_message()  # type: ignore[attr-defined]
    if not said:  # no words at all: the help was printed
        return
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "explainer"
    sentence = " ".join(said.split())
    ended = sentence if sentence[-1] in ".?!" else f"{sentence}."
    print_error(f"{ended} See {command} --help.")
