"""The judge, the clock and the table do what the figures rest on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks import save_record, warmed_up
from contestants import BareLoop, Contestant, Run, Task, UnavailableError
from measure import interleaved, judge
from rows import all_rows
from table import as_strong, median_distance, met, table_of
from torch import nn

from notsure import Classifier


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2)."""
        mean = x.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], dim=1)


DARK = torch.full((4, 1, 2, 2), 0.4)
ZERO = torch.zeros(4, dtype=torch.int64)


def test_the_judge_counts_only_what_fools_within_the_ball_and_is_finite() -> None:
    """One image in the ball, one beyond it, one that is NaN, one that fools nobody."""
    moved = DARK + torch.tensor([0.2, 0.3, torch.nan, 0.05]).view(4, 1, 1, 1)
    verdict = judge(Brightness(), DARK, moved, ZERO, norm="linf", eps=0.2)
    assert verdict.distance[0] == pytest.approx(0.2)
    assert verdict.distance[1:] == [None, None, None]
    assert (verdict.beyond_eps, verdict.not_finite, verdict.outside_box) == (1, 1, 0)


def test_the_judge_clamps_before_it_looks() -> None:
    """Three pixels at 0 and one at 3 have a bright mean only outside the box."""
    moved = torch.zeros_like(DARK)
    moved[..., 0, 0] = 3
    verdict = judge(Brightness(), DARK, moved, ZERO, norm="l2")
    assert verdict.distance == [None] * 4
    assert verdict.outside_box == 4


def test_the_judge_measures_in_the_rows_norm_and_knows_targets() -> None:
    """Of the four images two are to stay in class 0, where they are."""
    moved = DARK.clone()
    moved[:, :, 0] = 1.0
    targets = torch.tensor([1, 1, 0, 0])
    for norm, size in (("l0", 2.0), ("l2", 0.6 * 2**0.5), ("linf", 0.6)):
        verdict = judge(Brightness(), DARK, moved, ZERO, norm=norm, targets=targets)
        assert verdict.distance[:2] == pytest.approx([size, size])
        assert verdict.distance[2:] == [None, None]


def test_the_judge_refuses_images_of_another_shape() -> None:
    """A peer that drops images is an error, not a good result."""
    with pytest.raises(ValueError, match="shape"):
        judge(Brightness(), DARK, DARK[:3], ZERO, norm="l2")


def test_turns_rotate_and_an_error_ends_only_its_own_contestant() -> None:
    """Three contestants, three rounds; the second fails in its second round."""
    order: list[str] = []

    def run(name: str) -> str:
        order.append(name)
        if name == "b" and order.count("b") == 2:
            raise RuntimeError("no more")
        return name

    runs = {name: (lambda name=name: run(name)) for name in "abc"}
    timings = interleaved(runs, 3)
    assert "".join(order) == "abc" + "bca" + "ca"
    assert [len(timings[name].seconds) for name in "abc"] == [3, 1, 3]
    assert timings["b"].failure == "RuntimeError: no more"
    assert timings["b"].first == "b"


def test_every_contestant_draws_the_same_random_numbers() -> None:
    """Whoever came before, and other ones in the next round."""
    drawn: list[float] = []
    runs = {name: (lambda: drawn.append(float(torch.rand(())))) for name in "ab"}
    interleaved(runs, 2)
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]
    assert drawn[0] != drawn[2]


class Slow(Contestant):
    """Takes 10 ms an image."""

    library = "slow"

    def prepare(self, task: Task) -> Run:
        """Waits and returns the images."""

        def run(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            time.sleep(0.01 * len(x))
            return x

        return run


def test_who_would_exceed_the_budget_gets_fewer_images_or_none() -> None:
    """100 images would take a second."""
    task = Task(Classifier(Brightness()), 256, (1, 2, 2), classes=2)
    x, y = torch.rand(100, 1, 2, 2), torch.zeros(100, dtype=torch.int64)
    slow = Slow(attack="wait")
    everything = warmed_up(slow, task, x, y, 60.0)
    assert (everything.images, everything.reason) == (100, "")
    some = warmed_up(slow, task, x, y, 0.4)
    assert 2 <= some.images <= 40
    assert "budget" in some.reason
    with pytest.raises(UnavailableError, match="budget"):
        warmed_up(slow, task, x, y, 0.001)
    declared = warmed_up(Slow(attack="wait", count=7), task, x, y, 60.0)
    assert declared.images == 7
    assert declared.reason


def test_the_bare_loop_reaches_the_balls_best_corner() -> None:
    """On a linear network PGD ends in the corner of the ball."""
    task = Task(Classifier(Brightness()), 256, (1, 2, 2), classes=2)
    loop = BareLoop(attack="PGD", settings={"eps": 0.15, "step_size": 0.05, "steps": 10})
    moved = loop.prepare(task)(DARK, ZERO)
    assert torch.allclose(moved, DARK + 0.15)


def entry(distance: list[float | None], seconds: float, required: float | None) -> dict[str, Any]:
    """A contestant's measurements; all take whole seconds for their images."""
    return {
        "name": f"{required}",
        "required_ratio": required,
        "images": len(distance),
        "seconds": [seconds * len(distance)] * 3,
        "distance": distance,
        "skipped": "",
        "beyond_eps": 0,
        "outside_box": 0,
        "not_finite": 0,
    }


def record(*contestants: dict[str, Any], kind: str = "minimum", slack: float = 0.0) -> Any:
    """A record of a row."""
    return {
        "row": "row",
        "order": 0,
        "smoke": False,
        "rounds": 3,
        "kind": kind,
        "title": "An attack",
        "network": "madry",
        "images": 4,
        "norm": "l2",
        "slack": slack,
        "note": "",
        "contestants": list(contestants),
        "machine": {"processor": "p", "cores": 2, "threads": 1, "device": "cpu"},
        "versions": {"python": "3"},
    }


def test_a_median_counts_failures_as_infinitely_far() -> None:
    """And an even number of images of which half fail has none."""
    assert median_distance([1.0, 2.0, None]) == 2.0
    assert median_distance([1.0, None]) == float("inf")


def test_strength_is_compared_on_the_images_that_both_attacked() -> None:
    """The peer saw the first two images only."""
    ours, peer = entry([1.0, 1.2, 9.0, 9.0], 1, None), entry([1.1, 1.3], 2, 2)
    assert as_strong(record(ours, peer), ours, peer)
    assert met(record(ours, peer), ours, peer) == "yes"


def test_met_says_what_is_missing() -> None:
    """Speed, strength, or both; a median may exceed by the slack only, a failure never."""
    ours = entry([1.0, 1.0, 1.0], 1.0, None)
    slow, strong = entry([1.0] * 3, 1.4, 1.5), entry([0.995] * 3, 2.0, 1.5)
    assert met(record(ours, slow), ours, slow) == "no: speed"
    assert met(record(ours, strong), ours, strong) == "no: strength"
    assert met(record(ours, strong, slack=0.01), ours, strong) == "yes"
    failing = entry([0.5, 0.5, None], 1.0, None)
    other = entry([1.0] * 3, 1.0, 1.5)
    assert met(record(failing, other, slack=0.01), failing, other) == "no: speed and strength"
    assert met(record(ours, failing), ours, failing) == "—"


def test_a_bounded_row_compares_robust_accuracy() -> None:
    """However far the images moved."""
    ours, peer = entry([0.3, 0.3, None], 1.0, None), entry([0.1, None, None], 3.0, 2)
    assert met(record(ours, peer, kind="bounded"), ours, peer) == "yes"
    better = entry([0.1, 0.1, 0.1], 3.0, 2)
    assert met(record(ours, better, kind="bounded"), ours, better) == "no: strength"


def test_the_table_comes_from_the_files_alone(tmp_path: Path) -> None:
    """Ratios, requirements and reasons; what is not finite survives the file."""
    ours, peer = entry([1.0, 1.0, 1.0, None], 0.5, None), entry([1.0, 1.0, None, None], 1.5, 2)
    absent = entry([], 1.0, 2) | {"images": 0, "seconds": [], "skipped": "broken\n| pipe"}
    save_record(tmp_path / "row.json", record(ours, peer, absent))
    text = table_of(tmp_path)
    assert "| 1.5 | 3.00 | median l2 inf, 50.0 % fooled | 2 | yes |" in text
    assert "not run: broken / pipe" in text
    assert "\n|  | 2 | — | — |" in text


def test_lists_of_numbers_stay_on_one_line(tmp_path: Path) -> None:
    """A thousand distances are not a thousand lines."""
    save_record(tmp_path / "row.json", record(entry([0.5, None] * 500, 1.0, None)))
    assert len((tmp_path / "row.json").read_text().splitlines()) < 60


@pytest.mark.parametrize("smoke", [False, True])
def test_every_row_has_ours_first_and_names_of_its_own(*, smoke: bool) -> None:
    """Results are kept by these names."""
    rows = all_rows(smoke=smoke)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        names = [contestant.name for contestant in row.contestants]
        assert names[0].startswith("notsure")
        assert len(set(names)) == len(names)
