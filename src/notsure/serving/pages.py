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
:root { color-scheme: light dark; --text: #1b1f24; --page: #fff; --shade: #f3f4f6; --line: #d0d7de;
  --link: #0550ae }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --shade: #21262d;
  --line: #3d444d; --link: #79b8ff } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page) }
a { color: var(--link) }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: var(--shade); border-radius: 4px;
  padding: .1em .3em; overflow-wrap: anywhere }
pre { overflow-x: auto; padding: .6em .8em }
h1 { font-size: 1.75rem } h2 { margin-top: 2rem; font-size: 1.1rem }
table { border-collapse: collapse }
td { padding: .2rem .8rem .2rem 0; vertical-align: baseline }
#items { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr));
  gap: 1.5rem 1rem }
figure { margin: 0 } figcaption { font-size: .85rem; margin: .3rem 0 }
img { width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line);
  border-radius: 4px }
form { display: flex; flex-wrap: wrap; gap: .4rem } [hidden] { display: none }
button, input { font: inherit; padding: .2rem .6rem } input[type=number] { width: 4rem }
@media (max-width: 40rem) { td { display: block; padding: 0 } td + td { padding-bottom: .7rem } }
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
<p><button id="take">Take what is labelled</button> (an .npz file that notsure.data.load reads)</p>
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
function told(item, thresholds) {
  const guess = item.prediction === null ? [] : [`taken for ${item.prediction}`];
  const times = item.times === 1 ? "seen once" : `seen ${item.times} times`;
  const scores = Object.entries(item.scores || {}).map(([name, score]) =>
    `${name} ${score.toPrecision(4)}, threshold ${thresholds[name].toPrecision(4)}`);
  return [[`Item ${item.id}`, times, ...guess].join(", "), ...scores].join("; ");
}
async function add(item, guard) {
  const picture = document.createElement("img");
  picture.alt = `Item ${item.id}`;
  [picture.height, picture.width] = guard.shape.slice(1);
  picture.onload = () => URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(await (await ask(`/review/${item.id}/image`)).blob());
  const caption = document.createElement("figcaption");
  caption.textContent = told(item, guard.thresholds);
  const form = document.createElement("form");
  form.innerHTML = `<input type="number" min="0" required
    max="${guard.num_classes - 1}" aria-label="Class"> <button>Label</button>
    <button type="button">Nobody can tell</button>`;
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
    for (const item of found.items) await add(item, guard);
  } catch (error) { if (error.message !== "key") named("counts").textContent = error.message; }
}
named("take").onclick = async () => {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await ask("/review/export")).blob());
    link.download = "review.npz";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { if (error.message !== "key") named("counts").textContent = error.message; }
};
named("door").onsubmit = (event) => { event.preventDefault(); key = named("key").value; show(); };
show();
</script></html>
"""
)

_EXAMPLES = """<h2>For example</h2>
<p><code>URL</code> is the address of this service.</p>
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
