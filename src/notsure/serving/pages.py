"""Two pages without anything from outside: what can be asked, and what waits for a person."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

_STYLE = """<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f3f4f6; border-radius: 4px;
  padding: .1em .3em }
h2 { margin-top: 2rem; font-size: 1.1rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; width: 11rem }
img { width: 11rem; image-rendering: pixelated; border: 1px solid #d0d7de; border-radius: 4px }
button, input { font: inherit; padding: .2rem .6rem }
figcaption { font-size: .85rem }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } code, pre { background: #21262d } }
</style>
"""

REVIEW = (
    "<!doctype html><html lang='en'><title>Waiting for a person</title>"
    + _STYLE
    + """<h1>Waiting for a person</h1>
<p id="counts" aria-live="polite"></p>
<form id="door" hidden><label>API key <input id="key" type="password" autocomplete="off"></label>
<button>Open</button></form>
<div id="items"></div>
<p><a href="/docs">What else can be asked</a></p>
<script>
"use strict";
let key = "";
const named = (id) => document.getElementById(id);
async function ask(path, options = {}) {
  const headers = {...(options.headers || {}), ...(key ? {"x-api-key": key} : {})};
  const answer = await fetch(path, {...options, headers});
  if (answer.status === 401) { named("door").hidden = false; throw new Error("key"); }
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer;
}
async function decide(item, label, figure) {
  try {
    await ask(`/review/${item.id}`, {method: "POST",
      headers: {"content-type": "application/json"}, body: JSON.stringify({label})});
    figure.remove();
    if (!named("items").children.length) show();
  } catch (error) { named("counts").textContent = error.message; }
}
async function add(item, classes) {
  const picture = document.createElement("img");
  picture.alt = `Item ${item.id}`;
  picture.src = URL.createObjectURL(await (await ask(`/review/${item.id}/image`)).blob());
  const caption = document.createElement("figcaption");
  const guess = item.prediction === null ? "" : `, taken for ${item.prediction}`;
  caption.textContent = `Item ${item.id}, seen ${item.times} times${guess}`;
  const form = document.createElement("form");
  form.innerHTML = `<input type="number" min="0" max="${classes - 1}" required size="4"
    aria-label="Class"> <button>Label</button> <button type="button">Nobody can tell</button>`;
  const figure = document.createElement("figure");
  figure.append(picture, caption, form);
  form.onsubmit = (event) => { event.preventDefault();
    decide(item, Number(form.querySelector("input").value), figure); };
  form.querySelector("[type=button]").onclick = () => decide(item, null, figure);
  named("items").append(figure);
}
async function show() {
  try {
    const guard = await (await ask("/guard")).json();
    const found = await (await ask("/review?limit=24")).json();
    named("door").hidden = true;
    named("counts").textContent = Object.entries(found.counts)
      .map(([state, count]) => `${count} ${state}`).join(", ");
    named("items").replaceChildren();
    for (const item of found.items) await add(item, guard.num_classes);
  } catch (error) { if (error.message !== "key") named("counts").textContent = error.message; }
}
named("door").onsubmit = (event) => { event.preventDefault(); key = named("key").value; show(); };
show();
</script></html>
"""
)

_EXAMPLES = """<h2>For example</h2>
<pre>curl --data-binary @image.png -H 'Content-Type: image/png' URL/judge
curl -F image=@one.png -F image=@two.png URL/judge
curl -d '{"images": [[[0.0, 0.5, ...], ...]]}' -H 'Content-Type: application/json' URL/judge
curl URL/review
curl -d '{"label": 3}' -H 'Content-Type: application/json' URL/review/1
curl -o reviewed.npz URL/review/export</pre>
<p>With an API key: <code>-H 'Authorization: Bearer KEY'</code>.</p>
"""


def documentation(description: Mapping[str, Any]) -> str:
    """A page of what can be asked, from the OpenAPI description."""
    rows = []
    for path, methods in description["paths"].items():
        for method, about in methods.items():
            told = html.escape(about.get("description", about.get("summary", "")))
            asked = f"{method.upper()} {path}"
            rows.append(f"<tr><td><code>{html.escape(asked)}</code></td><td>{told}</td></tr>")
    title, version = html.escape(description["info"]["title"]), description["info"]["version"]
    return (
        f"<!doctype html><html lang='en'><title>{title}</title>{_STYLE}"
        f"<h1>{title} {html.escape(version)}</h1>"
        f"<p>{html.escape(description['info']['description'])} "
        "Machine-readable: <a href='/openapi.json'>openapi.json</a>.</p>"
        f"<table>{''.join(rows)}</table>{_EXAMPLES}</html>"
    )
