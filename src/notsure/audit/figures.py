"""What an audit came to, computed from its records alone; one line, JSON and JUnit XML of it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # written only, never read
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import notsure
from notsure.audit.requirements import BELIEVABLE, CLEAN, FIGURES, ROBUST, STRICT, Requirement
from notsure.core.storage import atomic
from notsure.evaluation import Rate, Records, flags, robustness
from notsure.evaluation.conclusions import ABOUT_THE_ATTACK, judgement_of
from notsure.evaluation.intervals import rate_of
from notsure.evaluation.outcomes import outcomes
from notsure.evaluation.robustness import WORST_CASE
from notsure.evaluation.threats import CLEAN as CLEAN_THREAT
from notsure.evaluation.threats import Oblivious, WhiteBox

BY_GRADIENTS = (Oblivious.name, WhiteBox.name)
"""The threats under which attacks follow the gradients of the model itself."""


@dataclass(frozen=True, kw_only=True)
class Met:
    """A limit and what was found.

    Attributes:
        requirement: the limit.
        value: what was found, in [0,1].
    """

    requirement: Requirement
    value: float

    @property
    def met(self) -> bool:
        """Whether it is at least the limit."""
        return self.value >= self.requirement.at_least


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is left of one model.

    Attributes:
        model: its name in the records.
        data: the name of the data.
        norm: of the budgets.
        eps: the largest budget.
        clean: clean images that are accepted and right.
        rejected: clean images that are rejected.
        robust: images that nothing fooled within the largest budget, whatever the threat; a
            rejected one counts as safe.
        strict: the same counting a rejected one as lost.
        by_threat: by threat and budget, the worst case as the report has it.
        judgement: of `robust`, in the words of `notsure.evaluation.Conclusion`.
        raised: the names of the flags that are raised.
        by_gradients: whether any attack followed the model's own gradients.
        suite: its name and version.
        limits: the limits that were asked for.
    """

    model: str
    data: str
    norm: str
    eps: float
    clean: Rate
    rejected: Rate
    robust: Rate
    strict: Rate
    by_threat: Mapping[str, Mapping[str, Mapping[str, Rate]]]
    judgement: str
    raised: tuple[str, ...]
    by_gradients: bool
    suite: str
    limits: tuple[Met, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit is met."""
        return all(one.met for one in self.limits)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        asked = {one.requirement.figure: one.requirement.at_least for one in self.limits}

        def told(name: str, rate: Rate) -> str:
            limit = f" (at least {100 * asked[name]:g} %)" if name in asked else ""
            interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
            return f"{name} {100 * rate.value:.1f} % {interval}{limit}"

        word = ("PASS" if self.passed else "FAIL") if self.limits else "DONE"
        parts = [told(ROBUST, self.robust), told(CLEAN, self.clean)]
        if self.rejected.count or STRICT in asked:
            parts.insert(1, told(STRICT, self.strict))
        believed = "" if BELIEVABLE not in asked else "; had to be believable"
        raised = [name for name in self.raised if name in ABOUT_THE_ATTACK]
        doubts = f"; flags: {', '.join(raised)}" if raised else ""
        if not self.by_gradients:
            doubts = f"; attacked without gradients{doubts}"
        return (
            f"notsure audit: {word} {self.model} on {self.data}, {self.norm} {self.eps:.4g}, "
            f"n = {self.robust.n}: {', '.join(parts)}; {self.judgement}{doubts}{believed}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON's own types."""
        told = asdict(self)
        told["limits"] = [
            {**asdict(one.requirement), "value": one.value, "met": one.met} for one in self.limits
        ]
        return {"notsure": notsure.__version__, "passed": self.passed, "line": self.line, **told}


def figures_of(
    records: Records,
    model: str,
    *,
    norm: str,
    eps: float,
    limits: Sequence[Requirement] = (),
) -> Figures:
    """The figures of one model in the records of a suite.

    Args:
        records: of one seed.
        model: the guard's name in them.
        norm: of the budgets.
        eps: the largest budget.
        limits: what is asked for.
    """
    own = records.where(guard=model)
    rows = [row for row in robustness(own) if row.attack == WORST_CASE and row.norm == norm]
    found = outcomes(own, norm=norm, eps=eps)
    by_threat: dict[str, dict[str, dict[str, Rate]]] = {}
    for row in rows:
        rates = {"lenient": row.lenient, "strict": row.strict}
        by_threat.setdefault(row.threat, {})[f"{row.eps:.6g}"] = rates
    for threat in sorted(set(own.column("threat")) - {CLEAN_THREAT} - by_threat.keys()):
        # nothing that was run has a budget of its own, so that the report has no such row
        alone = outcomes(own, norm=norm, eps=eps, threats=[threat])
        rates = {"lenient": rate_of(~alone.fooled), "strict": rate_of(alone.held)}
        by_threat[threat] = {f"{eps:.6g}": rates}
    raised = tuple(flag.name for flag in flags(own) if flag.raised)
    doubts = set(raised) & set(ABOUT_THE_ATTACK)
    before = rate_of(found.right | found.rejected)
    followed = own.column("gradients")[np.isin(own.column("threat"), BY_GRADIENTS)]
    by_gradients = bool((followed.astype(np.float64) > 0).any())
    shares = {
        CLEAN: rate_of(found.right),
        ROBUST: rate_of(~found.fooled),
        STRICT: rate_of(found.held),
    }
    values = {name: rate.value for name, rate in shares.items()}
    values[BELIEVABLE] = float(by_gradients and not doubts)
    suite = records.meta.get("suite") or {}
    return Figures(
        model=model,
        data=str(records.meta.get("data") or "unnamed data"),
        norm=norm,
        eps=eps,
        clean=shares[CLEAN],
        rejected=rate_of(found.rejected),
        robust=shares[ROBUST],
        strict=shares[STRICT],
        by_threat=by_threat,
        judgement=judgement_of(shares[ROBUST], before, doubted=bool(doubts)),
        raised=raised,
        by_gradients=by_gradients,
        suite=f"{suite.get('name', 'none')} {suite.get('version', '')}".strip(),
        limits=tuple(Met(requirement=one, value=values[one.figure]) for one in limits),
    )


def write_junit(path: str | Path, figures: Figures) -> Path:
    """Writes the limits as JUnit XML: a test case each, or one for the audit where there is none.

    Args:
        path: the file.
        figures: of the audit.
    """
    failed = [one for one in figures.limits if not one.met]
    suite = ElementTree.Element(
        "testsuite",
        name="notsure audit",
        tests=str(max(1, len(figures.limits))),
        failures=str(len(failed)),
        errors="0",
        skipped="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("model", "data", "norm", "eps", "suite", "judgement"):
        ElementTree.SubElement(properties, "property", name=name, value=str(getattr(figures, name)))
    where = f"notsure.audit.{figures.model}"
    for one in figures.limits:
        limit = one.requirement
        name = f"{limit.figure} >= {limit.at_least:g}"
        case = ElementTree.SubElement(suite, "testcase", classname=where, name=name)
        if not one.met:
            told = f"{limit.figure} is {one.value:.4f}, below {limit.at_least:g}"
            failure = ElementTree.SubElement(case, "failure", message=told, type="limit")
            failure.text = f"{FIGURES[limit.figure]}.\n{figures.line}"
    if not figures.limits:
        ElementTree.SubElement(suite, "testcase", classname=where, name="audit")
    ElementTree.SubElement(suite, "system-out").text = figures.line
    tree = ElementTree.ElementTree(suite)
    ElementTree.indent(tree)
    with atomic(path) as temporary:
        tree.write(temporary, encoding="utf-8", xml_declaration=True)
    return Path(path)
