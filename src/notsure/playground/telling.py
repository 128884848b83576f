"""An attempt in words."""

from __future__ import annotations

from collections.abc import Sequence

from notsure.attacks import Attack
from notsure.core.target import NOT_SURE
from notsure.playground.attempt import Attempt
from notsure.playground.judgement import Judgement

NOBODY = "NOT SURE"
"""What a guard answers that rejects."""


def named(label: int, names: Sequence[str]) -> str:
    """A label as it is shown: its name, with its number where that is something else."""
    if label == NOT_SURE:
        return NOBODY
    name = names[label] if 0 <= label < len(names) else str(label)
    return name if name == str(label) else f"{name} ({label})"


def summary(attempt: Attempt, names: Sequence[str]) -> list[str]:
    """What came of an attempt, in sentences, the most important ones first."""
    told = [_of_target(attempt, names), _of_guard(attempt, names)]
    if not attempt.label_known:
        told.append(
            f"Nobody told the true label, so the attack goes away from what {_target(attempt)} "
            f"says of the clean image: {named(attempt.label, names)}."
        )
    return told


def _target(attempt: Attempt) -> str:
    return "the bare classifier" if attempt.threat == "oblivious" else "the guard"


def _of_target(attempt: Attempt, names: Sequence[str]) -> str:
    """Whether the attack did what it was after."""
    attack, target = attempt.attack.name, _target(attempt)
    if attempt.untouched:
        return (
            f"{target[:1].upper()}{target[1:]} is wrong about this image as it is, so {attack} "
            "changed nothing."
        )
    if attempt.succeeded:
        oblivious = attempt.threat == "oblivious"
        new = attempt.after.bare if oblivious else attempt.after.prediction
        return (
            f"{attack} fooled {target}: it says {named(new, names)} in place of "
            f"{named(attempt.label, names)}."
        )
    return (
        f"{attack} found no image{within(attempt.attack)} that fools {target}, so the image stays "
        "as it was."
    )


def within(attack: Attack) -> str:
    """The budget that an attack keeps to, with a space before it; nothing where it has none."""
    budget = attack.budget
    return "" if budget is None else f" within {budget.norm.name} {budget.eps:.4g}"


def _of_guard(attempt: Attempt, names: Sequence[str]) -> str:
    """What the deployed guard says of what the attack came to."""
    after, outcome = attempt.after, attempt.outcome
    said = named(after.label, names)
    if after.label == NOT_SURE:
        told = f"The guard answers {said}{_objecting(after)}."
        if attempt.before.label == NOT_SURE and not attempt.untouched and attempt.succeeded:
            told += " It rejects the clean image too, so this rejection says little."
        return told
    if outcome == "held":
        right = "" if after.label == attempt.label else ", which is wrong"
        return f"The guard answers {said}{right}."
    if outcome == "right":
        by = " (the corrector's answer)" if after.corrected else ""
        return f"The guard answers {said} all the same{by}."
    if attempt.threat != "oblivious":
        return f"The guard accepts it{_not_objecting(after)}."
    return f"The guard is fooled too: it accepts the image and says {said}."


def _objecting(judgement: Judgement) -> str:
    flagging = judgement.flagging
    if not flagging:
        return ""
    verb = "is" if len(flagging) == 1 else "are"
    return f": {_listed(flagging)} {verb} above the threshold"


def _not_objecting(judgement: Judgement) -> str:
    if not judgement.readings:
        return ": it has no detector that could object"
    if judgement.corrected:
        return ", after its corrector has answered"
    if judgement.flagging:
        return f": only {_listed(judgement.flagging)} objects, and its rule asks for all"
    return ": no detector objects"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def costs(attempt: Attempt) -> list[tuple[str, str]]:
    """What the attack took, as names and values."""
    found = attempt.adversarial
    gradients, dead = int(found.gradients), int(found.dead_gradients)
    rows = [
        ("distance l2", f"{float(found.distance['l2']):.4g}"),
        ("distance linf", f"{float(found.distance['linf']):.4g}"),
        ("pixel values changed", f"{int(found.distance['l0'])} of {attempt.before.image.numel()}"),
        ("forward passes", str(int(found.queries))),
        ("gradients", str(gradients)),
    ]
    if dead:
        rows.append(
            (
                "of these zero or not finite",
                f"{dead}: where that are many, the attack was blind, and its failure says little",
            )
        )
    return rows


def settings(attack: Attack) -> str:
    """The settings of an attack that are set, in a line."""
    told = []
    for name, value in attack.settings().items():
        if value is None:
            continue
        shown = value.get("name") if isinstance(value, dict) else value
        told.append(f"{name}={shown:.4g}" if isinstance(shown, float) else f"{name}={shown}")
    return f"{attack.name}({', '.join(told)})"
