"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, showTips: false };
  const number = new Intl.NumberFormat("en-US");
  const percent = (x) => (100 * x).toFixed(1) + "\u202f%";
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // A point is [index, parameters, multiply-adds, accuracy, loss, places of its layers in page.layers].
  const points = page.points.map(([index, parameters, macs, accuracy, loss, layers], place) => {
    const texts = layers.map((layer) => page.layers[layer] + "-");
    return { place, index, parameters, macs, accuracy, loss, texts, string: texts.join("") };
  });

  // A phone has no room for a string beside its point: a tap shows it beneath the figure.
  const label = (point) => {
    const head = `<b>${percent(point.accuracy)}</b>  draw ${number.format(point.index)}`;
    const costs = [`${number.format(point.parameters)} parameters`, `${number.format(point.macs)} multiply-adds`];
    return innerWidth < 600
      ? [head, ...costs].join("<br>")
      : `${head}, ${costs.join(", ")}<br>${point.texts.map(plain).join("<br>")}`;
  };

  const fill = (div, cost, kept) => {
    const front = new Set(page.fronts[cost]);
    const halves = [kept.filter((p) => !front.has(p.place)), kept.filter((p) => front.has(p.place))];
    const known = halves.map((half) => half.filter((p) => p[cost] !== null));
    div.shown = [null, ...known];
    return Plotly.restyle(div, {
      x: known.map((half) => half.map((p) => p[cost])),
      y: known.map((half) => half.map((p) => p.accuracy)),
      text: known.map((half) => half.map(label)),
    }, [1, 2]);
  };

  // The string that a point stands for, beneath the figure: to be read on a phone, and copied.
  const tell = (div) => (event) => {
    const { curveNumber, pointNumber } = event.points[0];
    const point = (div.shown[curveNumber] || [])[pointNumber];
    const place = document.getElementById("picked-" + div.dataset.filtered);
    if (point && place) {
      const code = document.createElement("code");
      code.textContent = point.string;
      place.replaceChildren(`draw ${number.format(point.index)}, ${percent(point.accuracy)}: `, code);
    }
  };

  const plots = [...document.querySelectorAll(".plot[data-figure]")];
  const scatters = plots.filter((div) => div.dataset.filtered);
  const drawn = plots.map((div) => {
    const { data, layout } = page.figures[div.dataset.figure];
    if (innerWidth < 600) layout.hoverlabel.font.size = 9;
    return Plotly.newPlot(div, data, layout, config);
  });
  for (const div of scatters) div.on("plotly_click", tell(div));

  const box = document.getElementById("filter");
  const said = document.getElementById("filtered");
  const table = document.getElementById("best-table");
  const original = table ? [...table.tBodies] : [];

  const rows = (kept) => kept.slice(0, page.best).map((point, rank) => {
    const body = document.createElement("tbody");
    const numbers = body.insertRow();
    for (const value of [rank + 1, number.format(point.index), percent(point.accuracy), point.loss === null ? "–" : point.loss.toFixed(4),
      point.parameters === null ? "–" : number.format(point.parameters), point.macs === null ? "–" : number.format(point.macs)]) {
      const cell = numbers.insertCell();
      cell.className = "n";
      cell.textContent = value;
    }
    const under = body.insertRow().insertCell();
    under.className = "under";
    under.colSpan = 6;
    const code = under.appendChild(document.createElement("code"));
    point.string.match(/[^-,]+[-,]?|[-,]/g).forEach((part) => code.append(part, document.createElement("wbr")));
    return body;
  });

  const keep = () => {
    const words = box ? box.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const kept = points.filter((point) => words.every((word) => point.string.includes(word)));
    const ranked = [...kept].sort((a, b) => b.accuracy - a.accuracy || a.loss - b.loss || a.index - b.index);
    if (table) {
      for (const body of [...table.tBodies]) body.remove();
      table.append(...(words.length ? rows(ranked) : original));
    }
    if (said) {
      said.textContent = words.length
        ? `${number.format(kept.length)} of the ${number.format(points.length)} points shown match` +
          (kept.length ? `; the best of them reaches ${percent(ranked[0].accuracy)}.` : ".")
        : "";
    }
    return Promise.all(scatters.map((div) => fill(div, div.dataset.filtered, kept)));
  };

  let waiting;
  if (box) box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(keep, 120); });

  // In print a figure is as wide as the sheet's text, not as the window, and lower; what is folded is open.
  const sheet = 640;
  const heights = plots.map((div) => page.figures[div.dataset.figure].layout.height);
  const folded = [...document.querySelectorAll("details")];
  let opened = [];
  const resized = (width) => plots.forEach((div, place) => {
    const half = div.closest(".pair") ? (width - 28) / 2 : width;
    Plotly.relayout(div, width
      ? { width: half, height: Math.max(220, 0.8 * heights[place]), autosize: false }
      : { width: null, height: heights[place], autosize: true });
  });
  addEventListener("beforeprint", () => {
    opened = folded.filter((details) => !details.open);
    for (const details of opened) details.open = true;
    resized(sheet);
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
    resized(0);
  });

  Promise.all(drawn).then(keep).then(() => document.documentElement.classList.add("drawn"));
})();
