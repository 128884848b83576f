"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 700px)");

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

  const chosen = (id) => {
    const select = document.querySelector(`select[data-figure="${id}"]`);
    return figures[id].of[select ? select.value : figures[id].names[0]];
  };

  const download = (id) => {
    const figure = coloured(chosen(id), themes.light);
    const layout = { ...figure.wide, paper_bgcolor: "#ffffff", autosize: false };
    Plotly.downloadImage(
      { data: figure.data, layout },
      { format: "svg", filename: id, width: 1000, height: layout.height },
    );
  };

  const draw = (id) => {
    const plot = document.querySelector(`.plot[data-figure="${id}"]`);
    const theme = dark.matches ? themes.dark : themes.light;
    const figure = coloured(chosen(id), theme);
    const layout = narrow.matches ? { ...figure.narrow, dragmode: false } : { ...figure.wide };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: theme.muted, activecolor: theme.ink };
    layout.hoverlabel = {
      ...layout.hoverlabel,
      bgcolor: theme.raised,
      bordercolor: theme.muted,
      font: { color: theme.ink },
    };
    const save = {
      name: "svg",
      title: "Download as SVG",
      icon: Plotly.Icons.camera,
      click: () => download(id),
    };
    return Plotly.react(plot, figure.data, layout, {
      responsive: true,
      displaylogo: false,
      scrollZoom: false,
      modeBarButtons: [[save], narrow.matches ? [] : ["zoom2d", "pan2d", "resetScale2d"]],
    });
  };

  const drawAll = () => Object.keys(figures).forEach(draw);
  document.querySelectorAll("select[data-figure]").forEach((select) => {
    select.addEventListener("change", () => draw(select.dataset.figure));
  });
  document.querySelectorAll("button[data-figure]").forEach((button) => {
    button.addEventListener("click", () => download(button.dataset.figure));
  });
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  drawAll();
})();
