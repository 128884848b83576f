"""The model card of a guard: what it is, what it withstands, how it was chosen, how it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import notsure
from notsure.choosing.attacking import LONGER
from notsure.choosing.candidates import BARE
from notsure.choosing.fitting import CHOICE, EXAMINED, Fitted, can_be_rebuilt
from notsure.choosing.telling import set_aside, short, table_of
from notsure.core.storage import atomic
from notsure.evaluation import WORST_CASE, RobustnessRow, conclusions, robustness

CARD = "README.md"
"""What the card is called in a guard's folder."""

_KNOWS = {
    "oblivious": "the network, and nothing of the guard",
    "transfer": "a substitute that was taught by its answers",
    "query-decisions": "its label, or NOT SURE",
    "query-scores": "its scores, and whether it stands by them",
    "white-box": "all of it: weights, detectors, thresholds",
}


def write_card(fitted: Fitted, *, command: str = "", model: str = "") -> Path:
    """Writes the card into the guard's folder, from its records.

    Args:
        fitted: the guard and all that is known of it.
        command: what it was made with, for a reader who wants to make it again.
        model: what the model was loaded as, where its weights are not in the folder.

    Returns:
        The file.
    """
    path = fitted.folder / CARD
    with atomic(path) as temporary:
        temporary.write_text("\n".join(_lines(fitted, command, model)) + "\n", encoding="utf-8")
    return path


def _lines(fitted: Fitted, command: str, model: str) -> Iterator[str]:
    yield from (
        "---",
        "library_name: notsure",
        "pipeline_tag: image-classification",
        "tags: [adversarial-robustness, reject-option]",
        "---",
        "",
        f"# {fitted.loaded.name}, guarded by {fitted.name}",
        "",
        "An image classifier that answers NOT SURE where an image looks tampered with."
        if fitted.guard.rejects
        else "An image classifier that cleans images before it classifies them. It always answers.",
        "",
    )
    yield from _what(fitted, command)
    yield from _withstands(fitted)
    yield from _concluded(fitted)
    yield from _chosen(fitted)
    yield from _use(fitted, model)
    yield from _limits(fitted)


def _what(fitted: Fitted, command: str) -> Iterator[str]:
    loaded, split, calibration = fitted.loaded, fitted.split, fitted.guard.calibration
    channels, height, width = split.train.image_shape
    rows = [
        ("model", f"{loaded.name}: {loaded.origin}"),
        ("guard", fitted.name),
        ("images", f"{channels} x {height} x {width}, floats in [0,1]; mean and std are inside"),
        ("classes", _listed(split.train.class_names)),
        ("data", f"{fitted.source}: {split.record.how} (seed {split.record.seed})"),
        ("fitted on", f"{len(split.train)} images"),
    ]
    if calibration is not None and calibration.thresholds:
        told = ", ".join(f"{name} {value:.5g}" for name, value in calibration.thresholds.items())
        rows += [
            (
                "calibrated on",
                f"{calibration.count} other clean images, of which it may reject at most "
                f"{100 * calibration.fpr:g} %; it rejected {100 * calibration.measured_fpr:.2f} %",
            ),
            ("thresholds", told),
        ]
    rows += [("made by", f"notsure {notsure.__version__}, torch {torch.__version__}")]
    yield from _table(["", ""], rows)
    yield from (f"- {note}" for note in loaded.notes)
    if command:
        yield from ("", "```sh", command, "```")
    yield ""


def _withstands(fitted: Fitted) -> Iterator[str]:
    rows = [row for row in robustness(fitted.records) if row.attack == WORST_CASE]
    own = [row for row in rows if row.guard == fitted.name]
    bare = {(r.threat, r.norm, r.eps): r for r in rows if r.guard == BARE}
    first = next(iter(bare.values()))
    n = own[0].lenient.n
    yield from (
        "## What it withstands",
        "",
        f"Rates in per cent over {n} test images that it was neither fitted nor calibrated on, "
        "with 95 % intervals: the worst case, image by image, over every attack under a threat and "
        "those that it includes. *Lenient* counts a rejected image as safe, *strict* as lost. "
        f"Suite: {fitted.settings.suite}. They are what these attacks leave, and so upper bounds.",
        "",
    )
    yield from _table(
        ["", "the guard", "the network by itself"],
        [
            ("clean accuracy", short(own[0].clean_accuracy), short(first.clean_accuracy)),
            ("clean images rejected", short(own[0].clean_rejection), short(first.clean_rejection)),
        ],
    )
    yield ""
    yield from _table(
        ["the attacker sees", "within", "lenient", "strict", "the network by itself"],
        [
            (
                f"{row.threat}: {_KNOWS.get(row.threat, 'see the records')}",
                _budget(row),
                short(row.lenient),
                short(row.strict),
                short(bare[row.threat, row.norm, row.eps].lenient)
                if (row.threat, row.norm, row.eps) in bare
                else "-",
            )
            for row in own
        ],
    )
    yield ""
    yield "Attack by attack; an attacker has the choice of all of them:"
    yield ""
    single = [
        row
        for row in robustness(fitted.records)
        if row.guard == fitted.name and row.attack != WORST_CASE
    ]
    yield from _table(
        ["the attacker sees", "attack", "within", "lenient", "strict"],
        [
            (row.threat, row.attack, _budget(row), short(row.lenient), short(row.strict))
            for row in single
        ],
    )
    yield ""


def _concluded(fitted: Fitted) -> Iterator[str]:
    yield from ("## What the examiner makes of it", "")
    for one in conclusions(fitted.records):
        yield f"- {one.guard}: **{one.judgement}**. {one.because}."
    own = fitted.records.where(guard=fitted.name)
    raised = [flag for flag in own.flags() if flag.raised]
    for flag in raised:
        yield f"- Flag {flag.name}: {flag.because} {flag.means}"
    if not raised:
        yield "- No flag is raised."
    yield from (
        "",
        f"Every figure follows from `{EXAMINED}/records.parquet`; `notsure report {EXAMINED}` "
        "writes the report.",
        "",
    )


def _chosen(fitted: Fitted) -> Iterator[str]:
    if not fitted.results and not fitted.left_out:
        return
    settings = fitted.settings
    yield from (
        "## How it was chosen",
        "",
        f"By {settings.folds}-fold cross-validation over the calibration images: thresholds set on "
        "all folds but one, images of that one attacked. Adaptive is the worst case over attacks "
        "that know the guard and those that do not, lenient, in per cent. Whoever was ahead after "
        f"a fold was attacked again, with {LONGER} times the steps and with Square, on the images "
        "of every fold so far, and set aside if there were signs that this was not enough "
        "either; the others had no such look, and may withstand less than they seem to. The best "
        "of many looks a little better here than it is; the figures above are free of that. See "
        f"`{CHOICE}`.",
        "",
    )
    if fitted.results:
        head, rows = table_of(fitted.results, settings)
        yield from _table(head, rows)
        yield ""
    yield fitted.because
    told = [f"{one.name}: {why}" for one in fitted.results if (why := set_aside(one))]
    told += [f"{name}: left out. {why}" for name, why in fitted.left_out.items()]
    if told:
        yield ""
        yield from (f"- {line}" for line in told)
    yield ""


def _use(fitted: Fitted, model: str) -> Iterator[str]:
    yield from ("## Use", "", "```python", "import notsure as ns", "")
    if can_be_rebuilt(fitted.guard.classifier):
        yield 'guard = ns.Guard.load("path/to/this/folder")'
    else:
        yield "from notsure.choosing import load_guard"
        yield ""
        yield f'guard = load_guard("path/to/this/folder")  # its network is {model or "given"}'
    yield from (
        "verdict = guard.judge(x)  # x: float images (B, C, H, W) in [0,1]",
        "verdict.label  # a class, or ns.NOT_SURE (-1)",
        "verdict.scores  # of each detector, higher = more adversarial",
        "```",
        "",
    )


def _limits(fitted: Fitted) -> Iterator[str]:
    settings = fitted.settings
    largest = max(settings.eps)
    yield from (
        "## Limits",
        "",
        f"- It was examined within {settings.norm} {largest:.4g} ({255 * largest:.4g}/255) and "
        "says nothing of larger changes, of other norms beyond what the table has, or of patches, "
        "rotations and images of no class at all.",
        "- Whether the network itself was trained on any of these images is for its owner to know: "
        "if it was, calibrate and examine it on others.",
    )
    if fitted.guard.rejects:
        yield (
            "- The share of clean images that it rejects holds for images like those that it was "
            "calibrated on; of others it may reject many more. Calibrate it again where they "
            "change."
        )
    yield "- Stronger attacks may find more: `notsure.evaluate(guard, x, y, suite='full', ...)`."


def _budget(row: RobustnessRow) -> str:
    if row.eps is None:
        return "any distance"
    return f"{row.norm} {row.eps:.4g} ({255 * row.eps:.4g}/255)"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield "|" + "---|" * len(head)
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
