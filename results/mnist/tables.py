"""Writes the tables of docs/results.md from the records and the published figures beside it.

python results/mnist/tables.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from notsure.evaluation import Records, detection, robustness
from notsure.evaluation.intervals import wilson
from notsure.evaluation.threats import CLEAN
from notsure.report.formatting import area_text, rate_short

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "results.md"
DETECTORS = {"confidence": "confidence", "non_me": "non-ME", "kdensity": "K-density"}
OBJECTIVES = {"ce": "CE", "rce": "RCE"}
ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "ilcm": "ILCM"}


def published() -> dict[str, float]:
    """Pang's figures by cell."""
    with (HERE / "published.csv").open(newline="") as file:
        return {row["cell_id"]: float(row["value"]) for row in csv.DictReader(file)}


def table_1(records: Records) -> list[str]:
    """Error rates without any detector, clean and under random noise as a control."""
    lines = [
        "| network | pang, Table 1 | ours, error in % | ours, under noise of eps 0.04 |",
        "|---|---|---|---|",
    ]
    for key, name in OBJECTIVES.items():
        value = published()[f"pang.t1.mnist.resnet32.{key}.clean.error_rate"]
        cells = []
        for threat in (CLEAN, "white-box"):
            part = records.where(guard=name, threat=threat)
            wrong = int((part.column("prediction") != part.column("y")).sum())
            rate = wilson(wrong, len(part))
            interval = f"[{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
            cells.append(f"{100 * rate.value:.2f} {interval}, n = {rate.n}")
        lines.append(f"| ResNet-32 ({name}) | {value:.2f} | {cells[0]} | {cells[1]} |")
    return lines


def table_2(records: Records) -> list[str]:
    """AUC over rightly classified images whose adversarial versions are misclassified."""
    found = {
        (row.guard, row.threat, row.attack, row.eps): row.successful for row in detection(records)
    }
    sizes = sorted({eps for *_, eps in found if eps is not None})
    heads = " | ".join(f"ours, eps {eps:g}" for eps in sizes)
    lines = [
        f"| attack | objective | score | pang, Table 2 | {heads} |",
        "|---|---|---|---|" + "---|" * len(sizes),
    ]
    for attack_key, attack in ATTACKS.items():
        for key, objective in OBJECTIVES.items():
            for detector_key, detector in DETECTORS.items():
                cell = f"pang.t2.mnist.resnet32.{key}.{attack_key}.{detector_key}.auc"
                ours = " | ".join(
                    area_text(found[f"{objective} + {detector}", "oblivious", attack, eps])
                    for eps in sizes
                )
                value = published()[cell] / 100
                lines.append(f"| {attack} | {objective} | {detector} | {value:.3f} | {ours} |")
    return lines


def what_is_left(records: Records) -> list[str]:
    """Robust accuracy in the worst case under both threats."""
    rows = {
        (row.guard, row.threat, row.eps): row
        for row in robustness(records)
        if row.attack == "worst case"
    }
    lines = [
        "| guard | eps | clean accuracy | clean rejection | lenient, oblivious | lenient, "
        "white-box | strict, oblivious | strict, white-box |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for guard in records.guards:
        for eps in sorted({e for g, _, e in rows if g == guard and e is not None}):
            blind, aware = rows[guard, "oblivious", eps], rows[guard, "white-box", eps]
            rates = (
                blind.clean_accuracy,
                blind.clean_rejection,
                blind.lenient,
                aware.lenient,
                blind.strict,
                aware.strict,
            )
            cells = " | ".join(rate_short(rate) for rate in rates)
            lines.append(f"| {guard} | {eps:g} | {cells} |")
    return lines


def main() -> None:
    """Replaces what stands between the page's markers."""
    records = Records.read(HERE / "records.parquet")
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (
        ("table 1", table_1(Records.read(HERE / "clean.parquet"))),
        ("table 2", table_2(records)),
        ("what is left", what_is_left(records)),
    ):
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition("<!-- end -->")
        text = before + opening + "\n".join(["", *lines, "", closing]) + after
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
