"""Several models side by side: trained where they have to be, attacked on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from notsure.adapters import load_split
from notsure.adapters.python_file import is_python
from notsure.audit.figures import Figures, figures_of
from notsure.audit.fitting import Made, made_for
from notsure.audit.requirements import WITHOUT_GRADIENTS, budgets_of
from notsure.core.errors import ConfigurationError
from notsure.core.storage import save_json, writable_folder
from notsure.data import Images
from notsure.evaluation import Records, evaluate
from notsure.guard import Guard
from notsure.report import write_report

REPORT, COMPARISON, MODELS = "report.html", "comparison.json", "models"


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What a comparison came to.

    Attributes:
        figures: of each model, by its name in the records.
        made: how each was made.
        records: what happened to every image.
        folder: where everything is.
    """

    figures: Mapping[str, Figures]
    made: Mapping[str, Made]
    records: Records
    folder: Path


def _silent(line: str) -> None:
    """Tells nobody."""


def compare_models(
    specs: Sequence[str],
    data: str,
    out: str | Path,
    *,
    eps: Sequence[float | str],
    norm: str = "linf",
    suite: str = "quick",
    epochs: int = 2,
    train_count: int | None = None,
    count: int | None = 500,
    pretrained: bool = True,
    skip_bad: bool = False,
    by_position: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    told: Callable[[str], None] = _silent,
    progress: bool = False,
) -> Compared:
    """Compares models on the same images, at the data's own size.

    What a model resizes images to is part of it, so that a budget means the same for all. Models
    whose head does not fit the data are fine-tuned, untrained ones trained; the trainings are kept
    in the folder's `models` and go on from there, as the attacks do.

    Args:
        specs: models, as `notsure.adapters.load_model` takes them, or names of notsure's own
            networks ("resnet32").
        data: as `notsure.adapters.load_split` takes it; models are trained on its train part and
            attacked on its test part.
        out: the folder to write to: records.parquet, report.html, comparison.json, models/.
        eps: budgets in [0,1] pixel units.
        norm: of the budgets.
        suite: "quick", "standard" or "full".
        epochs: how long a model is trained.
        train_count: on how many images; None for all.
        count: how many test images are attacked; None for all.
        pretrained: whether models of timm start from the weights of the hub; without, they are
            trained from scratch.
        skip_bad: whether images that cannot be read are left out.
        by_position: whether classes are matched by their positions and not by their names.
        seed: of the draws, the training and the attacks.
        batch_size: how many images are attacked at a time.
        told: is given each sentence about what was done.
        progress: whether to show progress bars.

    Returns:
        The records of all models, and how each was made.

    Raises:
        ConfigurationError: there are no two models, or one cannot be had or made to fit.
        NotSureError: as loading, training and evaluating raise it.
    """
    radii = budgets_of(eps, norm=norm, suite=suite)
    if len(specs) < 2:
        raise ConfigurationError("A comparison takes at least two models; notsure audit takes one.")
    if epochs < 1 or (count is not None and count < 1):
        raise ConfigurationError(f"epochs and count are at least 1; got {epochs} and {count}.")
    names = _names(specs)
    folder = writable_folder(out)
    writable_folder(folder / MODELS)
    # of a source with a published test set the second count is that of the test images
    read = load_split(data, counts=(train_count, count), skip_bad=skip_bad, seed=seed)
    for line in read.notes:
        told(line)
    test = _first(read.split.test, count)
    made: dict[str, Made] = {}
    for name, spec in zip(names, specs, strict=True):
        made[name] = made_for(
            spec,
            read.split.train,
            pretrained=pretrained,
            epochs=epochs,
            by_position=by_position,
            seed=seed,
            checkpoint=folder / MODELS / f"{_plain(name)}.safetensors",
            progress=progress,
        )
        told(f"{name}: {made[name].told}")
    closed = {name: one.no_gradients for name, one in made.items() if one.no_gradients}
    for name, why in closed.items():
        told(
            f"No gradients reach the images of {name} ({why}): all are attacked by their scores, "
            "their decisions and what carries over from a substitute."
        )
    records = evaluate(
        {name: Guard(one.classifier) for name, one in made.items()},
        test.x,
        test.labels,
        suite=suite,
        threats=list(WITHOUT_GRADIENTS) if closed else "all",
        eps=radii,
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        data=Path(data).name,
        class_names=test.class_names,
        parameters={name: {"how": one.how} for name, one in made.items()},
        out=folder,
        progress=progress,
    )
    write_report(records, folder / REPORT, title=f"{len(specs)} models on {Path(data).name}")
    figures = {name: figures_of(records, name, norm=norm, eps=radii[-1]) for name in names}
    content = {
        name: {
            **figures[name].to_json(),
            "spec": spec,
            "made": {key: value for key, value in vars(made[name]).items() if key != "classifier"},
        }
        for name, spec in zip(names, specs, strict=True)
    }
    save_json(folder / COMPARISON, content)
    return Compared(figures=figures, made=made, records=records, folder=folder)


def _names(specs: Sequence[str]) -> list[str]:
    """What the models are called: the last part of each spec, if that tells them apart."""
    short = [_short(spec) for spec in specs]
    names = short if len(set(short)) == len(short) else list(specs)
    if len(set(names)) < len(names):
        raise ConfigurationError("A model is given twice: give each once.")
    return names


def _short(spec: str) -> str:
    """A file's name for a function of it, as an audit calls it; else the end of the spec."""
    if is_python(spec):
        return Path(spec.rpartition(":")[0]).stem
    return Path(spec.partition(":")[2] or spec).name


def _first(images: Images, count: int | None) -> Images:
    """As many of the test images; a published test set was drawn by its classes already."""
    return images if count is None or count >= len(images) else images.select(slice(0, count))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
