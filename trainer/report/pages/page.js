"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => (button.textContent = dark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  system.addEventListener("change", name);
  button.hidden = false;
  name();

  const write = (value, kind) => {
    if (kind === "percent") return (100 * value).toFixed(2) + "%";
    if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  };
  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));

  for (const figure of document.querySelectorAll(".chart:has(script)")) {
    const chart = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot[role=img]");
    const tip = figure.querySelector(".tip");
    const svg = plot.querySelector("svg");
    const [left, top, width, height] = chart.plot;
    const across = (x) => left + (width * (x - chart.x[0])) / (chart.x[1] - chart.x[0]);
    const along = chart.log ? Math.log : Number;
    const [low, high] = chart.y.map(along);
    const down = (y) => top + height - (height * (along(y) - low)) / (high - low);
    const xs = [...new Set(chart.series.flatMap((each) => each.points.map((point) => point[0])))].sort((a, b) => a - b);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "g");
    svg.append(cursor);
    let at = -1;

    const hide = () => { tip.hidden = true; cursor.replaceChildren(); };
    const draw = (tag, attributes) => {
      const element = document.createElementNS(cursor.namespaceURI, tag);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      cursor.append(element);
    };
    const show = (index) => {
      at = Math.max(0, Math.min(xs.length - 1, index));
      const x = across(xs[at]);
      cursor.replaceChildren();
      draw("line", { x1: x, x2: x, y1: top, y2: top + height, style: "stroke:var(--axis)" });
      const lines = [document.createElement("div")];
      lines[0].textContent = chart.xName + " " + write(xs[at], chart.xKind);
      const gap = (chart.x[1] - chart.x[0]) / 40;
      for (const series of chart.series) {
        const point = nearest(series.points, xs[at]);
        if (Math.abs(point[0] - xs[at]) > gap) continue;
        const colour = "var(--" + series.colour + ")";
        draw("circle", { cx: across(point[0]), cy: Math.max(top, down(point[1])), r: 3.5, style: "fill:" + colour });
        const line = document.createElement("div");
        const dot = document.createElement("i");
        dot.style.background = colour;
        line.append(dot, series.name + " " + write(point[1], chart.kind));
        lines.push(line);
      }
      tip.replaceChildren(...lines);
      tip.hidden = false;
      const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const room = plot.clientWidth - tip.offsetWidth;
      const beside = x * scale + 10 > room ? x * scale - tip.offsetWidth - 10 : x * scale + 10;
      tip.style.left = Math.max(0, Math.min(room, beside)) + "px";
    };
    plot.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const pixel = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
      const x = chart.x[0] + ((pixel - left) / width) * (chart.x[1] - chart.x[0]);
      show(xs.indexOf(nearest(xs.map((each) => [each]), x)[0]));
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: xs.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (move === undefined) return;
      event.preventDefault();
      show(move);
    });
  }
})();
