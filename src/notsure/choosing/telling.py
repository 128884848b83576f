"""What cross-validation came to, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from notsure.choosing.candidates import BARE
from notsure.choosing.results import Result, Settings, compared
from notsure.evaluation import WORST_CASE, Rate, Records, robustness
from notsure.evaluation.evidence import Duel
from notsure.evaluation.intervals import rate_of

CHANCE = 0.05
"""How improbable a lead has to be by chance before it counts as one."""

LITTLE = 0.05
"""The robust accuracy up to which a guard withstands hardly anything."""


def numbers_of(result: Result, settings: Settings) -> dict[str, Any]:
    """A candidate's figures as JSON's own types."""
    budgets = [
        {
            "eps": eps,
            "oblivious": asdict(rate_of(~oblivious.fooled)),
            "white_box": asdict(rate_of(~white_box.fooled)),
            "strict": asdict(rate_of(white_box.held)),
        }
        for eps, oblivious, white_box in zip(
            settings.eps, result.oblivious, result.white_box, strict=True
        )
    ]
    return {
        "name": result.name,
        "score": result.score,
        "clean_accuracy": asdict(result.clean_accuracy),
        "clean_rejection": asdict(result.clean_rejection),
        "budgets": budgets,
        "folds": result.folds,
        "looks": len(result.looked),
        "dropped": result.dropped,
        "doubts": list(result.doubts),
    }


def worst_cases(records: Records) -> list[dict[str, Any]]:
    """What is left of each guard in the worst case under each threat, as JSON's own types."""
    return [
        {
            "guard": row.guard,
            "threat": row.threat,
            "norm": row.norm,
            "eps": row.eps,
            "clean_accuracy": asdict(row.clean_accuracy),
            "clean_rejection": asdict(row.clean_rejection),
            "lenient": asdict(row.lenient),
            "strict": asdict(row.strict),
        }
        for row in robustness(records)
        if row.attack == WORST_CASE
    ]


def table_of(results: Sequence[Result], settings: Settings) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of all candidates; rates in per cent."""
    head = ["candidate", "n", "clean accuracy", "clean rejection"]
    for eps in settings.eps:
        size = f"{settings.norm} {eps:.4g}"
        head += [f"oblivious, {size}", f"adaptive, {size}"]
    rows = []
    for one in results:
        cells = [
            one.name,
            str(one.clean_accuracy.n),
            short(one.clean_accuracy),
            short(one.clean_rejection),
        ]
        for oblivious, white_box in zip(one.oblivious, one.white_box, strict=True):
            cells += [short(rate_of(~oblivious.fooled)), short(rate_of(~white_box.fooled))]
        rows.append(cells)
    return head, rows


def short(rate: Rate) -> str:
    """A rate as "97.2 [95.5, 98.3]", for columns whose head says per cent."""
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def chosen_because(results: Sequence[Result], name: str, settings: Settings) -> str:
    """Why a candidate was taken, and how much that is to be believed."""
    by_name = {one.name: one for one in results}
    best = by_name[name]
    rivals = [one for one in results if one.name not in (name, BARE)]
    second = next((one for one in rivals if not one.doubts), None)
    level = second is not None and second.share == best.share
    most = f"as much as {second.name}" if second is not None and level else "most"
    told = [
        f"{name} withstands {most} under the attacks that know it: {100 * best.score:.1f} % in the "
        f"mean over {settings.norm} {', '.join(f'{eps:.4g}' for eps in settings.eps)}, on "
        f"{best.clean_accuracy.n} images that set none of its thresholds. It was chosen by this "
        "figure, which looks a little too good for that; those on test images do not."
    ]
    if best.doubts:
        told.append(
            "But there are signs that the attacks are weaker than they look, and no candidate "
            "without: do not count on it."
        )
    if second is not None:
        told.append(_against_the_next(best, second))
    if BARE in by_name:
        told.append(_against_the_bare(best, by_name[BARE], len(rivals) + 1))
    if not best.doubts:
        told += [
            f"{one.name} seems to withstand more ({100 * one.score:.1f} %), but by signs of which "
            f"{_names(one.doubts)} is one the attacks on it are weaker than they look, so that it "
            "is not believed."
            for one in rivals
            if one.doubts and one.share > best.share
        ]
    if best.score <= LITTLE:
        told.append(
            "That is hardly anything: at these budgets no candidate protects this network. "
            "Adversarial training is what does."
        )
    return " ".join(told)


def _names(doubts: Sequence[str]) -> str:
    """The first of several flags by its name."""
    return doubts[0].partition(":")[0]


def set_aside(result: Result) -> str:
    """Why a candidate went no further; empty where it did."""
    if result.doubts:
        return (
            f"set aside after fold {result.folds}, since a closer look at it raises flags. "
            f"{' '.join(result.doubts)}"
        )
    return result.dropped


def _against_the_next(best: Result, second: Result) -> str:
    """Two-sided, since who of the two is the better one was not settled beforehand."""
    against = compared(best, second)
    p = min(1.0, 2 * min(against.p, compared(second, best).p))
    return (
        f"Against the next best, {second.name}, it is ahead on {_images(against)}, "
        f"{_verdict(p, 'paired sign test, two-sided')}."
    )


def _against_the_bare(best: Result, bare: Result, candidates: int) -> str:
    """Corrected for the number of candidates, since the best of many is ahead by chance alone."""
    against = compared(best, bare)
    told = f"Against the network by itself it is ahead on {_images(against)}"
    reverse = compared(bare, best).p
    if reverse < CHANCE:
        return (
            f"{told}: the network withstands more without it (one-sided paired sign test, p = "
            f"{reverse:.2g})."
        )
    p = min(1.0, candidates * against.p)
    test = f"one-sided paired sign test, corrected for {candidates} candidates"
    return f"{told}, {_verdict(p, test)}."


def _verdict(p: float, test: str) -> str:
    if p < CHANCE:
        return f"and that is no chance ({test}, p = {p:.2g})"
    return f"which may be chance ({test}, p = {p:.2g}): more images would tell"


def _images(against: Duel) -> str:
    return f"{against.gained} of {against.n} images and behind on {against.lost}"
