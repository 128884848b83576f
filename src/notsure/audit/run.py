"""An audit: a model's preprocessing checked, the model attacked, and all that is written of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from notsure.adapters import Loaded
from notsure.audit.figures import Figures, figures_of, write_junit
from notsure.audit.preprocessing import clean_accuracy, doubt_about, require_skill
from notsure.audit.requirements import WITHOUT_GRADIENTS, Requirement, budgets_of
from notsure.audit.worst import Worst, write_worst
from notsure.core.errors import ConfigurationError
from notsure.core.storage import save_json, writable_folder
from notsure.data import Images
from notsure.evaluation import Rate, Records, evaluate
from notsure.evaluation.plan import jobs_of
from notsure.evaluation.suites import DISTILLED, check_suite, suite_plan, taught_by
from notsure.evaluation.threats import NAMES, TransferFrom
from notsure.report import write_report

REPORT, VERDICT, JUNIT, WORST = "report.html", "verdict.json", "junit.xml", "adversarial"


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What an audit came to.

    Attributes:
        figures: what is left of the model.
        before: the clean accuracy that was checked before anything was attacked.
        doubt: what speaks for giving it its images in another way; empty where nothing does.
        worst: the images that were written.
        records: what happened to every image.
        folder: where everything is.
    """

    figures: Figures
    before: Rate
    doubt: str
    worst: Worst
    records: Records
    folder: Path


def run_audit(
    loaded: Loaded,
    images: Images,
    out: str | Path,
    *,
    eps: Sequence[float | str],
    norm: str = "linf",
    suite: str = "quick",
    threats: Sequence[str] | None = None,
    limits: Sequence[Requirement] = (),
    most: int = 20,
    data: str = "data",
    notes: Sequence[str] = (),
    skipped: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Audit:
    """Audits a model; the same call goes on with an audit that was interrupted.

    Args:
        loaded: the model.
        images: labelled images with the model's class numbers, see `notsure.adapters.matched`,
            brought to its size.
        out: the folder to write to: records.parquet, report.html, verdict.json, junit.xml and
            adversarial/.
        eps: budgets in [0,1] pixel units.
        norm: of the budgets, "linf" or "l2".
        suite: "quick", "standard" or "full".
        threats: names of those that are run; by default all that apply to the model.
        limits: what the figures have to come to.
        most: how many of the worst images are written.
        data: the name of the data, for the report.
        notes: what is to be said of model and data, for verdict.json.
        skipped: the images that were left out, for verdict.json.
        seed: of the attacks.
        batch_size: how many images are worked on at a time.
        progress: whether to show progress bars.

    Returns:
        Records, figures, the worst images, and where all of it was written.

    Raises:
        InputError: the model gets no more clean images right than by guessing, or was fitted on
            them.
        ConfigurationError: a setting is out of range, or a threat needs gradients that there are
            none of.
        CheckpointError: the folder holds another audit.
    """
    radii = budgets_of(eps, norm=norm, suite=suite, threats=threats or ())
    if most < 0:
        raise ConfigurationError(f"most is a number of images, at least 0; got {most}.")
    kind, chosen = check_suite(suite), _threats(loaded, threats)
    before = clean_accuracy(loaded, images, batch_size=batch_size)
    require_skill(loaded, images, before, batch_size=batch_size)
    doubt = doubt_about(loaded, images, batch_size=batch_size)
    folder = writable_folder(out)
    guard, x = loaded.guard, images.x.to(loaded.classifier.device)
    # taught once, so that its images can be made again
    taught = taught_by(guard, x, kind, seed) if TransferFrom.name in chosen else None
    records = evaluate(
        {loaded.name: guard},
        x,
        images.labels,
        suite=kind,
        threats=list(chosen),
        eps=radii,
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        data=data,
        class_names=images.class_names,
        taught=None if taught is None else {loaded.name: taught},
        out=folder,
        progress=progress,
    )
    write_report(records, folder / REPORT, title=f"Audit of {loaded.name} on {data}")
    figures = figures_of(records, loaded.name, norm=norm, eps=radii[-1], limits=limits)
    substitutes = {} if taught is None else {DISTILLED: taught.classifier}
    plan = suite_plan(guard, kind, radii, norm=norm, threats=chosen, substitutes=substitutes)
    worst = write_worst(
        records,
        guard,
        jobs_of(guard, plan, probes=0),
        images,
        folder / WORST,
        norm=norm,
        eps=radii[-1],
        most=most,
        seed=seed,
        batch_size=batch_size,
    )
    told = {
        **figures.to_json(),
        "origin": loaded.origin,
        "preprocessing": described(loaded),
        "no_gradients": loaded.no_gradients,
        "notes": [*loaded.notes, *notes, *([doubt] if doubt else [])],
        "skipped": list(skipped),
        "worst_images": {"kept": worst.kept, "tried": worst.tried, "fooled": worst.fooled},
        "seed": seed,
        "torch": torch.__version__,
    }
    write_junit(folder / JUNIT, figures)
    save_json(folder / VERDICT, told)
    return Audit(
        figures=figures, before=before, doubt=doubt, worst=worst, records=records, folder=folder
    )


def described(loaded: Loaded) -> dict[str, str]:
    """A model's preprocessing in words, to be shown before anything is run."""
    names = loaded.class_names
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    size = "any" if loaded.size is None else f"{loaded.size[0]} x {loaded.size[1]}"
    return {
        "size": size,
        "channels": {1: "1 (grey)", 3: "3 (red, green, blue)"}.get(
            loaded.channels, str(loaded.channels)
        ),
        "mean": _numbers(loaded.mean),
        "std": _numbers(loaded.std),
        "other sizes": "are an error" if loaded.resizing is None else str(loaded.resizing),
        "classes": f"{loaded.num_classes}: {listed}" if names else f"{loaded.num_classes}, unnamed",
    }


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _threats(loaded: Loaded, asked: Sequence[str] | None) -> tuple[str, ...]:
    if not loaded.no_gradients:
        return tuple(dict.fromkeys(asked or NAMES))
    refused = [name for name in asked or () if name not in WITHOUT_GRADIENTS]
    if refused:
        raise ConfigurationError(
            f"Under the threat {refused[0]!r} attacks follow gradients, and none reach the images "
            f"of {loaded.name}: {loaded.no_gradients}. Threats that apply: "
            f"{', '.join(WITHOUT_GRADIENTS)}."
        )
    return tuple(dict.fromkeys(asked or WITHOUT_GRADIENTS))
