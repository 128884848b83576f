"""Writes what the examiner concludes of five known guards into docs/results.md.

python results/known-guards/known_guards_tables.py [RUN]: RUN is what benchmarks/known_guards.py
wrote; with it the records beside this file are written anew, without images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from notsure.evaluation import (
    Certified,
    Records,
    conclusions,
    detection,
    robustness,
    within_certificate,
)
from notsure.evaluation.robustness import WORST_CASE
from notsure.report.formatting import area_text, rate_short

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "results.md"
KNOWN = {
    "kdensity": ("K-density on cross-entropy", "broken by the detector-aware C&W"),
    "magnet": ("MagNet", "broken in white-box"),
    "saturated": ("logits x 10,000", "gradients are zero: flagged"),
    "adversarial": ("adversarial training", "holds"),
    "smoothed": ("randomized smoothing", "holds inside its certificate"),
}


def collect(run: Path) -> None:
    """Copies the records without images, and the certificate."""
    for name in KNOWN:
        Records.read(run / name / "records.parquet").without_images().write(
            HERE / f"{name}.parquet"
        )
    text = (run / "smoothed" / "certificate.json").read_text(encoding="utf-8")
    (HERE / "certificate.json").write_text(text, encoding="utf-8")


def verdicts() -> list[str]:
    """One line for each guard and norm."""
    lines = [
        "| guard | known as | the examiner | n | within | clean, withstood | worst case, withstood "
        "| flags raised |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (title, known) in KNOWN.items():
        records = Records.read(HERE / f"{name}.parquet")
        raised = ", ".join(flag.name for flag in records.flags() if flag.raised) or "none"
        certificates = {name: certificate()} if name == "smoothed" else {}
        for one in conclusions(records, certificates):
            within = "any distance" if one.eps is None else f"{one.norm} {one.eps:g}"
            lines.append(
                f"| {title} | {known} | **{one.judgement}** | {one.lenient.n} | {within} | "
                f"{rate_short(one.clean)} | {rate_short(one.lenient)} | {raised} |"
            )
    return lines


def attacks() -> list[str]:
    """What each attack leaves, and how the detector fared."""
    lines = ["| guard | threat | attack | within | withstood, % |", "|---|---|---|---|---|"]
    for name, (title, _) in KNOWN.items():
        for row in robustness(Records.read(HERE / f"{name}.parquet")):
            within = "any distance" if row.eps is None else f"{row.norm} {row.eps:g}"
            attack = row.attack if row.attack != WORST_CASE else "*worst case*"
            lines.append(
                f"| {title} | {row.threat} | {attack} | {within} | {rate_short(row.lenient)} |"
            )
    return lines


def detectors() -> list[str]:
    """Areas of the detectors under oblivious attacks, and what evades them when it sees them."""
    lines = [
        "| guard | detector | attack | area, oblivious (successful) | found at the threshold, % "
        "| of all images, evaded in white-box, % |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("kdensity", "magnet"):
        for row in detection(Records.read(HERE / f"{name}.parquet")):
            if row.threat != "oblivious":
                continue
            control = " (control)" if row.control else ""
            found = "-" if row.control else rate_short(row.flagged)
            evaded = row.adaptive_evaded
            beside = "-" if evaded is None or evaded.n == 0 else rate_short(evaded)
            lines.append(
                f"| {KNOWN[name][0]} | {row.detector}{control} | {row.attack} | "
                f"{area_text(row.successful)} | {found} | {beside} |"
            )
    return lines


def certificate() -> Certified:
    """What is certified of the randomized network."""
    return Certified(**json.loads((HERE / "certificate.json").read_text(encoding="utf-8")))


def inside() -> list[str]:
    """How many attacked images keep the certified label inside the certified radius."""
    told, records = certificate(), Records.read(HERE / "smoothed.parquet")
    kept = within_certificate(records, "smoothed", told.radius, told.label)
    return [
        f"Of {kept.n} attacked or clean images inside their own certified radius {kept.count} keep "
        f"the certified label ({rate_short(kept)} %)."
    ]


def main() -> None:
    """Writes the tables between their marks."""
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    text = PAGE.read_text(encoding="utf-8")
    for mark, table in (
        ("known guards", verdicts()),
        ("known attacks", attacks()),
        ("known detectors", detectors()),
        ("known certificate", inside()),
    ):
        before, rest = text.split(f"<!-- {mark} -->\n", 1)
        after = rest.split("<!-- end -->", 1)[1]
        body = "\n".join(table)
        text = f"{before}<!-- {mark} -->\n\n{body}\n\n<!-- end -->{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
