"""Signs that an examination was fooled, read from what one attack did and met.

Each check looks at all guards and says what it saw. So that no sound model is accused by chance,
shares are compared with their intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from notsure.evaluation.evidence import ENSEMBLES, Evidence, RunRows, is_bare
from notsure.evaluation.findings import (
    MANY,
    Finding,
    found,
    largest_first,
    listed,
    missing,
    percent,
)
from notsure.evaluation.grouping import Bools
from notsure.evaluation.intervals import wilson
from notsure.evaluation.records import LONGER, UNBOUNDED

ZERO_SHARE = 0.10
"""Backward passes that may be zero, over images that the attack left standing. Where it succeeded,
zeros did not stop it: a random start far away meets flat places on any model."""

ZERO_IMAGES = 0.01
"""And the share of all attacked images that they may concern, by the interval's low end: of one
stubborn image among many fallen ones no figure depends."""

NON_FINITE_SHARE = 0.001
"""Backward passes that may be NaN or infinite: rare overflows do not change an attack."""

UNBOUNDED_SHARE = 0.05
"""Images that may survive an attack that may change everything: some detours end nowhere."""

UNBOUNDED_LOW = 0.02
"""And the low end of their share's interval, so that one image of ten or more is no evidence."""

ROUNDED_SHARE = 0.10
"""Fooled images that 8-bit rounding may bring back."""

ROUNDED_LOW = 0.05
"""And the low end of their share's interval, which tells nothing of fewer than:"""

ROUNDED_FEWEST = 10


def _gradient_runs(evidence: Evidence) -> list[RunRows]:
    """Every run that took backward passes, those of probes as well."""
    probes = (None, UNBOUNDED, LONGER)
    runs = [run for probe in probes for run in evidence.attacks(probe=probe)]
    return [run for run in runs if evidence.uses_gradients(run)]


def zero_gradients(evidence: Evidence) -> Finding:
    """Whether the gradients of images that withstood some attack were often exactly zero."""
    dead, non_finite = (evidence.numbers(f"{kind}_gradients") for kind in ("dead", "non_finite"))
    wrong, largest, looked = [], 0.0, 0
    for run in _gradient_runs(evidence):
        if np.isnan(dead[run.rows]).any():
            continue
        looked += 1
        standing = run.rows[~evidence.succeeds[run.rows]]
        zero = dead[standing] - np.nan_to_num(non_finite[standing])
        passes = evidence.gradients[standing].sum()
        share = float(zero.sum() / passes) if passes else 0.0
        largest = max(largest, share)
        attacked = int((evidence.gradients[run.rows] > 0).sum())
        images = wilson(int((zero > 0).sum()), attacked)
        if share > ZERO_SHARE and images.low > ZERO_IMAGES:
            text = (
                f"{run}: on the images that it left standing, {zero.sum():.0f} of {passes:.0f} "
                f"backward passes ({percent(share)}) gave a gradient of exactly zero; this "
                f"concerns {images.count} of {images.n} images."
            )
            wrong.append((share, text))
    if not looked:
        return missing("No attack took a gradient whose size was recorded.")
    return found(
        largest_first(wrong),
        f"In {looked} runs of gradient attacks, at most {percent(largest)} of the backward passes "
        "for images left standing gave exactly zero, or they were few images.",
    )


def non_finite_gradients(evidence: Evidence) -> Finding:
    """Whether backward passes of some gradient attack gave NaN or infinities."""
    counts = evidence.numbers("non_finite_gradients")
    wrong, looked = [], 0
    for run in _gradient_runs(evidence):
        if np.isnan(counts[run.rows]).any():
            continue
        looked += 1
        count, passes = counts[run.rows].sum(), evidence.gradients[run.rows].sum()
        if count > NON_FINITE_SHARE * passes:
            text = (
                f"{run}: {count:.0f} of {passes:.0f} backward passes ({percent(count / passes)}) "
                f"gave NaN or infinities, on {int((counts[run.rows] > 0).sum())} of "
                f"{len(run.rows)} images."
            )
            wrong.append((float(count / passes), text))
    if not looked:
        return missing("No attack took a gradient that was checked for NaN.")
    return found(
        largest_first(wrong),
        f"In {looked} runs of gradient attacks, all gradients were finite or nearly all.",
    )


def survives_unbounded(evidence: Evidence) -> Finding:
    """Whether images stand although the attack may turn them into anything."""
    groups: dict[tuple[str, str], list[RunRows]] = {}
    for run in evidence.attacks(probe=UNBOUNDED):
        groups.setdefault((run.guard, run.threat), []).append(run)
    wrong, seen = [], []
    for runs in groups.values():
        whole = evidence.breakable(runs)
        standing = wilson(int((whole & ~evidence.broken(runs)).sum()), int(whole.sum()))
        text = (
            f"{listed([str(run) for run in runs])}: {standing.count} of {standing.n} images that "
            f"were right before stand."
        )
        if standing.n == 0:
            continue
        seen.append(text)
        if standing.value > UNBOUNDED_SHARE and standing.low > UNBOUNDED_LOW:
            wrong.append(text)
    if not seen:
        return missing(
            "No attack without a limit was run on images that the guard gets right: evaluate with "
            "probes."
        )
    return found(wrong, " ".join(seen[:MANY]))


def stochastic_without_eot(evidence: Evidence) -> Finding:
    """Whether a stochastic guard was attacked with gradients of single draws."""
    told = {guard: evidence.told(guard).get("stochastic") for guard in evidence.records.guards}
    if None in told.values():
        return missing("The records do not tell whether the guards are stochastic.")
    random = [guard for guard, stochastic in told.items() if stochastic]
    if not random:
        return found([], "No guard is stochastic.")
    wrong, averaged = [], 0
    for run in evidence.attacks():
        shown = run.threat == "white-box" or (
            run.threat == "oblivious" and _random_classifier(evidence.told(run.guard))
        )
        if run.guard not in random or not shown or not evidence.uses_gradients(run):
            continue
        if _averages(evidence.settings(run)):
            averaged += 1
        else:
            wrong.append(f"{run} followed the gradient of one draw a step.")
    if not wrong and not averaged:
        return missing(
            f"No gradient attack was shown the random parts of {listed([repr(g) for g in random])}."
        )
    return found(wrong, f"All {averaged} runs of gradient attacks averaged over draws.")


def _random_classifier(told: Mapping[str, Any]) -> bool:
    """Whether the classifier of a stochastic guard is random, and not only what is around it."""
    return bool(told.get("stochastic_classifier", is_bare(told)))


def _averages(value: Any) -> bool:
    """Whether there is an expectation over more than one draw anywhere in the settings."""
    if isinstance(value, Mapping):
        own = value.get("name") == "EOT" and value.get("n", 2) > 1
        ensemble = value.get("name") in ENSEMBLES and value.get("version") == "rand"
        return own or ensemble or any(_averages(part) for part in value.values())
    return isinstance(value, list | tuple) and any(_averages(part) for part in value)


def eight_bit_fragile(evidence: Evidence) -> Finding:
    """Whether images that can be made to fool a guard stop doing so once they are stored in 8 bits.

    An image counts by all attacks together: a minimum-norm attack ends on the decision boundary,
    and half of what it finds is rounded back, which is no harm where another attack goes beyond.
    """
    prediction = evidence.numbers("rounded_prediction")
    index = evidence.numbers("index").astype(int)
    looked_at = ~np.isnan(prediction) & evidence.fools
    still: Bools = evidence.truths("rounded_accepted") & (prediction != evidence.numbers("y"))
    wrong: list[tuple[float, str]] = []
    seen: list[str] = []
    for guard in evidence.records.guards:
        rows = [run.rows for run in evidence.attacks() if run.guard == guard]
        here = np.concatenate(rows) if rows else np.zeros(0, int)
        here = here[looked_at[here]]
        fooling, lasting = np.unique(index[here]), np.unique(index[here[still[here]]])
        undone = wilson(len(fooling) - len(lasting), len(fooling))
        if undone.n == 0:
            continue
        text = (
            f"{guard!r}: of {undone.n} images that can be made to fool it, {undone.count} "
            f"({percent(undone.value)}) do so under no attack any longer once rounded to 8 bits."
        )
        seen.append(text)
        enough = undone.n >= ROUNDED_FEWEST and undone.low > ROUNDED_LOW
        if enough and undone.value > ROUNDED_SHARE:
            wrong.append((undone.value, text))
    if not seen:
        return missing("There is no fooling image whose 8-bit version was looked at.")
    return found(largest_first(wrong), " ".join(seen))
