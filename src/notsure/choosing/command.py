"""What `notsure guard fit` does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from notsure.adapters import load_split, matched
from notsure.adapters.loaded import Loaded
from notsure.choosing.candidates import BARE
from notsure.choosing.card import write_card
from notsure.choosing.fitting import Fitted, can_be_rebuilt, clean_accuracy, fit_guard
from notsure.choosing.inputs import Source
from notsure.choosing.telling import set_aside, short, table_of
from notsure.data import Images, Split
from notsure.evaluation import WORST_CASE, robustness

if TYPE_CHECKING:
    from rich.console import Console


def run_fit(
    source: Source,
    data: str,
    out: Path,
    console: Console,
    *,
    detectors: Sequence[str],
    purifiers: Sequence[str],
    fpr: float,
    eps: Sequence[str],
    norm: str,
    suite: str,
    folds: int,
    count: int,
    purifier_epochs: int | None,
    fit_count: int | None,
    by_position: bool,
    skip_bad: bool,
    seed: int,
    words: Sequence[str] = (),
) -> Fitted:
    """Loads model and data, fits and examines the guard, writes its folder and card.

    Args:
        source: the model.
        data: see `notsure.adapters.load_split`.
        out: the guard's folder.
        console: where it is told what is going on.
        detectors: see `notsure.choosing.candidates`.
        purifiers: see `notsure.choosing.candidates`.
        fpr: the share of clean images that the guard may reject.
        eps: budgets; by default some that suit the images.
        norm: of the budgets.
        suite: whose attacks are run.
        folds: of the cross-validation.
        count: how many images are attacked.
        purifier_epochs: how long purifiers are trained.
        fit_count: how many images of the training set are read; None for all.
        by_position: whether classes are matched by their positions and not by their names.
        skip_bad: whether images that cannot be read are left out.
        seed: of whatever is random.
        words: the command, for the card.

    Raises:
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    loaded = source.load()
    for line in _told_of(loaded):
        console.print(line, soft_wrap=True, highlight=False)
    read = load_split(
        data,
        counts=(fit_count, None),
        size=loaded.resizing or loaded.size,
        channels=loaded.channels,
        skip_bad=skip_bad,
        seed=seed,
    )
    split, classes = _in_the_models_order(read.split, loaded, by_position)
    for line in (*read.notes, *(f"skipped {reason}" for reason in read.skipped), classes):
        console.print(line, soft_wrap=True, highlight=False)
    before = clean_accuracy(loaded.classifier, split.calibration)
    console.print(f"clean accuracy on {before.n} calibration images: {short(before)} %")
    fitted = fit_guard(
        loaded,
        split,
        out,
        detectors=detectors,
        purifiers=purifiers,
        fpr=fpr,
        eps=eps,
        norm=norm,
        suite=suite,
        folds=folds,
        count=count,
        purifier_epochs=purifier_epochs,
        seed=seed,
        source=Path(data).name,
        progress=True,
    )
    if not can_be_rebuilt(fitted.guard.classifier):
        source.save(fitted.folder)
    write_card(fitted, command=shlex.join(words), model=source.spec)
    _tell(fitted, console)
    return fitted


def _told_of(loaded: Loaded) -> Iterator[str]:
    yield f"model: {loaded.origin}"
    size = "any size" if loaded.size is None else f"{loaded.size[0]}x{loaded.size[1]}"
    statistics = ", ".join(
        f"{name} {' '.join(f'{value:.4g}' for value in values)}"
        for name, values in (("mean", loaded.mean), ("std", loaded.std))
        if values
    )
    yield f"images: {loaded.channels} channels, {size}; {statistics or 'preprocessing inside'}"
    yield from loaded.notes


def _in_the_models_order(split: Split, loaded: Loaded, by_position: bool) -> tuple[Split, str]:
    def one(images: Images) -> tuple[Images, str]:
        return matched(images, loaded.class_names, loaded.num_classes, by_position=by_position)

    (train, told), (calibration, _), (test, _) = map(
        one, (split.train, split.calibration, split.test)
    )
    return Split(train, calibration, test, split.record), told


def _tell(fitted: Fitted, console: Console) -> None:
    from rich.table import Table

    if fitted.results:
        head, rows = table_of(fitted.results, fitted.settings)
        table = Table(*head, title="Cross-validation, robust accuracy in %")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for one in fitted.results:
        if one.doubts:
            console.print(f"{one.name} was {set_aside(one)}", soft_wrap=True, highlight=False)
    for name, why in fitted.left_out.items():
        console.print(f"{name} was left out: {why}", soft_wrap=True, highlight=False)
    if fitted.because:
        console.print(fitted.because, soft_wrap=True, highlight=False)
    worst = [row for row in robustness(fitted.records) if row.attack == WORST_CASE]
    title = "Robust accuracy on test images, lenient, in %"
    table = Table("threat", "eps", fitted.name, BARE, title=title)
    bare = {(row.threat, row.eps): row for row in worst if row.guard == BARE}
    own = [row for row in worst if row.guard == fitted.name and row.eps is not None]
    for found in own:
        beside = bare.get((found.threat, found.eps))
        other = "-" if beside is None else short(beside.lenient)
        table.add_row(found.threat, f"{found.eps:.4g}", short(found.lenient), other)
    console.print(table)
    console.print(f"wrote {fitted.folder}", soft_wrap=True, highlight=False)
