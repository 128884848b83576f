"""Measures that are no share of images: times, counts, settings, and what came out best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from notsure.core.errors import ConfigurationError
from notsure.studies.measures import Attacked, Findings, Floats, attacked
from notsure.studies.questions import Question
from notsure.studies.verdicts import Answer, answer_exactly

POINT = 0.01
"""Robust accuracies that differ by no more count as the same, in [0,1]."""


_UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}


def seconds_per_example(question: Question, findings: Findings) -> Answer:
    """Mean wall time of an image, or of `count` of them, with an interval over the batches.

    With `others`, guards by evaluation, it is the mean of the means.
    """
    others: Mapping[str, str] = question.arguments.get("others", {})
    places = [(str(question.evaluation), str(question.guard)), *others.items()]
    means = [
        time_of(attacked(question, findings, evaluation=evaluation, guard=guard))
        for evaluation, guard in places
    ]
    factor = float(question.arguments.get("count", 1)) / _UNITS[question.cell.unit]
    value = factor * float(np.mean([mean for mean, _, _ in means]))
    half = factor * math.sqrt(sum(half**2 for _, half, _ in means)) / len(means)
    return Answer(
        value=value,
        low=value - half,
        high=value + half,
        n=sum(n for _, _, n in means),
        scale=findings.scale,
        why="wall time on the machine of the manifest",
    )


def time_of(every: Sequence[Attacked]) -> tuple[float, float, int]:
    """Mean seconds of an image, half of the 95 % interval over the batches, number of images.

    What is recorded of an image is its share of its batch's time, so that a batch is one
    measurement; a single one has no interval.
    """
    batches: list[Floats] = []
    for images in every:
        seconds = images.of("seconds").astype(np.float64)
        batches += np.split(seconds, np.flatnonzero(np.diff(seconds)) + 1)
    sizes = np.array([len(batch) for batch in batches], np.float64)
    means = np.array([batch.mean() for batch in batches])
    n, count = float(sizes.sum()), len(batches)
    mean = float((means * sizes).sum() / n)
    if count < 2:
        return mean, 0.0, int(n)
    variance = float(((sizes / n) ** 2 * (means - mean) ** 2).sum()) * count / (count - 1)
    return mean, float(special.stdtrit(count - 1, 0.975)) * math.sqrt(variance), int(n)


def seconds_ratio(question: Question, findings: Findings) -> Answer:
    """How many times as long as the attack another one, `to`, takes for an image."""
    ours, error, n = time_of(attacked(question, findings))
    theirs, their_error, _ = time_of(attacked(question, findings, attack=question.arguments["to"]))
    value = theirs / ours
    spread = math.exp(math.hypot(error / ours, their_error / theirs))
    return Answer(value=value, low=value / spread, high=value * spread, n=n, scale=findings.scale)


def parameter_count(question: Question, findings: Findings) -> Answer:
    """Parameters of a network, or of one part of it, `module`.

    Raises:
        ConfigurationError: the network has no such part.
    """
    network, part = str(question.network), str(question.arguments.get("module", ""))
    module = findings.module(network)
    try:
        own = module.get_submodule(part)
    except AttributeError:
        there = ", ".join(name for name, _ in module.named_modules() if name)
        raise ConfigurationError(
            f"The network {network!r} has no module {part!r}. It has {there}."
        ) from None
    count = sum(parameter.numel() for parameter in own.parameters())
    return answer_exactly(float(count), scale=findings.scale)


def setting(question: Question, findings: Findings) -> Answer:
    """A design value of ours: `value`, or what stands at a `path` of a guard's or network's.

    Raises:
        ConfigurationError: there is no number at that path.
    """
    value = question.arguments.get("value")
    if value is None:
        section = "guards" if question.guard is not None else "networks"
        name = str(question.guard or question.network)
        value = _at(findings.settings(section, name), str(question.arguments["path"]), name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"A setting that is compared is a number; got {value!r}.")
    return answer_exactly((question.cell.whole or 1.0) * value, scale=findings.scale)


def _at(told: Any, path: str, name: str) -> Any:
    for step in path.split("."):
        if not isinstance(told, Mapping) or step not in told:
            there = ", ".join(told) if isinstance(told, Mapping) else repr(told)
            raise ConfigurationError(
                f"The path {path!r} leads nowhere in {name!r}: at {step!r} there is {there}."
            )
        told = told[step]
    return told


def best_of(question: Question, findings: Findings) -> Answer:
    """The setting, of several guards, that leaves the highest robust accuracy.

    `guards` has the setting by guard. Without an eps the mean over all budgets counts. The interval
    is over the settings whose robust accuracy, image by image, is not below the best one's beyond
    chance.
    """
    values = _numbers(question.arguments["guards"])
    standing = {guard: _standing(attacked(question, findings, guard=guard)) for guard in values}
    best = max(standing, key=lambda guard: float(standing[guard].mean()))
    equal = [
        values[guard]
        for guard, own in standing.items()
        if guard == best or _difference(standing[best], own)[0] <= 0
    ]
    return Answer(
        value=values[best],
        low=min(equal),
        high=max(equal),
        n=len(standing[best]),
        scale=findings.scale,
        why=f"of {', '.join(f'{value:g}' for value in values.values())}; the interval is over "
        "those that are not worse beyond chance",
    )


def saturation(question: Question, findings: Findings) -> Answer:
    """The fewest steps from which on robust accuracy is within a point of that of the most steps.

    `attacks` has the steps by entry of the study's attacks, `within` the point. Without an eps the
    mean over all budgets counts. The interval is over the steps that may suffice, image by image.
    """
    steps = _numbers(question.arguments["attacks"])
    within = float(question.arguments.get("within", POINT))
    standing = {
        number: _standing(attacked(question, findings, attack=name))
        for name, number in sorted(steps.items(), key=lambda one: one[1])
    }
    numbers = list(standing)
    most = standing[numbers[-1]]
    apart = [(*_difference(standing[number], most), number) for number in numbers]

    def first(end: int) -> float:
        """From how many steps on one end of the difference, or its middle, is small enough."""
        enough = numbers[-1]
        for difference in reversed(apart):
            if difference[end] > within + 1e-12:
                break
            enough = difference[3]
        return enough

    return Answer(
        value=first(1),
        low=first(0),
        high=first(2),
        n=len(most),
        scale=findings.scale,
        why=f"of {', '.join(f'{number:g}' for number in numbers)} steps; within "
        f"{100 * within:g} points of {numbers[-1]:g}",
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    wrong = [value for value in values.values() if not isinstance(value, int | float)]
    if wrong:
        raise ConfigurationError(f"What is compared by are numbers; got {wrong[0]!r}.")
    return {name: float(value) for name, value in values.items()}


def _standing(every: list[Attacked]) -> Floats:
    """The share of the budgets within which each image stands, (n,)."""
    return np.asarray(np.mean([~images.fooled for images in every], axis=0), np.float64)


def _difference(ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Lower end, middle and upper end of the mean difference, paired, with Student's interval."""
    apart = ours - theirs
    middle = float(apart.mean())
    if len(apart) < 2:
        return -math.inf, middle, math.inf
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    half = float(special.stdtrit(len(apart) - 1, 0.975)) * error
    return middle - half, middle, middle + half
