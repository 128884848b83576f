"""What an adaptive attacker leaves of a report's systems, in Markdown, from records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from notsure.evaluation import Records, conclusions, robustness
from notsure.evaluation.grouping import Grouped
from notsure.evaluation.intervals import Rate, rate_of
from notsure.evaluation.robustness import WORST_CASE
from notsure.evaluation.threats import CLEAN
from notsure.report.formatting import rate_short
from notsure.studies.declared import Study
from notsure.studies.measures import UnfinishedError

NOT_MEASURED = "Not measured yet"

SCALE = "scale"
"""Where the meta of published records says at which scale they were made."""

HEAD = (
    *("guard", "n", "clean accuracy", "clean rejection", "within"),
    *("oblivious", "white-box", "all threats"),
)
"""The columns of the table of what is left."""

_ALONE = ("oblivious", "white-box")


def adaptive_markdown(study: Study, records_of: Callable[[str], Records]) -> str:
    """The section "under an adaptive attacker" of a study.

    Each entry of `adaptive` has what the report claimed, a table of what is left of each guard, and
    what the examiner concludes, with the flags that are raised.

    Args:
        study: what `load_study` has read.
        records_of: the records of an evaluation by its name; raises UnfinishedError where there
            are none yet.

    Returns:
        Markdown that ends in a line break; empty where the study has no such section.
    """
    parts = []
    for name, spec in study.adaptive.items():
        try:
            records = records_of(spec.evaluation)
        except UnfinishedError as error:
            lines = [f"{NOT_MEASURED}; waits for {error}."]
        else:
            lines = [
                told(records, spec.evaluation, records.meta.get(SCALE, study.scale)),
                "",
                *left_table(records),
                "",
                *conclusion_list(records),
            ]
        parts.append("\n".join([f"**{name}.** {' '.join(spec.claim.split())}", "", *lines]))
    return "\n\n".join(parts) + "\n" if parts else ""


def told(records: Records, evaluation: str, scale: str) -> str:
    """What was run, in a sentence."""
    suite = records.meta.get("suite")
    attacks = (
        f"the suite {suite['name']!r}, version {suite['version']}"
        if suite
        else f"the attacks of the evaluation {evaluation!r}"
    )
    count = records.meta["count"]
    return (
        f"Ours, at {scale} scale on {count} test images of {records.meta['data']}, under "
        f"{attacks}. Figures are in %, with 95 % intervals. What is withstood is the worst case "
        "over the attacks, image by image; a rejected image counts as withstood."
    )


def left_table(records: Records) -> list[str]:
    """What is left of each guard, by budget, as the lines of a Markdown table.

    "Oblivious" and "white-box" are the worst cases over the attacks of that threat alone, "all
    threats" that over everything that was run.

    Args:
        records: of one seed.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    return [
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
        *(f"| {' | '.join(row)} |" for row in left_rows(records)),
    ]


def left_rows(records: Records) -> list[list[str]]:
    """The rows of that table, each with the columns of `HEAD`.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    rows = []
    clean = {guard: _clean(records, guard) for guard in records.guards}
    columns = [*(_worst(records, (threat,)) for threat in _ALONE), _worst(records, None)]
    for guard, norm, eps in columns[-1]:
        accuracy, rejection = clean[guard]
        within = "any distance" if norm is None else f"{norm} {eps:.4g}"
        left = [column.get((guard, norm, eps)) for column in columns]
        rows.append(
            [
                guard,
                str(accuracy.n),
                rate_short(accuracy),
                rate_short(rejection),
                within,
                *("not run" if rate is None else rate_short(rate) for rate in left),
            ]
        )
    return rows


_Budget = tuple[str, str | None, float | None]


def _clean(records: Records, guard: str) -> tuple[Rate, Rate]:
    grouped = Grouped(records.where(guard=guard, threat=CLEAN))
    return (
        rate_of(grouped.clean_right(guard)),
        rate_of(grouped.rejected(grouped.clean(guard))[0]),
    )


def _worst(records: Records, threats: Sequence[str] | None) -> dict[_Budget, Rate]:
    """Robust accuracy by guard and budget, over the attacks of some threats and no others."""
    names = [threat for (threat,) in records.ordinary().distinct("threat") if threat != CLEAN]
    kept = names if threats is None else [name for name in names if name in threats]
    if not kept:
        return {}
    own = Records.joined(
        [records.ordinary().where(threat=name) for name in (CLEAN, *kept)],
        # every one of them counts, whoever could have run it
        {**records.meta, "includes": dict.fromkeys(kept, kept)},
    )
    return {
        (row.guard, row.norm, row.eps): row.lenient
        for row in robustness(own)
        if row.attack == WORST_CASE
    }


def conclusion_list(records: Records) -> Iterator[str]:
    """What the examiner concludes of each guard, and the flags that are raised, as Markdown.

    Args:
        records: of one seed.

    Raises:
        ConfigurationError: nothing has attacked a guard.
    """
    found, raised = concluded(records)
    for guard, judgement, because in found:
        yield f"- {guard}: **{judgement}**. {because}"
    if not raised:
        yield "- No flag is raised."
    for name, because in raised:
        yield f"- Flag *{name}*: {because}"


def concluded(records: Records) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """What the examiner concludes, as (guard, judgement, reason), and raised flags with reasons.

    Raises:
        ConfigurationError: nothing has attacked a guard.
    """
    found = [
        (one.guard, one.judgement, f"{one.because[0].upper()}{one.because[1:]}.")
        for one in conclusions(records)
    ]
    flags = [(one.name, " ".join(one.because.split())) for one in records.flags() if one.raised]
    return [(guard, str(judgement), because) for guard, judgement, because in found], flags
