"""What each attack can do, read off the attacks themselves."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from notsure.attacks.base import Attack, public_attacks
from notsure.attacks.minimal import MinimumNormAttack
from notsure.core.target import Access

_FAMILIES = {
    "attacks.query": "query",
    "attacks.evolution": "query",
    "attacks.boundary": "query",
    "attacks.transfer": "transfer",
    "attacks.generative": "generative",
    "attacks.sparse": "sparse",
    "attacks.detector_aware": "detector-aware",
    "attacks.autoattack": "ensemble",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An attack as the table shows it.

    Attributes:
        name: its class.
        family: bounded, minimum-norm, sparse, detector-aware, query, generative or transfer.
        bounded: whether it takes eps; otherwise it looks for a near image, whatever it takes.
        norms: the norms it is defined for.
        goals: which goals it can go for.
        needs: what it has to see of the target.
        cost: forward (F) and backward (B) passes a sample takes at most.
        paper: where it comes from.
        summary: what it does, in a line.
        deviations: how it differs from the paper; empty where it does not.
    """

    name: str
    family: str
    bounded: bool
    norms: tuple[str, ...]
    goals: str
    needs: Access
    cost: str
    paper: str
    summary: str
    deviations: str


def catalogue() -> list[Entry]:
    """Every public attack of the library, by family and name."""
    order = list(dict.fromkeys(["bounded", "minimum-norm", *_FAMILIES.values()]))
    entries = [_entry(kind) for kind in public_attacks()]
    return sorted(entries, key=lambda entry: (order.index(entry.family), entry.name))


def _entry(kind: type[Attack]) -> Entry:
    doc = inspect.getdoc(kind) or ""
    text = " ".join(doc.split("Attributes:")[0].split())
    found = re.search(r"Deviations?(?: from the paper)?: (.*)", text)
    usual = "minimum-norm" if issubclass(kind, MinimumNormAttack) else "bounded"
    family = _FAMILIES.get(kind.__module__.removeprefix("notsure."), usual)
    return Entry(
        name=kind.__name__,
        family=family,
        bounded=kind.budget is not Attack.budget,
        norms=kind.norms,
        goals=kind.goals,
        needs=kind.needs,
        cost=kind.cost,
        paper=kind.paper,
        summary=doc.split("\n")[0].rstrip("."),
        deviations=found[1] if found else "",
    )


def markdown() -> str:
    """The catalogue as Markdown: a table, then the deviations."""
    lines = [
        "| attack | family | form | norms | goals | has to see | cost of a sample | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    entries = catalogue()
    for one in entries:
        form = "eps-bounded" if one.bounded else "minimum-norm"
        cells = [f"`{one.name}`", one.family, form, ", ".join(one.norms), one.goals]
        lines.append(f"| {' | '.join([*cells, one.needs.name.lower(), one.cost, one.paper])} |")
    lines += ["", "| attack | what it does | how it differs from the paper |", "|---|---|---|"]
    for one in entries:
        cells = [part.replace("|", "\\|") for part in (one.summary, one.deviations or "-")]
        lines.append(f"| `{one.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
