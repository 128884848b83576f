"""What cross-validation came to, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from notsure.choosing.candidates import BARE
from notsure.choosing.results import Result, Settings, compared
from notsure.evaluation import Rate
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
        "looks": result.looks,
        "dropped": result.dropped,
        "doubts": list(result.doubts),
    }


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
    told = [
        f"{name} withstands most under the attacks that know it: {100 * best.score:.1f} % in the "
        f"mean over {settings.norm} {', '.join(f'{eps:.4g}' for eps in settings.eps)}, on "
        f"{best.clean_accuracy.n} images that set none of its thresholds."
    ]
    if best.doubts:
        told.append(
            "But there are signs that the attacks are weaker than they look, and no candidate "
            "without: do not count on it."
        )
    rivals = [one for one in results if one.name not in (name, BARE)]
    second = next((one for one in rivals if not one.doubts), None)
    if second is not None:
        told.append(_against(best, second, "the next best"))
    if BARE in by_name:
        told.append(_against(best, by_name[BARE], "the network by itself"))
    if not best.doubts:
        told += [
            f"{one.name} seems to withstand more ({100 * one.score:.1f} %), but by signs of which "
            f"{_names(one.doubts)} is one the attacks on it are weaker than they look, so that it "
            "is not believed."
            for one in rivals
            if one.doubts and one.score > best.score
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


def _against(best: Result, other: Result, what: str) -> str:
    against = compared(best, other)
    called = what if other.name == BARE else f"{what}, {other.name},"
    if against.p < CHANCE:
        verdict = f"and that is no chance (p = {against.p:.2g})"
    else:
        verdict = f"which may be chance (p = {against.p:.2g}): more images would tell"
    return f"Against {called} it is ahead on {_images(against)}, {verdict}."


def _images(against: Duel) -> str:
    return f"{against.gained} of {against.n} images and behind on {against.lost}"
