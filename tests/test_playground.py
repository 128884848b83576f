"""What the playground computes and shows, without a page."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import notsure as ns
from notsure.attacks import FGSM, PGD, MinimumNormAttack
from notsure.core.errors import (
    ConfigurationError,
    DataError,
    InputError,
    NotSureError,
    UnsupportedError,
)
from notsure.core.state import seeded
from notsure.core.target import NOT_SURE
from notsure.playground import attempt, judgement_of
from notsure.playground.canvas import canvas_of
from notsure.playground.images import canvas_scale, drawn, ground_of, picked, uploaded
from notsure.playground.judgement import purified
from notsure.playground.offers import offers, range_of
from notsure.playground.panels import attempt_panel, chosen_panel, error_panel
from notsure.playground.pictures import difference, place_of, png_url
from notsure.playground.player import Player
from notsure.playground.telling import named, settings, summary
from notsure.purifiers import MagNet, PuVAE
from notsure.training import Recipe
from tests.playing import FRAME, NAMES, SHAPE, Halves, guard_of, image, pictures
from tests.served import encoded
from tests.toys import images as random_images


def decoded(url: str) -> np.ndarray:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def url_of(pixels: np.ndarray) -> str:
    content = base64.b64encode(encoded(Image.fromarray(pixels))).decode()
    return f"data:image/png;base64,{content}"


# what a guard says of one image


def test_a_judgement_tells_score_threshold_and_how_far_apart_they_are() -> None:
    found = judgement_of(guard_of(0.6), image(0.8, 0.6))
    (reading,) = found.readings
    assert (reading.detector, reading.threshold) == ("brightness", 0.6)
    assert reading.score == pytest.approx(0.7, abs=1e-6)
    assert reading.excess == pytest.approx((0.7 - 0.6) / 0.3, abs=1e-5)
    assert reading.flagged
    assert found.flagging == ("brightness",)
    assert (found.label, found.prediction, found.bare) == (NOT_SURE, 1, 1)


def test_an_image_at_the_threshold_is_not_flagged() -> None:
    found = judgement_of(guard_of(0.5), image(0.5, 0.5))
    assert found.readings[0].excess == 0
    assert not found.readings[0].flagged
    assert found.label == 0


def test_one_image_at_a_time() -> None:
    with pytest.raises(InputError, match="One image at a time"):
        judgement_of(guard_of(), image(0.1, 0.2).repeat(2, 1, 1, 1))


def test_a_puvae_shows_every_candidate_and_the_nearest() -> None:
    x = random_images(40, SHAPE, seed=3).float()
    y = torch.arange(40) % 2
    purifier = PuVAE(latent=2, width=2, dense=8)
    recipe = Recipe(epochs=1, optimizer="adamw", batch_size=20)
    purifier.fit((x, y), classifier=ns.Classifier(Halves()), recipe=recipe, progress=False)
    found = purified(purifier, x[:1])
    candidates = found.candidates
    assert candidates is not None
    assert candidates.images.shape == (2, *SHAPE)
    errors = (candidates.images - x[0]).square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.allclose(candidates.errors, errors)
    assert candidates.chosen == int(errors.argmin())
    assert torch.allclose(found.image, candidates.images[candidates.chosen], atol=1e-6)
    assert (found.purifier, found.detector, found.stochastic) == ("PuVAE", None, False)

    guard = ns.Guard(ns.Classifier(Halves()), purifier=purifier)
    frame = FRAME
    done = attempt(guard, x[:1], FGSM(eps=0.3), label=int(y[0]))
    panel = attempt_panel(done, frame)
    assert panel.count('class="coarse chosen"') == 2
    assert "What PuVAE makes of it" in panel


def test_a_purifier_that_draws_is_shown_by_one_draw_that_the_image_decides() -> None:
    x = random_images(40, SHAPE, seed=3).float()
    purifier = MagNet(count=3)
    recipe = Recipe(epochs=1, optimizer="adamw", batch_size=20)
    purifier.fit((x, torch.zeros(40, dtype=torch.int64)), recipe=recipe, progress=False)
    first = purified(purifier, x[:1])
    with seeded(99):
        again = purified(purifier, x[:1])
    assert first.stochastic
    assert torch.equal(first.image, again.image)
    assert first.candidates is None


# attempts


def test_fgsm_against_the_bare_classifier_moves_each_half_by_eps() -> None:
    done = attempt(guard_of(0.9), image(0.6, 0.4), FGSM(eps=0.2), label=1)
    assert done.succeeded
    assert done.outcome == "fooled"
    assert torch.allclose(done.after.image, image(0.4, 0.6)[0], atol=1e-6)
    assert float(done.adversarial.distance["linf"]) == pytest.approx(0.2, abs=1e-6)
    assert float(done.adversarial.distance["l2"]) == pytest.approx(0.2 * 4, abs=1e-5)
    assert (done.before.label, done.after.label) == (1, 0)


def test_an_attack_that_finds_nothing_leaves_the_image() -> None:
    done = attempt(guard_of(0.9), image(0.6, 0.4), FGSM(eps=0.05), label=1)
    assert not done.succeeded
    assert done.outcome == "held"
    assert not done.untouched
    assert torch.equal(done.after.image, done.before.image)
    assert "found no image within linf 0.05" in " ".join(summary(done, NAMES))


def test_an_image_that_is_wrong_already_is_not_changed() -> None:
    done = attempt(guard_of(0.9), image(0.6, 0.4), FGSM(eps=0.2), label=0)
    assert done.untouched
    assert "is wrong about this image as it is" in summary(done, NAMES)[0]


def test_what_fools_the_classifier_may_be_rejected() -> None:
    # the attack keeps the mean, which is above the threshold before and after
    done = attempt(guard_of(0.3), image(0.6, 0.4), FGSM(eps=0.2), label=1)
    assert done.outcome == "rejected"
    told = " ".join(summary(done, NAMES))
    assert "NOT SURE: brightness is above the threshold" in told
    assert "rejects the clean image too" in told


def test_a_white_box_attack_has_to_be_accepted_as_well() -> None:
    guard = guard_of(0.45)
    x = image(0.6, 0.4)
    assert judgement_of(guard, x).label == NOT_SURE
    done = attempt(guard, x, PGD(eps=0.3, steps=40, restarts=3), threat="white-box", label=1)
    assert done.outcome == "fooled"
    assert done.after.label == 0
    assert done.after.readings[0].score <= 0.45
    assert "no detector objects" in " ".join(summary(done, NAMES))


def test_without_a_label_the_attack_goes_away_from_what_its_target_says() -> None:
    known = attempt(guard_of(0.9), image(0.2, 0.4), FGSM(eps=0.2), label=0)
    unknown = attempt(guard_of(0.9), image(0.2, 0.4), FGSM(eps=0.2))
    assert (unknown.label, unknown.label_known) == (0, False)
    assert torch.equal(known.after.image, unknown.after.image)
    assert summary(unknown, NAMES)[-1].startswith("Nobody told the true label")
    assert len(summary(known, NAMES)) == 2


def test_other_threats_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="oblivious or white-box"):
        attempt(guard_of(), image(0.1, 0.2), FGSM(), threat="transfer")


def test_the_settings_that_are_told_are_those_that_ran() -> None:
    # against a guard that rejects, an oblivious attack does not stop at the boundary
    done = attempt(guard_of(0.9), image(0.6, 0.4), PGD(eps="8/255", steps=3))
    told = settings(done.attack)
    assert told.startswith("PGD(")
    assert "early_stop=False" in told
    assert "eps=0.03137" in told
    assert "steps=3" in told


# the attacks on offer


def test_what_the_page_promises_is_on_offer() -> None:
    found = offers()
    for name in ("FGSM", "BIM", "PGD", "MIM", "C&W", "DeepFool", "Square"):
        assert name in found
    for offer in found.values():
        for norm in offer.norms:
            built = offer.build(norm, 0.1 if offer.bounded else None)
            assert (built.budget is not None) == offer.bounded
            assert getattr(built, "norm", norm) == norm


def test_minimum_norm_attacks_have_no_eps_and_bounded_ones_need_one() -> None:
    found = offers()
    assert not found["C&W"].bounded
    assert isinstance(found["DeepFool"].build("linf", None), MinimumNormAttack)
    with pytest.raises(ConfigurationError, match="give an eps"):
        found["PGD"].build("linf", None)
    with pytest.raises(ConfigurationError, match="not defined in l1"):
        found["Square"].build("l1", 0.1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)])
def test_the_usual_eps_lies_within_its_range(shape: tuple[int, int, int]) -> None:
    for norm in ("linf", "l2", "l1"):
        own = range_of(norm, shape)
        assert 0 < own.usual <= own.most
        assert own.usual / own.step == pytest.approx(round(own.usual / own.step))
    assert range_of("linf", shape).most <= 1
    with pytest.raises(ConfigurationError, match="l0"):
        range_of("l0", shape)


def test_every_attack_answers_but_those_that_need_a_detector() -> None:
    player = Player(guard_of(0.9), FRAME, images=pictures())
    chosen, _ = player.pick(0)
    for name, offer in player.offers.items():
        for threat in ("oblivious", "white-box"):
            eps = 0.2 if offer.bounded else None
            done, panel = player.attack(chosen, name, None, eps, threat, 0)
            assert done == ('id="ns-attempt"' in panel)
            if threat == "oblivious" and name in ("SelectivePGD", "OrthogonalPGD"):
                assert "rejects nothing" in panel
            else:
                assert 'id="ns-attempt"' in panel, (name, threat, panel)


# images


def test_a_picked_image_brings_its_label() -> None:
    chosen = picked(pictures(), 1)
    assert chosen.label == 0
    assert torch.equal(chosen.x, pictures().x[1:2])
    with pytest.raises(InputError, match="0 to 3"):
        picked(pictures(), 4)


def test_an_upload_is_brought_to_the_guards_size_and_told() -> None:
    content = encoded(Image.new("RGB", (12, 8), (255, 255, 255)))
    chosen = uploaded(content, SHAPE)
    assert chosen.x.shape == (1, *SHAPE)
    assert chosen.label is None
    assert float(chosen.x.min()) == 1.0
    assert "8 x 12 pixels" in chosen.notes[0]
    assert uploaded(encoded(Image.new("L", (4, 4), 51)), SHAPE).notes == ()


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not an image at all" * 9])
def test_what_is_no_image_is_refused_with_the_remedy(content: bytes) -> None:
    with pytest.raises(DataError, match=r"not taken.*Give a PNG"):
        uploaded(content, SHAPE)


def test_each_block_of_the_canvas_becomes_a_pixel() -> None:
    scale = canvas_scale(SHAPE)
    assert 240 <= 4 * scale <= 320
    levels = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    chosen = drawn(url_of(levels.repeat(scale, 0).repeat(scale, 1)), SHAPE)
    assert np.array_equal((chosen.x[0, 0] * 255).round().numpy(), levels)
    assert chosen.label is None


def test_an_empty_or_damaged_drawing_is_told() -> None:
    for url in ("", None, url_of(np.zeros((40, 40), np.uint8))):
        with pytest.raises(InputError, match="Nothing is drawn"):
            drawn(url, SHAPE)
    for url in ("https://example.org/x.png", "data:image/png;base64,%%%"):
        with pytest.raises(DataError, match="reload the page"):
            drawn(url, SHAPE)


def test_a_drawing_starts_from_the_grounds_of_the_data() -> None:
    assert ground_of(None) == 0
    dark = pictures()
    assert ground_of(dark) == 0
    bright = ns.data.Images(255 - dark.pixels // 4, dark.labels, dark.class_names)
    assert ground_of(bright) == 255
    _, script = canvas_of(SHAPE, 255)
    assert 'brush.fillStyle = "#ffffff"' in script
    template, script = canvas_of((3, 28, 56), 0)
    assert 'width="280" height="140"' in template
    assert 'type="color"' in template
    assert "@" not in template + script


# pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_the_image_in_eight_bits(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(channels, 5, 7, generator=generator)
    found = decoded(png_url(x)).reshape(5, 7, channels).transpose(2, 0, 1)
    assert np.array_equal(found, np.rint(255 * x.double().numpy()))


def test_the_difference_is_grey_where_nothing_changed_and_full_where_most_did() -> None:
    clean = torch.full((1, 2, 2), 0.5)
    other = clean.clone()
    other[0, 0, 0] += 0.1
    other[0, 1, 1] -= 0.05
    found, gain = difference(clean, other)
    assert gain == pytest.approx(5, rel=1e-5)
    assert torch.allclose(found, torch.tensor([[[1.0, 0.5], [0.5, 0.25]]]).double(), atol=1e-6)
    same, none = difference(clean, clean)
    assert none == 0
    assert torch.equal(same, torch.full((1, 2, 2), 0.5).double())


def test_every_score_has_a_place_on_the_scale() -> None:
    assert place_of(0) == 0.5
    assert place_of(-1) == 0.25
    assert place_of(math.inf) == 1
    assert place_of(-math.inf) == 0
    places = [place_of(value) for value in (-1e9, -3, -1, -0.2, 0, 0.2, 1, 3, 1e9)]
    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= 1


# words and panels


def test_labels_are_shown_by_name_with_their_number() -> None:
    assert named(1, NAMES) == "bright (1)"
    assert named(3, ("0", "1", "2", "3")) == "3"
    assert named(NOT_SURE, NAMES) == "NOT SURE"
    assert named(7, NAMES) == "7"


def test_a_panel_shows_the_pictures_it_speaks_of() -> None:
    done = attempt(guard_of(0.45), image(0.6, 0.4), FGSM(eps=0.2), label=1)
    panel = attempt_panel(done, FRAME)
    urls = re.findall(r'src="(data:[^"]+)"', panel)
    assert len(urls) == 3
    for url, x in zip(urls, (done.before.image, done.after.image), strict=False):
        assert np.array_equal(decoded(url), np.rint(255 * x[0].double().numpy()))
    assert "amplified 2.5 times" in panel
    assert panel.count('alt="') == 3
    # the clean median is at a quarter: the mean is 0.5, the threshold 0.45, the scale 0.225
    place = 100 * (0.5 + 0.5 * (0.05 / 0.225) / (1 + 0.05 / 0.225))
    assert re.findall(r"left:([\d.]+)%", panel) == [f"{place:.1f}"] * 2
    assert "http" not in panel


def test_class_names_and_messages_are_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    frame = type(FRAME)(shape=SHAPE, names=(evil, evil), rule="any", corrects=False)
    done = attempt(guard_of(), image(0.6, 0.4), FGSM(eps=0.2))
    chosen = picked(pictures(), 0)
    for panel in (
        attempt_panel(done, frame),
        chosen_panel(chosen, done.before, frame),
        error_panel(evil),
    ):
        assert evil not in panel
        assert "&lt;img" in panel


# what happens when something is pressed


def test_errors_are_messages_with_cause_and_remedy(tmp_path: Path) -> None:
    player = Player(guard_of(), FRAME)
    file = tmp_path / "x.png"
    file.write_bytes(b"no image")
    chosen, panel = player.upload(file)
    assert chosen is None
    assert "That did not work" in panel
    assert "Give a PNG" in panel
    assert "Traceback" not in panel
    done, panel = player.attack(None, "PGD", "linf", 0.1, "oblivious", 0)
    assert not done
    assert "pick, draw or upload one first" in panel
    given = picked(pictures(), 0)
    assert "whole number" in player.attack(given, "PGD", "linf", 0.1, "oblivious", None)[1]
    assert "There is no attack" in player.attack(given, "XYZ", "linf", 0.1, "oblivious", 0)[1]
    assert "start with --data" in player.pick(0)[1]


def test_what_breaks_is_told_without_a_stack_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    player = Player(guard_of(), FRAME, images=pictures())

    def broken(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("notsure.playground.player.judgement_of", broken)
    chosen, panel = player.pick(0)
    assert chosen is None
    assert "Something broke" in panel
    assert "Traceback" not in panel
    assert "the playground failed" in caplog.text


def test_an_image_that_the_guard_has_seen_is_pointed_out() -> None:
    guard = guard_of()
    guard.seen["fit"] = pictures().content_keys().sort().values
    _, panel = Player(guard, FRAME, images=pictures()).pick(0)
    assert "has seen this image in its fit" in panel
    _, panel = Player(guard_of(), FRAME, images=pictures()).pick(0)
    assert "has seen this image" not in panel


def test_choices_follow_the_attack() -> None:
    player = Player(guard_of(), FRAME)
    assert player.choices("PGD").norms == ("linf", "l2", "l1")
    assert player.choices("C&W").range is None
    assert "no eps" in player.choices("C&W").about
    assert player.choices("PGD", "l2").range == range_of("l2", SHAPE)
    # the norm that was set before may not be one of the new attack's
    assert player.choices("Square", "l1").range == range_of("linf", SHAPE)


def test_an_attack_that_does_not_apply_says_what_does() -> None:
    guard = ns.Guard(ns.Classifier(Halves())).eval()
    with pytest.raises(UnsupportedError):
        attempt(guard, image(0.6, 0.4), offers()["SelectivePGD"].build("linf", 0.1))
    done, panel = Player(guard, FRAME, images=pictures()).attack(
        picked(pictures(), 0), "SelectivePGD", "linf", 0.1, "white-box", 0
    )
    assert not done
    assert 'role="alert"' in panel
    assert issubclass(UnsupportedError, NotSureError)
