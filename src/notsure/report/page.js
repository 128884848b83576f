"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const told = read("told");
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 700px)");
  const drawn = new Set();

  // the figures name the page's colours, "var(--ink)", and get those of the scheme
  const coloured = (value, theme) => {
    if (typeof value === "string") {
      const name = /^var\(--([\w-]+)\)$/.exec(value);
      return name && theme[name[1]] ? theme[name[1]] : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, theme));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, theme)]));
    }
    return value;
  };

  const plotOf = (id) => document.querySelector(`.plot[data-figure="${id}"]`);
  const chosen = (id) => {
    const select = document.querySelector(`select[data-figure="${id}"]`);
    return figures[id].of[select ? select.value : figures[id].names[0]];
  };

  const draw = (id) => {
    drawn.add(id);
    const plot = plotOf(id);
    const theme = dark.matches ? themes.dark : themes.light;
    const figure = coloured(chosen(id), theme);
    const layout = narrow.matches ? { ...figure.narrow, dragmode: false } : { ...figure.wide };
    layout.hoverlabel = {
      ...layout.hoverlabel,
      bgcolor: theme.raised,
      bordercolor: theme.muted,
      font: { color: theme.ink },
    };
    plot.style.minHeight = `${layout.height}px`;
    // the buttons beside the figure can be reached by keyboard, so there are none within
    return Plotly.react(plot, figure.data, layout, {
      responsive: true,
      displayModeBar: false,
      scrollZoom: false,
    });
  };

  const save = (name, text, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const saveFigure = async (id) => {
    const figure = coloured(chosen(id), themes.light);
    const layout = { ...figure.wide, paper_bgcolor: "#ffffff", autosize: false, width: 1000 };
    const size = { format: "svg", width: 1000, height: layout.height };
    const uri = await Plotly.toImage({ data: figure.data, layout }, size);
    save(`${id}.svg`, decodeURIComponent(uri.slice(uri.indexOf(",") + 1)), "image/svg+xml");
  };

  // the images of a table, with what is said of each, in the table's order
  const saveGallery = (id) => {
    const [cell, gap, left, top] = [84, 24, 130, 60];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (name, given, words = "") => {
      const part = document.createElementNS(svg.namespaceURI, name);
      Object.entries(given).forEach(([key, value]) => part.setAttribute(key, value));
      part.textContent = words;
      svg.append(part);
    };
    const write = (x, y, words, size = 12) =>
      add("text", { x, y, "font-size": size, fill: themes.light.ink }, words);
    const text = (node) => (node ? node.textContent.trim() : "");
    const table = document.querySelector(`table[data-gallery="${id}"]`);
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells]);
    const pictures = (one) => [...one.querySelectorAll("img")];
    const widths = rows[0].map((_, i) =>
      Math.max(1, ...rows.map((row) => pictures(row[i]).length)) * cell + gap,
    );
    const starts = widths.map((_, i) =>
      i ? left + widths.slice(1, i).reduce((sum, width) => sum + width, 0) : 8,
    );
    const size = {
      width: left + widths.slice(1).reduce((sum, width) => sum + width, 0),
      height: top + rows.length * (cell + 44),
    };
    Object.entries({ ...size, "font-family": "sans-serif" }).forEach(([key, value]) =>
      svg.setAttribute(key, value),
    );
    add("rect", { width: "100%", height: "100%", fill: "#ffffff" });
    [...table.tHead.rows[0].cells].forEach((head, i) =>
      write(starts[i], 24, head.firstChild.textContent.trim(), 14),
    );
    rows.forEach((row, r) => {
      const y = top + r * (cell + 44);
      row.forEach((one, i) => {
        if (!i) {
          write(starts[i], y + 14, one.firstChild.textContent.trim(), 13);
          write(starts[i], y + 32, text(one.querySelector("small")));
          return;
        }
        pictures(one).forEach((picture, k) =>
          add("image", {
            href: picture.src,
            x: starts[i] + k * cell,
            y,
            width: cell - 8,
            height: cell - 8,
            style: "image-rendering: pixelated",
          }),
        );
        const said = [text(one.querySelector(".verdict")), text(one.querySelector("small"))];
        write(starts[i], y + cell + 8, said.filter(Boolean).join(", ") || text(one));
      });
    });
    save(`${id}.svg`, new XMLSerializer().serializeToString(svg), "image/svg+xml");
  };

  const buttons = document.querySelectorAll("button[data-figure]");
  buttons.forEach((button) => {
    const { figure: id, as } = button.dataset;
    button.addEventListener("click", () => {
      if (as === "csv") save(`${id}.csv`, told[id], "text/csv");
      else if (id in figures) saveFigure(id);
      else saveGallery(id);
    });
  });
  document.querySelectorAll("select[data-figure]").forEach((select) => {
    select.addEventListener("change", () => draw(select.dataset.figure));
  });

  // one figure after the other, so that the page answers in between
  const waiting = Object.keys(figures);
  const drawNext = () => {
    const id = waiting.shift();
    if (id === undefined) return;
    if (!drawn.has(id)) draw(id);
    setTimeout(drawNext, 0);
  };
  setTimeout(drawNext, 0);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => {
      part.open = true;
    });
    waiting.splice(0).filter((id) => !drawn.has(id)).forEach(draw);
  });
  const again = () => drawn.forEach(draw);
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);
})();
