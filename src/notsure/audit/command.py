"""What `notsure audit` and `notsure compare` do, told on the console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from notsure.adapters import Loaded, load_images, load_model, matched
from notsure.audit.compare import Compared, compare_models
from notsure.audit.preprocessing import clean_accuracy
from notsure.audit.requirements import budgets_of, requirements
from notsure.audit.run import REPORT, WORST, Audit, described, run_audit
from notsure.core.errors import ConfigurationError
from notsure.report import console_table
from notsure.report.formatting import rate_short


def audit(
    model: str,
    data: str,
    out: Path,
    console: Console,
    *,
    eps: Sequence[str],
    norm: str,
    suite: str,
    threats: Sequence[str],
    count: int | None,
    checkpoint: Path | None,
    size: int | None,
    mean: str | None,
    std: str | None,
    fail_under: Sequence[str],
    worst: int,
    skip_bad: bool,
    by_position: bool,
    seed: int,
    batch_size: int,
) -> Audit:
    """Loads model and data, shows how they go together, audits, and tells what came out.

    Args:
        model: see `notsure.adapters.load_model`.
        data: see `notsure.adapters.load_images`.
        out: see `notsure.audit.run_audit`.
        console: where it is told what is going on.
        eps: budgets.
        norm: of the budgets.
        suite: whose attacks are run.
        threats: those that are run; none for all that apply.
        count: how many images; None for all.
        checkpoint: see `notsure.adapters.load_model`.
        size: height and width in pixels, in place of the model's own.
        mean: numbers with commas between them, in place of the model's own.
        std: the same.
        fail_under: limits, such as "robust=0.4".
        worst: how many of the worst images are written.
        skip_bad: whether images that cannot be read are left out.
        by_position: whether classes are matched by their positions and not by their names.
        seed: of the draw of the images and of the attacks.
        batch_size: how many images are worked on at a time.

    Raises:
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    # what cannot be is told before anything is loaded
    limits = requirements(fail_under)
    budgets_of(eps, norm=norm, suite=suite, threats=threats)
    loaded = load_model(
        model,
        checkpoint=checkpoint,
        size=size,
        mean=numbers(mean, what="--mean"),
        std=numbers(std, what="--std"),
    )
    show_model(loaded, console)
    read = load_images(
        data,
        count=count,
        size=loaded.resizing or loaded.size,
        channels=loaded.channels,
        skip_bad=skip_bad,
        seed=seed,
    )
    images, classes = matched(
        read.images, loaded.class_names, loaded.num_classes, by_position=by_position
    )
    for line in (*read.notes, classes):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    before = clean_accuracy(loaded, images, batch_size=batch_size)
    console.print(
        f"clean accuracy {100 * before.value:.1f} % [{100 * before.low:.1f}, "
        f"{100 * before.high:.1f}] of {before.n}",
        highlight=False,
    )
    done = run_audit(
        loaded,
        images,
        out,
        eps=eps,
        norm=norm,
        suite=suite,
        threats=threats or None,
        limits=limits,
        most=worst,
        data=Path(data).name,
        notes=(*read.notes, classes),
        skipped=read.skipped,
        seed=seed,
        batch_size=batch_size,
        progress=True,
    )
    for table in console_table(done.records):
        console.print(table)
    if done.doubt:
        console.print(done.doubt, style="bold", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"{done.worst.kept} images in {done.folder / WORST} fool it as 8-bit files "
        f"({done.worst.tried} made again, of {done.worst.fooled} that fell).",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    _wrote(done.folder, console)
    return done


def show_model(loaded: Loaded, console: Console) -> None:
    """Tells where a model came from and how it gets its images."""
    console.print(loaded.name, style="bold", end=": ", highlight=False, markup=False)
    console.print(loaded.origin, soft_wrap=True, highlight=False, markup=False)
    table = Table.grid(padding=(0, 2))
    for name, value in described(loaded).items():
        table.add_row(name, Text(value))
    console.print(table)
    if loaded.no_gradients:
        console.print(
            f"No gradients: {loaded.no_gradients}. It is attacked by its scores and decisions and "
            "by what carries over from a substitute; oblivious and white-box attacks do not apply.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    for note in loaded.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def compare(
    models: Sequence[str],
    data: str,
    out: Path,
    console: Console,
    *,
    eps: Sequence[str],
    norm: str,
    suite: str,
    epochs: int,
    train_count: int | None,
    count: int | None,
    pretrained: bool,
    skip_bad: bool,
    by_position: bool,
    seed: int,
    batch_size: int,
) -> Compared:
    """Trains what has to be trained, examines all models on the same images, and tells it.

    Args:
        models: see `notsure.audit.compare_models`.
        data: see `notsure.adapters.load_split`.
        out: the folder to write to.
        console: where it is told what is going on.
        eps: budgets.
        norm: of the budgets.
        suite: whose attacks are run.
        epochs: how long a model is trained whose head does not fit.
        train_count: on how many images; None for all.
        count: how many images are attacked; None for all.
        pretrained: whether weights are had from the hub.
        skip_bad: whether images that cannot be read are left out.
        by_position: whether classes are matched by their positions and not by their names.
        seed: of the draws, the training and the attacks.
        batch_size: how many images are attacked at a time.

    Raises:
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    done = compare_models(
        models,
        data,
        out,
        eps=eps,
        norm=norm,
        suite=suite,
        epochs=epochs,
        train_count=train_count,
        count=count,
        pretrained=pretrained,
        skip_bad=skip_bad,
        by_position=by_position,
        seed=seed,
        batch_size=batch_size,
        told=lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False),
        progress=True,
    )
    table = Table("model", "made", "parameters", "clean %", "robust %", "judgement")
    for name, one in done.figures.items():
        made = done.made[name]
        table.add_row(
            Text(name),
            made.how,
            f"{made.parameters:,}",
            rate_short(one.clean),
            rate_short(one.robust),
            one.judgement,
        )
    console.print(table)
    some = next(iter(done.figures.values()))
    console.print(
        f"n = {some.robust.n}, 95 % intervals; robust: not fooled by anything within {some.norm} "
        f"{some.eps:.4g}, suite {some.suite}",
        highlight=False,
    )
    _wrote(done.folder, console)
    return done


def _wrote(folder: Path, console: Console) -> None:
    console.print(f"wrote {folder / REPORT}", soft_wrap=True, highlight=False, markup=False)


def numbers(text: str | None, *, what: str) -> tuple[float, ...] | None:
    """Numbers with commas between them, such as "0.485,0.456,0.406".

    Raises:
        ConfigurationError: they are none.
    """
    if text is None:
        return None
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise ConfigurationError(
            f"{what} takes numbers in [0,1] units, one or one per channel, such as "
            f"0.485,0.456,0.406; got {text!r}."
        ) from None
