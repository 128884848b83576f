"""A guard around a model from outside: chosen, fitted, calibrated, saved, examined, described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import notsure
from notsure.adapters import Loaded
from notsure.choosing.candidates import BARE, Candidate, candidates
from notsure.choosing.cross_validation import check_folds, cross_validated
from notsure.choosing.preparing import Workshop
from notsure.choosing.results import Result, Settings
from notsure.choosing.telling import chosen_because, numbers_of, worst_cases
from notsure.classifier import Classifier
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.state import undisturbed
from notsure.core.storage import save_json, writable_folder
from notsure.data import Images, Split
from notsure.evaluation import Records, conclusions, evaluate
from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.sanity import CHANCE_MARGIN
from notsure.evaluation.threats import NAMES, WhiteBox
from notsure.guard import Guard
from notsure.models import architecture_of

CHOOSING, EXAMINED, CHOICE = "choosing", "examined", "choice.json"
"""Where, in a guard's folder, the choice was made and the guard examined; and what was chosen."""

SMALL, GREY, COLOUR = (0.1, 0.2), (0.1, 0.3), (4 / 255, 8 / 255)
"""The linf budgets where none are given: of images of less than 20 pixels a side, in which a pixel
says more, of grey ones and of colour images, up to what is customary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A guard, and everything that is known of it.

    Attributes:
        guard: fitted and calibrated.
        name: its parts, such as "PuVAE + KDensity".
        folder: where it was saved.
        settings: what it was compared and examined with.
        results: what cross-validation said of each candidate, best first; empty where there was
            nothing to choose.
        left_out: candidates that do not suit the model, with the reason.
        because: why it was chosen; empty where there was nothing to choose.
        records: of the guard and of the network by itself, on test images under every threat.
        source: the name of the data.
        split: the images that it was fitted, calibrated and examined on.
        loaded: the model.
    """

    guard: Guard
    name: str
    folder: Path
    settings: Settings
    results: tuple[Result, ...]
    left_out: Mapping[str, str]
    because: str
    records: Records
    source: str
    split: Split
    loaded: Loaded


def fit_guard(
    loaded: Loaded,
    split: Split,
    out: str | Path,
    *,
    detectors: Sequence[str] = ("kdensity",),
    purifiers: Sequence[str] = ("none",),
    fpr: float = 0.01,
    eps: Sequence[float | str] = (),
    norm: str = "linf",
    suite: str = "quick",
    threats: Sequence[str] = NAMES,
    folds: int = 3,
    count: int = 200,
    purifier_epochs: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    source: str = "",
    progress: bool = False,
) -> Fitted:
    """Puts a guard around a model, saves it and says what it withstands.

    Where several detectors or purifiers are asked for, every combination is a candidate, and the
    one is taken that withstands most in cross-validation: thresholds are set on all calibration
    images but a part, and images of that part attacked by who does not know the guard and by who
    knows all of it. The worst case over both counts, image by image, a rejected image as safe, in
    the mean over the budgets; all candidates may reject the same share of clean images. Test images
    have no say in it. The guard is then calibrated on all calibration images, and examined on test
    images beside the network by itself.

    Interrupted, the same call goes on with the training of purifiers and with the attacks.

    Args:
        loaded: the model, from `notsure.adapters.load_model`; of a guard only the classifier is
            taken.
        split: images at the size that the model takes, with its class numbers: what detectors and
            purifiers are fitted on, thresholds set on, figures measured on.
        out: the folder to write the guard to, with `examined` (records) and, where there was a
            choice, `choosing` and choice.json.
        detectors: see `candidates`; "auto" for each of the library's.
        purifiers: see `candidates`; "auto" for each of the library's.
        fpr: the share of clean images that the guard may reject, in (0, 1).
        eps: budgets in [0,1] pixel units; by default two that suit the images, in linf.
        norm: of the budgets, "linf" or "l2".
        suite: whose attacks are run: "quick", "standard" or "full".
        threats: under which the guard that was taken is examined, "white-box" among them.
        folds: of the cross-validation.
        count: how many images are attacked, in all folds together and again of the test images.
        purifier_epochs: how long purifiers are trained; by default as long as in their reports.
        seed: of training, cuts, draws and attacks.
        batch_size: how many images are attacked at a time.
        source: the name of the data, for the report.
        progress: whether to show progress bars.

    Returns:
        The guard, and everything that is known of it.

    Raises:
        ConfigurationError: a setting is out of range, there are too few images for the fpr, or the
            model hardly knows the images.
        UnsupportedError: no gradient reaches the model's images.
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    wanted = candidates(detectors, purifiers)
    for one in wanted:
        one.check()
    settings = Settings(
        fpr=_share(fpr),
        eps=_budgets(eps, norm, split.train),
        norm=norm,
        suite=suite,
        folds=folds,
        count=count,
        seed=seed,
        batch_size=batch_size,
    )
    if WhiteBox.name not in threats:
        raise ConfigurationError(
            "What a guard withstands is not known unless the attacker knows it too: put "
            "'white-box' among the threats."
        )
    if purifier_epochs is not None and purifier_epochs < 1:
        raise ConfigurationError(f"purifier_epochs is at least 1; got {purifier_epochs}.")
    if unknown := [name for name in threats if name not in NAMES]:
        raise ConfigurationError(
            f"There is no threat {unknown[0]!r}. There are: {', '.join(NAMES)}."
        )
    if len(wanted) > 1:
        check_folds(len(split.calibration), settings)
    classifier = _classifier(loaded)
    clean_accuracy(classifier, split.calibration, batch_size=batch_size)
    folder = writable_folder(out)
    workshop = Workshop(
        classifier,
        split.train,
        folder / CHOOSING,
        purifier_epochs=purifier_epochs,
        seed=seed,
        progress=progress,
    )
    guards = workshop.fitted(wanted)
    results, left_out = _compared(wanted, guards, classifier, split, settings, folder, progress)
    left_out = {**workshop.left_out, **left_out}
    name = _best(results, guards, left_out)
    because = chosen_because(results, name, settings) if len(wanted) > 1 else ""
    guard = guards[name].calibrate(split.calibration, fpr=fpr, batch_size=batch_size)
    test = drawn(split.test, count, seed)
    # beside the network by itself, so that it can be seen what the guard adds
    records = evaluate(
        {name: guard, BARE: Guard(classifier)},
        test.x,
        test.labels,
        threats=list(threats),
        suite=suite,
        eps=list(settings.eps),
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        data=source,
        class_names=test.class_names,
        out=folder / EXAMINED,
        progress=progress,
    )
    # not before: a folder that holds another guard's figures has refused by now
    guard.save(folder)
    fitted = Fitted(
        guard=guard,
        name=name,
        folder=folder,
        settings=settings,
        results=tuple(results),
        left_out=left_out,
        because=because,
        records=records,
        source=source,
        split=split,
        loaded=loaded,
    )
    if results:
        save_json(folder / CHOICE, _choice(fitted))
    return fitted


def _share(fpr: float) -> float:
    if not 0 < fpr < 1:
        raise ConfigurationError(f"fpr is a share of clean images, in (0, 1); got {fpr!r}.")
    return fpr


def _budgets(eps: Sequence[float | str], norm: str, images: Images) -> tuple[float, ...]:
    """The budgets, ascending."""
    if norm not in ("linf", "l2"):
        raise ConfigurationError(f"Suites are for linf and l2; got norm={norm!r}.")
    if eps:
        radii = sorted({parse_size(one, what="eps") for one in eps})
        if radii[0] <= 0 or (norm == "linf" and radii[-1] > 1):
            raise ConfigurationError(
                "eps is above 0, in [0,1] pixel units, and in linf at most 1, where every pixel "
                f"may change at will; got {', '.join(f'{one:g}' for one in radii)}. "
                "8 of 255 levels are 8/255."
            )
        return tuple(radii)
    if norm != "linf":
        raise ConfigurationError(
            "In l2 no budget is customary for all images: give eps, such as --eps 0.5."
        )
    if images.size < 20:
        return SMALL
    return GREY if images.in_channels == 1 else COLOUR


def _classifier(loaded: Loaded) -> Classifier:
    classifier = loaded.classifier
    if not classifier.differentiable:
        raise UnsupportedError(
            f"{loaded.name} cannot be guarded: no gradient reaches its images "
            f"({loaded.no_gradients or 'it says so'}), so that its features are out of reach and "
            "an attacker who knows the guard cannot be examined. Give the network itself, "
            "path/to/file.py:build_model."
        )
    if can_be_rebuilt(classifier):
        # as a guard that is loaded has it, so that both give the same scores to the bit
        classifier.module.to(memory_format=torch.channels_last)
    return classifier


def clean_accuracy(classifier: Classifier, images: Images, *, batch_size: int = 256) -> Rate:
    """The share of images that are classified rightly, if it is worth going on.

    Raises:
        ConfigurationError: it is hardly better than chance.
        InputError: the images do not suit the classifier.
    """
    right = 0
    with undisturbed(classifier), torch.inference_mode():
        for x, y in images.batches(batch_size):
            x = classifier.check(x.to(classifier.device))
            right += int((classifier.logits(x).argmax(dim=1).cpu() == y.cpu()).sum())
    rate = wilson(right, len(images))
    chance = 1 / images.num_classes
    if rate.value < chance + CHANCE_MARGIN * (1 - chance):
        raise ConfigurationError(
            f"The model gets {100 * rate.value:.1f} % of {rate.n} clean images right, which is "
            f"hardly more than chance ({100 * chance:.1f} %). Usual causes: another mean and std "
            "than in training, channels or classes in another order, a checkpoint of another "
            "model, or data of another kind. Put that right first."
        )
    return rate


def _compared(
    wanted: Sequence[Candidate],
    guards: Mapping[str, Guard],
    classifier: Classifier,
    split: Split,
    settings: Settings,
    folder: Path,
    progress: bool,
) -> tuple[list[Result], dict[str, str]]:
    if len(wanted) == 1:
        return [], {}
    return cross_validated(
        {**guards, BARE: Guard(classifier)},
        split.calibration,
        settings,
        kept=[BARE],
        optional=[one.name for one in wanted if one.optional],
        folder=folder / CHOOSING,
        progress=progress,
    )


def _best(
    results: Sequence[Result], guards: Mapping[str, Guard], left_out: Mapping[str, str]
) -> str:
    if not results and len(guards) == 1:
        return next(iter(guards))
    found = next((one.name for one in results if one.name != BARE), None)
    if found is None:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UnsupportedError(f"No candidate suits the model. {told}")
    return found


def drawn(images: Images, count: int, seed: int) -> Images:
    """So many of the images, drawn with the seed, in their order; all where there are no more."""
    if count >= len(images):
        return images
    rows = np.random.default_rng(seed).choice(len(images), size=count, replace=False)
    return images.select(np.sort(rows))


def _choice(fitted: Fitted) -> dict[str, Any]:
    return {
        "chosen": fitted.name,
        "because": fitted.because,
        "settings": {**vars(fitted.settings), "eps": list(fitted.settings.eps)},
        "candidates": [numbers_of(one, fitted.settings) for one in fitted.results],
        "left_out": dict(fitted.left_out),
        "examined": {
            "suite": fitted.records.meta["suite"],
            "worst_cases": worst_cases(fitted.records),
            "conclusions": [asdict(one) for one in conclusions(fitted.records)],
        },
        "data": {
            "source": fitted.source,
            "how": fitted.split.record.how,
            "seed": fitted.split.record.seed,
            "sizes": fitted.split.record.sizes,
        },
        "model": fitted.loaded.origin,
        "versions": {"notsure": notsure.__version__, "torch": torch.__version__},
    }


def can_be_rebuilt(classifier: Classifier) -> bool:
    """Whether the guard's folder holds the classifier too, and not its hash alone."""
    return architecture_of(classifier.module) is not None
