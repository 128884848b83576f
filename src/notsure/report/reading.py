"""How to read a report: which threats were tested, and what speaks against the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from notsure.evaluation.grouping import settings_without
from notsure.evaluation.records import Records
from notsure.evaluation.sanity import Flag
from notsure.evaluation.threats import CLEAN, NAMES
from notsure.report.formatting import budget_text, listing
from notsure.report.tables import threats_of

_OF_THE_THREAT = ("early_stop", "gradient")
"""Settings of an attack that its threat changes to suit the guard."""

_MEANINGS = {
    "oblivious": "The attacker sees the bare classifier and knows of no detector. Against a guard "
    "that rejects, the search runs to its end: an image left just across the boundary would be "
    "easy to detect, and would flatter the detector.",
    "transfer": "The attacker sees a substitute, another network for the same task, and sends what "
    "fools that one. Nothing tells when the guard falls, so the search runs to its end.",
    "query-decisions": "The attacker may ask the guard and sees its answer, a class or NOT SURE, "
    "and nothing else.",
    "query-scores": "The attacker may ask the guard and sees its scores and whether it rejects, "
    "but no gradients.",
    "white-box": "The attacker sees the whole guard: the network, the detectors, the thresholds "
    "and the gradients of all of them. An image counts as successful only if it is classified "
    "wrongly and accepted. The worst case under this threat includes the attacks of every threat "
    "that knows less, and the clean image itself: whoever knows more can do what those who know "
    "less can.",
}

_LEFT_OPEN = {
    "oblivious": "How the guard fares against attackers who do not know of it, which is what most "
    "published numbers are about. It is the weakest threat.",
    "transfer": "Whether images that fool other networks fool this one as well, which takes no "
    "access at all. It would also show gradients that are hidden rather than harmless.",
    "query-decisions": "What an attacker reaches who only asks, and sees answers. It would also "
    "show gradients that are hidden rather than harmless.",
    "query-scores": "What an attacker reaches who only asks, and sees scores. It would also show "
    "gradients that are hidden rather than harmless.",
    "white-box": "Whether anything is left of the guard once an attacker knows it. Without this "
    "threat no number here is robustness: each holds only while the guard stays secret.",
}


@dataclass(frozen=True, kw_only=True)
class ThreatLine:
    """One threat: whether it was tested, what it means, and what is open if it was not."""

    name: str
    tested: bool
    means: str
    left_open: str


@dataclass(frozen=True, kw_only=True)
class FlagGroups:
    """The flags by what they say; together all there are."""

    raised: Sequence[Flag]
    unlooked: Sequence[Flag]
    quiet: Sequence[Flag]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.raised) + len(self.unlooked) + len(self.quiet)


def threat_lines(records: Records) -> list[ThreatLine]:
    """All threats there are, those that were tested first, the one that knows most first."""
    tested = threats_of(records)[::-1]
    return [
        ThreatLine(
            name=name,
            tested=name in tested,
            means=_MEANINGS.get(name, "A threat of its own."),
            left_open=_LEFT_OPEN.get(name, ""),
        )
        for name in [*tested, *(name for name in reversed(NAMES) if name not in tested)]
    ]


def uneven_attacks(records: Records) -> list[str]:
    """What some guards were not attacked with that others were, a sentence a guard.

    Guards of several runs may stand side by side. A suite chooses other attacks for other guards,
    which is as it should be; of attacks that were chosen by hand each is compared.
    """
    by_hand = records.meta.get("suite") is None
    known = records.meta.get("attacks", {})
    met: dict[str, dict[tuple[int, str], str]] = {guard: {} for guard in records.guards}
    rows = records.ordinary().distinct("guard", "threat", "attack", "attack_id", "norm", "eps")
    for guard, threat, attack, identity, norm, eps in rows:
        if threat == CLEAN:
            continue
        own = met[guard]
        own[0, threat] = f"under the threat {threat}"
        if eps is not None:
            own[1, f"{norm} {eps!r}"] = f"within {budget_text(norm, eps)}"
        if by_hand:
            # what the threat makes of an attack depends on the guard
            its = {k: v for k, v in known.get(identity, {}).items() if k not in _OF_THE_THREAT}
            own[2, f"{threat} {attack} {settings_without(its, 'eps')}"] = f"by {attack} ({threat})"
    every = {key: words for own in met.values() for key, words in own.items()}
    found = []
    for guard, own in met.items():
        lacking = [key for key in every if key not in own]
        # a threat that is missing says all about its attacks
        gone = {name for kind, name in lacking if kind == 0}
        told = [
            every[kind, name]
            for kind, name in sorted(lacking)
            if kind != 2 or name.split(" ")[0] not in gone
        ]
        if told:
            found.append(f"{guard} was not attacked {listing(list(dict.fromkeys(told)))}.")
    return found


def flag_groups(flags: Sequence[Flag]) -> FlagGroups:
    """The flags, raised ones apart from those that could not be looked at and the others."""
    return FlagGroups(
        raised=[flag for flag in flags if flag.raised],
        unlooked=[flag for flag in flags if not flag.raised and not flag.looked],
        quiet=[flag for flag in flags if not flag.raised and flag.looked],
    )
