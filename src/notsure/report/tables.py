"""The tables of a report: rows from records, with the threats side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from notsure.core.errors import ConfigurationError
from notsure.evaluation.detection import Detection, detection
from notsure.evaluation.intervals import Area, Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, RobustnessRow, robustness
from notsure.evaluation.threats import CLEAN, knowledge_of
from notsure.report.formatting import budget_text, number, rate_short, rate_text, setting_text

OBLIVIOUS, WHITE_BOX = "oblivious", "white-box"

_Key = tuple[str, str, str, str | None, float | None]


@dataclass(frozen=True, kw_only=True)
class RobustnessLine:
    """What is left of a guard under one attack at one eps, all threats side by side.

    Attributes:
        guard: its name.
        attack: the attack's name, with the settings that tell it from others of its class; or
            "worst case".
        norm: of the budget; None for attacks without one.
        eps: the budget in [0,1] pixel units; None for attacks without one.
        by_threat: the row of each threat that this attack was run under.
    """

    guard: str
    attack: str
    norm: str | None
    eps: float | None
    by_threat: Mapping[str, RobustnessRow]

    @property
    def worst(self) -> bool:
        """Whether this is the worst case over all attacks."""
        return self.attack == WORST_CASE

    @property
    def strongest(self) -> RobustnessRow:
        """The row of the threat that knows most."""
        return self.by_threat[strongest_threat(list(self.by_threat))]


@dataclass(frozen=True, kw_only=True)
class DetectionLine:
    """How well a detector tells one attack's images from clean ones, all threats side by side.

    Attributes:
        guard: its name.
        detector: the detector's name.
        attack: as in `RobustnessLine`.
        norm: of the budget; None for attacks without one.
        eps: the budget in [0,1] pixel units; None for attacks without one.
        by_threat: the figures of each threat that this attack was run under.
    """

    guard: str
    detector: str
    attack: str
    norm: str | None
    eps: float | None
    by_threat: Mapping[str, Detection]

    @property
    def some(self) -> Detection:
        """The figures of one of the threats, for what is the same under all."""
        return next(iter(self.by_threat.values()))

    @property
    def control(self) -> bool:
        """Whether the detector knows nothing, and is here to be compared with."""
        return self.some.control

    @property
    def noise(self) -> bool:
        """Whether the attack is noise, and is here to be compared with."""
        return self.some.noise

    @property
    def held_out(self) -> bool | None:
        """Whether the detector learnt from other attacks alone; None if it learnt from none."""
        return self.some.held_out

    @property
    def adaptive(self) -> Area | None:
        """Area over all images of the attack that knows the guard; None if it was not run."""
        row = self.by_threat.get(WHITE_BOX)
        if row is not None:
            return row.everything
        return self.by_threat[OBLIVIOUS].adaptive if OBLIVIOUS in self.by_threat else None

    @property
    def adaptive_flagged(self) -> Rate | None:
        """Of all its images, the share above the frozen threshold; None if it was not run."""
        row = self.by_threat.get(WHITE_BOX)
        if row is not None:
            return row.flagged_everything
        return self.by_threat[OBLIVIOUS].adaptive_flagged if OBLIVIOUS in self.by_threat else None

    @property
    def adaptive_evaded(self) -> Rate | None:
        """The share of all images with which it evades the detector; None if it was not run."""
        row = self.by_threat.get(WHITE_BOX)
        if row is not None:
            return row.evaded
        return self.by_threat[OBLIVIOUS].adaptive_evaded if OBLIVIOUS in self.by_threat else None


def check_records(records: Records) -> None:
    """Refuses records that no report can be made of.

    Raises:
        ConfigurationError: there are none, or of no attack, or of several seeds.
    """
    if len(records) == 0:
        raise ConfigurationError("There are no records to report on: the table is empty.")
    if not threats_of(records):
        raise ConfigurationError(
            "The records hold clean images alone: attack them first, notsure.evaluate(...)."
        )
    seeds = [seed for (seed,) in records.distinct("seed")]
    if len(seeds) > 1:
        raise ConfigurationError(
            f"The records are of several seeds ({', '.join(map(str, seeds))}), and an image that "
            f"is attacked twice is not two images: report one, records.where(seed={seeds[0]})."
        )


def threats_of(records: Records) -> list[str]:
    """The threats that the records hold, the one that knows least first."""
    names = [threat for (threat,) in records.distinct("threat") if threat != CLEAN]
    return sorted(names, key=knowledge_of)


def strongest_threat(threats: Sequence[str]) -> str:
    """The one of some threats that knows most."""
    return max(threats, key=knowledge_of)


def robustness_table(records: Records) -> list[RobustnessLine]:
    """Robust accuracy by guard, norm and eps: every attack, then the worst case.

    Args:
        records: of one run.
    """
    labels = attack_labels(records)
    lines: dict[tuple[str, str, str | None, float | None], dict[str, RobustnessRow]] = {}
    for row in robustness(records):
        label = WORST_CASE if row.attack == WORST_CASE else labels[row.attack_id]
        lines.setdefault((row.guard, label, row.norm, row.eps), {})[row.threat] = row
    order = {guard: position for position, guard in enumerate(records.guards)}
    return sorted(
        (
            RobustnessLine(
                guard=guard, attack=attack, norm=norm, eps=eps, by_threat=_in_order(by_threat)
            )
            for (guard, attack, norm, eps), by_threat in lines.items()
        ),
        key=lambda line: (order[line.guard], *_budget_order(line.norm, line.eps), line.worst),
    )


def detection_table(records: Records) -> list[DetectionLine]:
    """Every detector's figures by guard, detector, norm, eps and attack.

    Args:
        records: of one run.
    """
    labels = attack_labels(records)
    lines: dict[_Key, dict[str, Detection]] = {}
    for row in detection(records):
        key = (row.guard, labels[row.attack_id], row.detector, row.norm, row.eps)
        lines.setdefault(key, {})[row.threat] = row
    order = {guard: position for position, guard in enumerate(records.guards)}
    named = [*records.detectors, *records.controls]
    detectors = {name: position for position, name in enumerate(named)}
    return sorted(
        (
            DetectionLine(
                guard=guard,
                detector=detector,
                attack=attack,
                norm=norm,
                eps=eps,
                by_threat=_in_order(by_threat),
            )
            for (guard, attack, detector, norm, eps), by_threat in lines.items()
        ),
        key=lambda line: (
            order[line.guard],
            line.control,
            detectors[line.detector],
            *_budget_order(line.norm, line.eps),
        ),
    )


def at_largest_eps(lines: Sequence[RobustnessLine]) -> list[RobustnessLine]:
    """Of some lines, those whose eps is the largest of their guard and norm."""
    largest: dict[tuple[str, str | None], float] = {}
    for line in lines:
        key = (line.guard, line.norm)
        largest[key] = max(largest.get(key, 0.0), line.eps or 0.0)
    return [line for line in lines if (line.eps or 0.0) == largest[line.guard, line.norm]]


def strongest_attack(
    lines: Sequence[RobustnessLine], guard: str, threat: str
) -> RobustnessLine | None:
    """The attack that fools a guard most often, at the largest eps of the first norm."""
    of_guard = [
        line
        for line in at_largest_eps(lines)
        if line.guard == guard and threat in line.by_threat and not line.worst
    ]
    able = [line for line in of_guard if line.norm == of_guard[0].norm]
    return min(
        able,
        key=lambda line: (
            line.by_threat[threat].lenient.value,
            line.by_threat[threat].strict.value,
        ),
        default=None,
    )


def attack_labels(records: Records) -> dict[str | None, str]:
    """A name for each attack identity: its class, and what tells it from others of its class.

    Budgets have their own column, and what a threat changes of an attack is the threat's doing (the
    search runs to its end, the gradient is averaged), so only what differs between the attacks of
    one guard and threat is part of a name, unless nothing else tells them apart. A step size is
    told in units of eps, so that one attack at several eps has one name.
    """
    known = records.meta.get("attacks", {})
    places = [
        place
        for *place, probe in records.distinct("guard", "threat", "attack", "attack_id", "probe")
        if probe is None
    ]
    told = {
        identity: {
            key: setting_text(value)
            for key, value in _in_eps(known.get(identity, {})).items()
            if key not in {"name", "norm", "eps", "early_stop"}
        }
        for *_, identity in places
    }
    rivals: dict[tuple[str, str, str], list[str | None]] = {}
    for guard, threat, name, identity in places:
        rivals.setdefault((guard, threat, name), []).append(identity)
    apart: dict[str, set[str]] = {}
    for (_, _, name), identities in rivals.items():
        keys = dict.fromkeys(key for one in identities for key in told[one])
        apart.setdefault(name, set()).update(
            key for key in keys if len({told[one].get(key) for one in identities}) > 1
        )
    labels: dict[str | None, str] = {}
    for _, _, name, identity in places:
        its = told[identity]
        differing = ", ".join(f"{key} = {its[key]}" for key in its if key in apart[name])
        labels[identity] = f"{name} ({differing})" if differing else name
    taken: dict[tuple[Any, ...], str | None] = {}
    columns = ("guard", "threat", "norm", "eps", "attack_id", "probe")
    for *place, identity, probe in records.distinct(*columns):
        if probe is not None:
            continue
        key = (*place, labels[identity])
        if taken.setdefault(key, identity) != identity:
            labels[identity] += f" #{identity}"
    return labels


def _in_eps(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a step size that was given in units of eps, with which it is scaled."""
    size, eps = settings.get("step_size"), settings.get("eps")
    if not isinstance(size, int | float) or not isinstance(eps, int | float) or not eps:
        return dict(settings)
    return {**settings, "step_size": f"{number(size / eps)} eps"}


def first_substitute(records: Records) -> Records:
    """Of an attack that was carried over from several substitutes, the rows of the first."""
    names = [name for (name,) in records.distinct("substitute")]
    return records if len(names) < 2 else records.where(substitute=names[0])


def _budget_order(norm: str | None, eps: float | None) -> tuple[bool, str, float]:
    return norm is None, norm or "", eps or 0.0


def _in_order(by_threat: dict[str, Any]) -> dict[str, Any]:
    return {threat: by_threat[threat] for threat in sorted(by_threat, key=knowledge_of)}


def console_table(records: Records) -> list[Table]:
    """One table a guard for a terminal of 100 columns, the threats below one another.

    Args:
        records: of one run.

    Raises:
        ConfigurationError: there are no records, or of no attack, or of several seeds.
    """
    check_records(records)
    lines = robustness_table(records)
    return [
        _console_table_of(guard, [line for line in lines if line.guard == guard])
        for guard in records.guards
    ]


def _console_table_of(guard: str, lines: list[RobustnessLine]) -> Table:
    clean = lines[0].strongest
    # Text, because a guard's name in brackets is not markup
    table = Table(
        title=Text(
            f"{guard}\nclean accuracy {rate_text(clean.clean_accuracy)}\n"
            f"clean rejection {rate_text(clean.clean_rejection)}",
            style="bold",
        ),
        title_justify="left",
        caption=f"n = {clean.lenient.n}, 95 % intervals; lenient: a rejected image counts as safe, "
        "strict: as lost; the worst case is taken image by image, over all eps up to it.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("eps")
    table.add_column("attack", max_width=24, overflow="fold")
    table.add_column("threat")
    table.add_column("lenient, %", justify="right", no_wrap=True)
    table.add_column("strict, %", justify="right", no_wrap=True)
    budget: object = None
    for line in lines:
        for threat, row in line.by_threat.items():
            here = (line.norm, line.eps)
            eps = "" if here == budget else _console_budget(line.norm, line.eps)
            budget = here
            table.add_row(
                Text(eps),
                Text(line.attack if threat == next(iter(line.by_threat)) else ""),
                Text(threat),
                rate_short(row.lenient),
                rate_short(row.strict),
                style="bold" if line.worst else "",
            )
        if line.worst:
            table.add_section()
    return table


def _console_budget(norm: str | None, eps: float | None) -> str:
    return budget_text(norm, None) if eps is None else f"{norm} {number(eps)}"
