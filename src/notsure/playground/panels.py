"""The parts of the page that show an image and what is said of it, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment

from notsure.core.target import NOT_SURE
from notsure.playground.attempt import Attempt
from notsure.playground.images import Chosen
from notsure.playground.judgement import Judgement, Purification
from notsure.playground.pictures import difference, place_of, png_url
from notsure.playground.telling import costs, named, settings, summary
from notsure.purifiers.base import Shape

_COARSE = 100
"""Images of fewer pixels a side are shown with their pixels as squares."""

STYLE = """
.ns { color: var(--body-text-color); font-size: 1rem; line-height: 1.45; --ns-mark: #2f6fde;
  --ns-line: var(--border-color-primary); --ns-over: #b3261e }
.dark .ns { --ns-over: #ff8a80; --ns-mark: #7aa5ff }
.ns h3 { font-size: 1.05rem; font-weight: 600; margin: 1.2rem 0 .4rem; color: inherit }
.ns p { margin: .2rem 0 }
.ns .small { font-size: .85rem; opacity: .85; overflow-wrap: anywhere }
.ns .verdict { font-weight: 600 }
.ns .images { display: flex; flex-wrap: wrap; gap: .8rem }
.ns figure { margin: 0; flex: 1 1 8.5rem; max-width: 15rem; min-width: 0 }
.ns figure img { width: 100%; display: block; border-radius: 6px; border: 1px solid var(--ns-line) }
.ns .coarse img { image-rendering: pixelated }
.ns figcaption { font-size: .9rem; margin-top: .25rem; overflow-wrap: anywhere }
.ns .candidates { display: flex; flex-wrap: wrap; gap: .3rem; margin-bottom: .6rem }
.ns .candidates figure { flex: 0 0 3.1rem; padding: 3px; border-radius: 8px }
.ns .candidates .chosen { outline: 3px solid var(--ns-mark) }
.ns .candidates figcaption { font-size: .75rem; text-align: center }
.ns .candidates .small { font-size: .75rem }
.ns .outcome { border-left: 5px solid var(--ns-mark); padding: .5rem .8rem; margin: 0 0 .8rem;
  background: var(--background-fill-secondary); border-radius: 4px }
.ns .outcome p:first-child { font-weight: 600 }
.ns .fooled { --ns-mark: #d1443a } .ns .error { --ns-mark: #c77700 }
.ns .rejected, .ns .right { --ns-mark: #1d8a4e }
.ns table { border-collapse: collapse; width: 100%; max-width: 48rem; font-size: .92rem }
.ns th, .ns td { text-align: left; padding: .3rem .6rem .3rem 0; vertical-align: middle;
  border-bottom: 1px solid var(--ns-line) }
.ns th { font-weight: 600 }
.ns td.number, .ns th.number { text-align: right; font-variant-numeric: tabular-nums;
  padding-right: 0; padding-left: .6rem }
.ns .over { color: var(--ns-over); font-weight: 600 }
.ns .track { position: relative; height: 1.5rem; min-width: 5rem; border-radius: 4px;
  background: linear-gradient(90deg, #1d8a4e40 0 50%, #d1443a40 50% 100%) }
.ns .track i { position: absolute; top: 0; bottom: 0; left: 50%;
  border-left: 2px solid var(--body-text-color) }
.ns .track b { position: absolute; top: 50%; width: .8rem; height: .8rem; border-radius: 50%;
  transform: translate(-50%, -50%); border: 2px solid var(--body-text-color) }
.ns .track .after { background: var(--body-text-color) }
@media (max-width: 600px) {
  .ns figure { flex-basis: 5rem }
  .ns .scores thead { display: none }
  .ns .scores tr { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .4rem 0;
    border-bottom: 1px solid var(--ns-line) }
  .ns .scores td { border: 0; padding: 0 }
  .ns .scores td.name, .ns .scores td.scale { flex: 1 0 100% }
  .ns .scores td.number::before { content: attr(data-name) " "; font-weight: 400; opacity: .85 }
}
"""
"""Of all panels; colours come from the page's theme, light or dark."""

_MACROS = """
{% macro figure(picture) %}<figure class="{{ picture.kind }}"><img src="{{ picture.url }}"
 alt="{{ picture.alt }}"><figcaption>{% if picture.title %}{{ picture.title }}{% endif %}
{% if picture.verdict %}<div class="verdict">{{ picture.verdict }}</div>{% endif %}
{% if picture.note %}<div class="small">{{ picture.note }}</div>{% endif %}</figcaption></figure>
{% endmacro %}
{% macro scores(table) %}{% if table.rows %}<h3>Detectors</h3>
<table class="scores"><thead><tr><th>detector</th><th>on a scale</th>
{% for name in table.columns %}<th class="number">{{ name }}</th>{% endfor %}
<th class="number">threshold</th></tr></thead><tbody>
{% for row in table.rows %}<tr><td class="name">{{ row.name }}</td>
<td class="scale"><div class="track" role="img" aria-label="{{ row.alt }}"><i></i>
{% for mark in row.marks %}<b class="{{ mark.kind }}" style="left:{{ mark.left }}%"></b>
{% endfor %}</div></td>
{% for value in row.cells %}<td class="number{% if value.over %} over{% endif %}"
 data-name="{{ value.name }}">{{ value.shown }}
{% if value.over %}<span class="small"> above</span>{% endif %}</td>{% endfor %}
<td class="number" data-name="threshold">{{ row.threshold }}</td></tr>{% endfor %}</tbody></table>
<p class="small">The line is the threshold, the median clean image is half-way to the left end; the
 scale is squeezed so that every score is on it.{% if table.columns|length > 1 %} Ring: clean; disc:
 adversarial.{% endif %} {{ table.rule }}</p>{% else %}<p class="small">{{ table.none }}</p>
{% endif %}{% endmacro %}
{% macro purified(parts) %}{% for part in parts %}<h3>{{ part.title }}</h3>
<p class="small">{{ part.note }}</p><div class="images">
{% for picture in part.pictures %}{{ figure(picture) }}{% endfor %}</div>
{% for row in part.candidates %}<p class="small">{{ row.title }}</p><div class="candidates">
{% for picture in row.pictures %}{{ figure(picture) }}{% endfor %}</div>{% endfor %}
{% endfor %}{% endmacro %}
"""

_ATTEMPT = """<div class="ns" id="ns-attempt"><div class="outcome {{ outcome }}" role="status">
{% for sentence in told %}<p>{{ sentence }}</p>{% endfor %}</div>
<div class="images">{% for picture in pictures %}{{ figure(picture) }}{% endfor %}</div>
{{ scores(table) }}
<h3>What it took</h3><table><tbody>{% for name, value in costs %}<tr><td>{{ name }}</td>
<td>{{ value }}</td></tr>{% endfor %}</tbody></table><p class="small">{{ settings }}</p>
{{ purified(parts) }}</div>"""

_CHOSEN = """<div class="ns" id="ns-chosen"><div class="images">{{ figure(picture) }}</div>
{% for note in notes %}<p class="small">{{ note }}</p>{% endfor %}{{ scores(table) }}</div>"""

_ERROR = """<div class="ns"><div class="outcome error" role="alert"><p>{{ title }}</p>
<p>{{ message }}</p></div></div>"""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all panels of a page have in common.

    Attributes:
        shape: channels, height and width of the images.
        names: of the classes.
        rule: how the guard combines its detectors, "any" or "all".
        corrects: whether a corrector answers what is flagged.
    """

    shape: Shape
    names: tuple[str, ...]
    rule: str
    corrects: bool


@cache
def _environment() -> Environment:
    return Environment(autoescape=True)


def _rendered(template: str, **values: Any) -> str:
    return _environment().from_string(_MACROS + template).render(**values).strip()


def attempt_panel(attempt: Attempt, frame: Frame) -> str:
    """Everything about an attempt."""
    before, after = attempt.before, attempt.after
    delta, gain = difference(before.image, after.image)
    largest = 0.5 / gain if gain else 0.0
    scaled = f"amplified {gain:.3g} times; grey is no change" if gain else "nothing was changed"
    pictures = [
        _judged("Clean", before, frame, _label_note(attempt, frame)),
        _judged("Adversarial" if gain else "Adversarial: none found", after, frame),
        _picture(
            delta,
            frame,
            title="Difference",
            alt=f"Difference of the two, {scaled}",
            note=scaled + (f", white and black are {largest:.3g}" if gain else ""),
        ),
    ]
    return _rendered(
        _ATTEMPT,
        outcome=attempt.outcome,
        told=summary(attempt, frame.names),
        pictures=pictures,
        table=_table([("clean", before), ("adversarial", after)], frame),
        costs=costs(attempt),
        settings=f"{settings(attempt.attack)}, {attempt.threat} threat",
        parts=_purified([("clean", before), ("adversarial", after)], frame),
    )


def chosen_panel(chosen: Chosen, judgement: Judgement, frame: Frame, seen: str = "") -> str:
    """An image that was chosen, and what the guard says of it."""
    label = "true label not known"
    if chosen.label is not None:
        label = f"true label {named(chosen.label, frame.names)}"
    return _rendered(
        _CHOSEN,
        picture=_judged(f"The image ({chosen.origin})", judgement, frame, label),
        notes=[*chosen.notes, *([seen] if seen else [])],
        table=_table([("score", judgement)], frame),
    )


def line_panel(text: str) -> str:
    """A line of text."""
    return _rendered('<div class="ns"><p>{{ text }}</p></div>', text=text)


def error_panel(message: str, title: str = "That did not work") -> str:
    """What went wrong, with its cause and remedy."""
    return _rendered(_ERROR, title=title, message=message)


def _picture(image: Any, frame: Frame, *, alt: str, **more: str) -> dict[str, str]:
    kind = "coarse" if max(frame.shape[1:]) < _COARSE else ""
    extra = more.pop("kind", "")
    return {"url": png_url(image), "kind": f"{kind} {extra}".strip(), "alt": alt, **more}


def _judged(title: str, judgement: Judgement, frame: Frame, note: str = "") -> dict[str, str]:
    names = frame.names
    verdict = f"guard: {named(judgement.label, names)}"
    if judgement.corrected:
        verdict += " (its corrector)"
    aside = [f"bare classifier: {named(judgement.bare, names)}"]
    if judgement.label == NOT_SURE and judgement.prediction != judgement.bare:
        aside.append(f"guard before rejecting: {named(judgement.prediction, names)}")
    if note:
        aside.append(note)
    return _picture(
        judgement.image,
        frame,
        alt=f"{title}; {verdict}",
        title=title,
        verdict=verdict,
        note="; ".join(aside),
    )


def _label_note(attempt: Attempt, frame: Frame) -> str:
    if not attempt.label_known:
        return "true label not known"
    return f"true label {named(attempt.label, frame.names)}"


def _table(judged: Sequence[tuple[str, Judgement]], frame: Frame) -> dict[str, Any]:
    """The detectors' scores of one or two images."""
    rows = []
    for readings in zip(*(one.readings for _, one in judged), strict=True):
        marks = [
            {"kind": "before" if i == 0 else "after", "left": f"{100 * place_of(one.excess):.1f}"}
            for i, one in enumerate(readings)
        ]
        said = ", ".join(
            f"{name} {one.score:.4g}" for (name, _), one in zip(judged, readings, strict=True)
        )
        rows.append(
            {
                "name": readings[0].detector,
                "alt": f"{said}, threshold {readings[0].threshold:.4g}",
                "marks": marks,
                "cells": [
                    {"name": name, "shown": f"{one.score:.4g}", "over": one.flagged}
                    for (name, _), one in zip(judged, readings, strict=True)
                ],
                "threshold": f"{readings[0].threshold:.4g}",
            }
        )
    rule = ""
    if len(rows) > 1:
        rule = f"{'Any' if frame.rule == 'any' else 'Only all'} of them together flag an image."
        if frame.rule == "any":
            rule = "Any one of them flags an image."
    if frame.corrects:
        rule += " A flagged image is answered by the corrector."
    return {
        "columns": [name for name, _ in judged],
        "rows": rows,
        "rule": rule,
        "none": "This guard has no detectors: it always answers.",
    }


def _purified(judged: Sequence[tuple[str, Judgement]], frame: Frame) -> list[dict[str, Any]]:
    """What each purifier made of the images."""
    parts = []
    for each in zip(*(one.purifications for _, one in judged), strict=True):
        first = each[0]
        parts.append(
            {
                "title": f"What {first.purifier} makes of it",
                "note": _role(first),
                "pictures": [
                    _picture(
                        one.image,
                        frame,
                        alt=f"{first.purifier}'s version of the {name} image",
                        title=f"of the {name} image",
                    )
                    for (name, _), one in zip(judged, each, strict=True)
                ],
                "candidates": [
                    _candidates(name, one, frame)
                    for (name, _), one in zip(judged, each, strict=True)
                    if one.candidates is not None
                ],
            }
        )
    return parts


def _role(part: Purification) -> str:
    told = "The classifier sees these in place of the images."
    if part.detector is not None:
        told = f"{part.detector} compares the images with these."
    return told + (" It draws random numbers: these are one draw." if part.stochastic else "")


def _candidates(name: str, part: Purification, frame: Frame) -> dict[str, Any]:
    found = part.candidates
    if found is None:
        return {}
    errors = found.errors.tolist()
    pictures = []
    for label, image in enumerate(found.images):
        mine = label == found.chosen
        shown = named(label, frame.names)
        pictures.append(
            _picture(
                image,
                frame,
                kind="chosen" if mine else "",
                alt=f"The {name} image as {shown}" + (", chosen" if mine else ""),
                title=shown,
                note=f"{errors[label]:.3f}" + (" chosen" if mine else ""),
            )
        )
    return {
        "title": f"The {name} image as each class, with the root-mean-square error to it; the "
        "nearest is handed on:",
        "pictures": pictures,
    }
