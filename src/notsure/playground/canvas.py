"""A canvas to draw on, for touch, pen and mouse, without anything from outside."""

from __future__ import annotations

from notsure.playground.images import canvas_scale
from notsure.purifiers.base import Shape

TEMPLATE = """<div class="ns-canvas"><canvas width="@width" height="@height" tabindex="0"
 role="img" aria-label="Canvas to draw on"></canvas><div class="tools">
<label>brush <input type="range" class="size" min="1" max="@most" step="0.5" value="@usual"></label>
@colours<button type="button" class="clear">Clear</button></div></div>"""

_COLOUR = '<label>colour <input type="color" class="colour" value="@ink"></label>'

STYLE = """
.ns-canvas canvas { width: 100%; max-width: 20rem; display: block; touch-action: none;
  border: 1px solid var(--border-color-primary); border-radius: 6px; cursor: crosshair }
.ns-canvas .tools { display: flex; flex-wrap: wrap; gap: .8rem; align-items: center;
  margin-top: .5rem; font-size: .9rem; color: var(--body-text-color) }
.ns-canvas button { border: 1px solid var(--border-color-primary); border-radius: 6px;
  padding: .3rem .8rem; background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); cursor: pointer }
"""

SCRIPT = """
const canvas = element.querySelector("canvas"), brush = canvas.getContext("2d");
const size = element.querySelector(".size"), colour = element.querySelector(".colour");
const clear = () => { brush.fillStyle = "@ground";
  brush.fillRect(0, 0, canvas.width, canvas.height); props.value = ""; };
const at = (event) => { const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width,
          (event.clientY - box.top) * canvas.height / box.height]; };
let last = null;
const stroke = (to) => { brush.lineCap = brush.lineJoin = "round";
  brush.strokeStyle = colour ? colour.value : "@ink"; brush.lineWidth = size.value * @scale;
  brush.beginPath(); brush.moveTo(...last); brush.lineTo(...to); brush.stroke(); last = to; };
canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId);
  last = at(event); stroke(last); });
canvas.addEventListener("pointermove", (event) => { if (last) stroke(at(event)); });
const end = () => { if (last) { last = null; props.value = canvas.toDataURL("image/png"); } };
canvas.addEventListener("pointerup", end); canvas.addEventListener("pointercancel", end);
element.querySelector(".clear").addEventListener("click", clear);
clear();
"""


def canvas_of(shape: Shape, ground: int) -> tuple[str, str]:
    """The HTML and the script of a canvas that becomes an image of this shape.

    Args:
        shape: channels, height and width.
        ground: the grey level 0..255 that a drawing starts from; the brush is its opposite.
    """
    channels, rows, columns = shape
    scale = canvas_scale(shape)
    ink, paper = ("#ffffff", "#000000") if ground < 128 else ("#000000", "#ffffff")
    longer = max(rows, columns)
    values = {
        "@colours": _COLOUR if channels == 3 else "",
        "@width": str(columns * scale),
        "@height": str(rows * scale),
        "@most": f"{max(2.0, longer / 5):g}",
        "@usual": f"{max(1.0, round(longer / 12 * 2) / 2):g}",
        "@scale": str(scale),
        "@ground": paper,
        "@ink": ink,
    }
    return _filled(TEMPLATE, values), _filled(SCRIPT, values)


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text
