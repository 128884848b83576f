"""The page itself, made with gradio."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from notsure.data import Images
from notsure.playground import canvas
from notsure.playground.attempt import THREATS
from notsure.playground.images import ground_of
from notsure.playground.panels import STYLE, line_panel
from notsure.playground.pictures import png_url
from notsure.playground.player import Choices, Player
from notsure.playground.telling import named

TITLE = "notsure: a guard to attack"

FIRST = "PGD"
"""The attack that the page starts with."""

_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")

CSS = (
    STYLE
    + canvas.STYLE
    + """
.gradio-container { max-width: 76rem !important; margin: 0 auto !important }
#ns-gallery img { image-rendering: pixelated }
#ns-gallery .grid-container { width: 100%; grid-auto-rows: auto;
  grid-template-columns: repeat(auto-fill, minmax(4rem, 1fr)) !important }
#ns-gallery .thumbnail-item { width: 100%; height: auto; aspect-ratio: 1 }
#ns-gallery .caption-label { font-size: .7rem; padding: 0 .3rem }
@media (max-width: 760px) {
  #ns-main { flex-direction: column; flex-wrap: nowrap }
  #ns-main > * { width: 100%; min-width: 0 !important }
}
#ns-about { font-size: .85rem }
"""
)

_THREATS = {
    "oblivious: sees the bare classifier": THREATS[0],
    "white-box: sees the whole guard": THREATS[1],
}

_WELCOME = "Choose an image; then what the guard says of it is shown here, and it can be attacked."


def look() -> dict[str, Any]:
    """Theme and style, for where the page is mounted: fonts of the system, nothing from outside."""
    return {"theme": gr.themes.Default(font=_FONTS, font_mono=_MONO), "css": CSS}


def page_of(player: Player, heading: str) -> gr.Blocks:
    """The page.

    Args:
        player: what answers.
        heading: what is said of the guard, in a line.
    """
    first = player.choices(FIRST)

    def attacked(*given: Any) -> tuple[Any, str]:
        done, panel = player.attack(*given)
        # the attempt shows the image as well
        return ("" if done else gr.skip()), panel

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        chosen = gr.State(None)
        gr.Markdown(f"# {TITLE}")
        gr.HTML(value=line_panel(heading), apply_default_css=False)
        with gr.Row(elem_id="ns-main"):
            with gr.Column(scale=2, min_width=300):
                sources = _sources(player)
                attack, threat, norm, eps, seed, run, about = _settings(player, first)
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(
                    value=line_panel(_WELCOME), elem_id="ns-shown", apply_default_css=False
                )
                result = gr.HTML(value="", elem_id="ns-result", apply_default_css=False)
        for event, call, given in sources:
            event(call, given, [chosen, shown, result], **_QUIET)
        attack.input(
            lambda name: _changed(player.choices(name)), [attack], [norm, eps, about], **_QUIET
        )
        norm.input(
            lambda name, other: _range(player.choices(name, other)), [attack, norm], eps, **_QUIET
        )
        run.click(attacked, [chosen, attack, norm, eps, threat, seed], [shown, result], **_QUIET)
    return page


_QUIET: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "guard"}
"""Of every event: no programming interface, and one at a time."""


def _sources(player: Player) -> list[tuple[Any, Any, Any]]:
    """Where images come from: the events, what they call, and what that is given."""
    found: list[tuple[Any, Any, Any]] = []

    def picked(event: gr.SelectData) -> tuple[Any, str, str]:
        return *player.pick(int(event.index)), ""

    def uploaded(path: str | None) -> tuple[Any, str, str]:
        return *player.upload(path), ""

    def drawn(url: str | None) -> tuple[Any, str, str]:
        return *player.draw(url), ""

    with gr.Tabs():
        if player.images is not None:
            with gr.Tab("Pick"):
                gallery = gr.Gallery(
                    value=_pictures(player.images, player.frame.names),
                    columns=6,
                    height=330,
                    object_fit="contain",
                    format="png",
                    allow_preview=False,
                    interactive=False,
                    show_label=False,
                    buttons=[],
                    elem_id="ns-gallery",
                )
                found.append((gallery.select, picked, None))
        with gr.Tab("Draw"):
            template, script = canvas.canvas_of(player.frame.shape, ground_of(player.images))
            drawing = gr.HTML(
                value="", html_template=template, js_on_load=script, apply_default_css=False
            )
            use = gr.Button("Use the drawing", elem_id="ns-use")
            found.append((use.click, drawn, drawing))
        with gr.Tab("Upload"):
            file = gr.File(
                label="An image file", file_count="single", type="filepath", elem_id="ns-file"
            )
            found.append((file.upload, uploaded, file))
    return found


def _settings(player: Player, first: Choices) -> tuple[Any, ...]:
    attack = gr.Dropdown(list(player.offers), value=FIRST, label="Attack", elem_id="ns-attack-name")
    about = gr.Markdown(first.about, elem_id="ns-about")
    threat = gr.Radio(
        list(_THREATS.items()), value=THREATS[0], label="The attacker", elem_id="ns-threat"
    )
    norm = gr.Radio(list(first.norms), value=first.norms[0], label="Norm", elem_id="ns-norm")
    eps = gr.Slider(
        label="eps, in pixel units of [0,1]", elem_id="ns-eps", **_slider(first), interactive=True
    )
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="ns-seed")
    run = gr.Button("Attack", variant="primary", elem_id="ns-run")
    return attack, threat, norm, eps, seed, run, about


def _slider(choices: Choices) -> dict[str, Any]:
    if choices.range is None:
        return {"visible": False}
    own = choices.range
    return {
        "minimum": 0,
        "maximum": own.most,
        "value": own.usual,
        "step": own.step,
        "visible": True,
    }


def _range(choices: Choices) -> Any:
    return gr.update(**_slider(choices))


def _changed(choices: Choices) -> tuple[Any, Any, Any]:
    several = len(choices.norms) > 1
    norm = gr.update(choices=list(choices.norms), value=choices.norms[0], visible=several)
    return norm, _range(choices), choices.about


def _pictures(images: Images, names: Sequence[str]) -> list[tuple[Image.Image, str]]:
    found: list[tuple[Image.Image, str]] = []
    for image, label in zip(images.x, images.labels.tolist(), strict=True):
        content = base64.b64decode(png_url(image).partition(",")[2])
        found.append((Image.open(io.BytesIO(content)), named(label, names)))
    return found
