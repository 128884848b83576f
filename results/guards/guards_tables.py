"""Writes the tables of docs/guards.md, from the choices beside this file and the other records.

python results/guards/guards_tables.py
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from notsure.defences import catalogue, figures

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "guards.md"
KNOWN = HERE.parent / "known-guards" / "known_guards_tables.py"

RUNS = ("digits-ce", "digits-rce", "mnist-ce")
"""The choices, by the names of their files; results/guards/make.py makes them."""

BARE = "no guard"


def choice(name: str) -> dict[str, Any]:
    """What `notsure guard fit` wrote down."""
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return content


def examined() -> list[str]:
    """The guards that were chosen and the networks by themselves, on test images."""
    head = ["data", "network", "guard", "clean accuracy", "clean rejection", "eps", "oblivious"]
    head += ["adaptive", "adaptive, strict", "n"]
    again = any("harder" in choice(name) for name in RUNS)
    lines = _head([*head, "standard suite, adaptive", "n"] if again else head)
    for name in RUNS:
        told = choice(name)
        for guard in (BARE, told["chosen"]):
            for eps in told["settings"]["eps"]:
                quick, standard = (
                    {one["threat"]: one for one in _worst(told, key) if _is(one, guard, eps)}
                    for key in ("examined", "harder")
                )
                oblivious, adaptive = quick["oblivious"], quick["white-box"]
                harder = standard.get("white-box")
                cells = [
                    name.partition("-")[0],
                    told["network"].rpartition(",")[0].partition(", ")[2],
                    guard,
                    _rate(adaptive["clean_accuracy"]),
                    _rate(adaptive["clean_rejection"]),
                    f"{eps:g}",
                    _rate(oblivious["lenient"]),
                    _rate(adaptive["lenient"]),
                    _rate(adaptive["strict"]),
                    str(adaptive["lenient"]["n"]),
                ]
                if again:
                    cells += ["-", "-"]
                if harder is not None:
                    cells[-2:] = [_rate(harder["lenient"]), str(harder["lenient"]["n"])]
                lines.append(_row(cells))
    return lines


def _worst(told: Mapping[str, Any], suite: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told.get(suite, {}).get("worst_cases", [])
    return found


def _is(one: Mapping[str, Any], guard: str, eps: float) -> bool:
    return bool(one["guard"] == guard and one["eps"] == eps)


def candidates(name: str) -> list[str]:
    """The candidates of one choice in cross-validation, best first."""
    told = choice(name)
    settings = told["settings"]
    head = ["candidate", "clean accuracy"]
    for eps in settings["eps"]:
        head += [f"oblivious, {eps:g}", f"adaptive, {eps:g}"]
    lines = _head([*head, "n", "looked closer", "what became of it"])
    for one in told["candidates"]:
        cells = [one["name"], _rate(one["clean_accuracy"])]
        for budget in one["budgets"]:
            cells += [_rate(budget["oblivious"]), _rate(budget["white_box"])]
        looks = f"{one['looks']} of {one['folds']} folds" if one["looks"] else "no"
        cells += [str(one["clean_accuracy"]["n"]), looks, _fate(told, one)]
        lines.append(_row(cells))
    for left, why in told["left_out"].items():
        lines.append(_row([left, *("-" for _ in head[1:]), "-", "no", f"left out: {why}"]))
    return lines


def _fate(told: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    if one["name"] == told["chosen"]:
        return "**chosen**"
    if one["doubts"]:
        flags = dict.fromkeys(doubt.partition(":")[0] for doubt in one["doubts"])
        return f"not believed: {', '.join(flags)}"
    if one["dropped"]:
        return f"dropped after fold {one['folds']}"
    return "for comparison" if one["name"] == BARE else "behind"


def reason(name: str) -> list[str]:
    """How one choice was made, and why it came out as it did."""
    told = choice(name)
    settings, suite, sizes = told["settings"], told["examined"]["suite"], told["data"]["sizes"]
    return [
        f"Network: {told['network']}. Fitted on {sizes['train']} images, thresholds from "
        f"{sizes['calibration']} others at a false-positive rate of {100 * settings['fpr']:g} %, "
        f"{settings['count']} images attacked in {settings['folds']} folds, norm "
        f"{settings['norm']}, suite {suite['name']} {suite['version']}, seed {settings['seed']}.",
        "",
        "```sh",
        f"python results/guards/make.py {name}{' --data path/to/mnist' * ('mnist' in name)}",
        f"# trains the network, then: {told['command']}",
        "```",
        "",
        told["because"],
    ]


def garbage() -> list[str]:
    """How many images of no class each detector rejects."""
    rows = json.loads((HERE / "garbage.json").read_text(encoding="utf-8"))["rows"]
    lines = _head(["detector", "MNIST's test images", "Fashion-MNIST", "noise", "n of each"])
    keys = ("clean", "other", "noise")
    return lines + [
        _row([row["detector"], *(_rate(row[key]) for key in keys), str(row["noise"]["n"])])
        for row in rows
    ]


def digits() -> list[str]:
    """The figures of docs/defences.md, sorted by what an attacker who knows the guard leaves."""
    rows = sorted(figures()["rows"], key=lambda row: -row["robust_adaptive"]["value"])
    lines = _head(["guard", "clean accuracy", "clean images flagged", "oblivious", "adaptive"])
    keys = ("clean_accuracy", "clean_flagged", "robust_oblivious", "robust_adaptive")
    return lines + [_row([row["guard"], *(_rate(row[key]) for key in keys)]) for row in rows]


def known() -> list[str]:
    """What the examiner concludes of five guards of which the field knows how they stand."""
    lines: list[str] = runpy.run_path(str(KNOWN))["verdicts"]()
    return lines


def costs() -> list[str]:
    """What purifiers and detectors cost."""
    return _head(["part", "kind", "costs once", "adds to each image"]) + [
        _row([f"`{one.name}`", one.kind, one.fit_cost, one.query_cost])
        for one in catalogue()
        if one.kind in ("purifier", "detector")
    ]


def tables() -> Iterator[tuple[str, list[str]]]:
    """Everything that the page has between markers, by the marker."""
    yield "examined", examined()
    for name in RUNS:
        yield f"why {name}", reason(name)
        yield f"candidates {name}", candidates(name)
    yield "garbage", garbage()
    yield "digits", digits()
    yield "known guards", known()
    yield "costs", costs()


def _rate(rate: Mapping[str, float]) -> str:
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Replaces what stands between the page's markers."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in tables():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition("<!-- end -->")
        if not closing:
            raise SystemExit(f"docs/guards.md has no markers for {name!r}.")
        text = before + opening + "\n".join(["", *lines, "", closing]) + after
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
