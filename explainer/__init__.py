"""Explains an image classifier by changing the image until the classifier changes its mind.

A trained variational autoencoder is the generator; its latent space is walked, step by step, until
the classifier's output has moved where it was asked to; everything else here checks, draws or sums
up that walk. A folder holds interchangeable implementations, a file one concept, and a module
imports only from entries before it in this list::

    errors.py       ExplainerError and its kinds: argument, value received, remedy
    progress.py     what is being done: a line on a terminal or in a notebook's cell
    storage.py      files never half-written, and never read unchecked
    dicom_files.py  DICOM: the pixels of one image, on the scale of their bits or in their unit
    image_files.py  image files decoded at their full depth; which axis is the channels
    image.py        path, PIL, array or tensor to image; folders and tables of images; ranges
    image_sets.py   folders, archives and tables of images at one size, kept in 8 or 16 bits
    image_stream.py images one by one from anything that holds them
    drawing.py      factors of variation; sprites and cells drawn from a table of them
    synthetic.py    data with planted truth: sprites and cells
    metrics.py      MSE per channel, SSIM, R2, Frechet distance on given features, intervals
    counterfactual.py measures of a counterfactual: COUT, distance, changed share
    frozen.py       modules evaluated and left as they were found
    preprocessing.py resizing and normalisation, inside the graph
    target.py       Target: which class is walked to, and its log-odds
    misuse.py       wrong use of a classifier, found by looking at its outputs
    estimators.py   scikit-learn estimators as models of images
    onnx_session.py ONNX Runtime sessions as models of images
    exported_program.py files of torch.export, run without running what they say
    classifier.py   Classifier
    convnet.py      the small classifiers trained here: networks, training
    generators/     axes.py base.py networks.py linear.py objectives.py sampler.py feed.py perception.py
    generators/     sample_quality.py health.py selection.py loop.py training.py vae.py infomax.py
    generators/     two_stage.py clustering.py mixture.py guidance.py told.py teacher.py directions.py
    generators/     lesson.py guiding.py adapters.py cards.py zoo.py
    classifier_files.py a classifier named by a word: of the zoo, a file, or a function
    walks/          scene.py placing.py base.py stepping.py gradient.py linear.py evolution.py head.py
    walks/          conditional.py diverse.py cluster.py
    checks/         base.py draws.py walked.py ends.py soundness.py consistency.py compatibility.py
    checks/         walk_back.py embedding.py identity.py realism.py robustness.py surrogate.py
    checks/         nulls.py verdict.py suite.py sets.py
    saliency/       base.py difference.py score_module.py attribution.py methods.py sanity.py truth.py
    report/         output.py panels.py strip.py compact.py document.py charts.py axis_table.py figures.py
    report/         latent_map.py training_figures.py fidelity_chart.py page.py sheet.py fidelity_figures.py
    report/         spreadsheet.py bias_wording.py bias_charts.py bias_strips.py bias_page.py
    fillers.py      what takes the place of replaced pixels: noise, blur, mean, other images, a generator
    mutual_information.py of two lists of classes, with what chance adds taken off
    pixel_order.py  in which order pixels are replaced; superpixels; orders to compare with
    replacement_curves.py pixels replaced step by step, and what the classifier says
    paired_comparison.py intervals and tests of methods measured on the same images
    fidelity_result.py Fidelity: curves, areas, differences, ranking
    replacement.py  fidelity(): which map is true to the classifier
    axis_attribution.py the change of the score along a walk, by named axis
    explanation.py  Explanation
    result_folder.py explanations in a folder, in chunks; what became of an image that has none
    explanations.py Explanations: the list, the table, the summary, the page
    settings.py     the options of a call, checked before any work
    assembly.py     from walked images to explanations: frames, levels, checks, maps
    session.py      what one call holds on to: classifier, generator, targets, device
    checked_set.py  check_set(): what only a set of explanations can tell
    pipeline.py     explain(), explain_many(): read top to bottom it is the data flow
    captum_attribution.py ProgressiveExaggeration, captum's conventions
    bias/           statistics.py attributes.py oracles.py walking.py confounding.py verdict.py
    bias/           subgroups.py discovery.py paths.py pictures.py junit.py markdown.py findings.py
    bias/           inputs.py evidence.py audit.py
    audit_run.py    an audit of files: the table, the images, what is written
    training_run.py a training that can be killed at any moment and continued
    cli/            terminal.py completion.py options.py explain.py demo.py health.py train.py guide.py
    cli/            fidelity.py audit.py models.py application.py
    __main__.py     `python -m explainer`: the same as the command `explainer`

The names in ``__all__`` are imported when first used, so that ``import explainer`` is quick.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explainer import errors
    from explainer.bias.audit import audit
    from explainer.bias.findings import BiasReport
    from explainer.bias.verdict import AuditThresholds
    from explainer.captum_attribution import ProgressiveExaggeration
    from explainer.checked_set import check_set
    from explainer.checks.sets import SetChecks
    from explainer.classifier import Classifier
    from explainer.explanation import Explanation
    from explainer.explanations import Explanations, Outcome
    from explainer.fidelity_result import Fidelity
    from explainer.generators.adapters import Adapter, from_diffusers, from_pythae
    from explainer.generators.infomax import InfoMaxVAE
    from explainer.generators.mixture import GaussianMixtureVAE
    from explainer.generators.two_stage import TwoStageVAE
    from explainer.generators.vae import VAE
    from explainer.generators.zoo import load_classifier, load_generator
    from explainer.image import as_image, as_images
    from explainer.pipeline import explain, explain_many
    from explainer.replacement import fidelity
    from explainer.target import Target

    __version__: str

__all__ = [
    "explain",
    "explain_many",
    "ProgressiveExaggeration",
    "Explanation",
    "Explanations",
    "Outcome",
    "check_set",
    "SetChecks",
    "fidelity",
    "Fidelity",
    "audit",
    "BiasReport",
    "AuditThresholds",
    "Classifier",
    "Target",
    "VAE",
    "InfoMaxVAE",
    "TwoStageVAE",
    "GaussianMixtureVAE",
    "Adapter",
    "from_pythae",
    "from_diffusers",
    "load_generator",
    "load_classifier",
    "as_image",
    "as_images",
    "errors",
    "__version__",
]

_HOMES = {
    "audit": "explainer.bias.audit",
    "BiasReport": "explainer.bias.findings",
    "AuditThresholds": "explainer.bias.verdict",
    "ProgressiveExaggeration": "explainer.captum_attribution",
    "check_set": "explainer.checked_set",
    "SetChecks": "explainer.checks.sets",
    "explain": "explainer.pipeline",
    "explain_many": "explainer.pipeline",
    "Explanation": "explainer.explanation",
    "Explanations": "explainer.explanations",
    "Outcome": "explainer.explanations",
    "fidelity": "explainer.replacement",
    "Fidelity": "explainer.fidelity_result",
    "Classifier": "explainer.classifier",
    "Target": "explainer.target",
    "VAE": "explainer.generators.vae",
    "InfoMaxVAE": "explainer.generators.infomax",
    "GaussianMixtureVAE": "explainer.generators.mixture",
    "TwoStageVAE": "explainer.generators.two_stage",
    "Adapter": "explainer.generators.adapters",
    "from_pythae": "explainer.generators.adapters",
    "from_diffusers": "explainer.generators.adapters",
    "load_generator": "explainer.generators.zoo",
    "load_classifier": "explainer.generators.zoo",
    "as_image": "explainer.image",
    "as_images": "explainer.image",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home, once."""
    if name == "errors":
        return importlib.import_module("explainer.errors")
    if name == "__version__":
        value: object = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("progressive-explainer")
    except PackageNotFoundError:  # a checkout on the path, never installed
        return "0+unknown"
