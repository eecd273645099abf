"use strict";
(() => {
  const EVERY = 1000; // milliseconds between two questions
  const PATIENCE = 5000; // until an answer counts as missing
  const id = (name) => document.getElementById(name);
  let etag = "";
  let said = null; // the last answer
  let missed = 0;
  let over = false;

  const write = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };
  const make = (tag, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  };
  const cells = (texts) => texts.map((text, at) => {
    const cell = make(at ? "td" : "th", text);
    if (!at) cell.scope = "row";
    return cell;
  });

  const SVG = "http://www.w3.org/2000/svg";
  const shape = (parent, tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const draw = (figure, chart) => {
    const [left, top, width, height] = chart.plot;
    const across = (x) => left + (width * (x - chart.x[0])) / (chart.x[1] - chart.x[0]);
    const down = (y) => top + height - (height * (y - chart.y[0])) / (chart.y[1] - chart.y[0]);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 300 190");
    const label = { "font-size": 12, style: "fill:var(--label)" };
    for (const [value, text] of chart.yTicks) {
      shape(svg, "path", { d: `M${left} ${down(value)}h${width}`, style: "stroke:var(--grid)" });
      shape(svg, "text", { x: left - 6, y: down(value) + 4, "text-anchor": "end", ...label }, text);
    }
    shape(svg, "path", { d: `M${left} ${top + height}h${width}`, style: "stroke:var(--axis)" });
    for (const [value, text] of chart.xTicks) {
      const anchor = across(value) > left + width - 15 ? "end" : "middle";
      shape(svg, "text", { x: across(value), y: top + height + 17, "text-anchor": anchor, ...label }, text);
    }
    for (const mark of chart.marks) {
      shape(svg, "path", {
        d: `M${across(mark)} ${top}v${height}`, "stroke-dasharray": "3 3", style: "stroke:var(--mark)",
      });
    }
    for (const series of chart.series) {
      const colour = `var(--${series.colour})`;
      const places = series.points.map(([x, y]) => `${across(x).toFixed(1)} ${down(y).toFixed(1)}`);
      shape(svg, "path", {
        d: "M" + places.join("L"), fill: "none", "stroke-width": 1.75, "stroke-linejoin": "round",
        style: "stroke:" + colour,
      });
      if (series.points.length > 30) continue;
      for (const [x, y] of series.points) shape(svg, "circle", { cx: across(x), cy: down(y), r: 2.5, style: "fill:" + colour });
    }
    const plot = figure.querySelector(".plot");
    plot.setAttribute("aria-label", chart.gist);
    plot.replaceChildren(svg);
    for (const item of figure.querySelectorAll("[data-series]")) {
      const last = chart.last[item.dataset.series];
      item.hidden = last === undefined;
      write(item.querySelector("strong"), last ?? "");
    }
  };

  const table = (section, rows) => {
    section.hidden = !rows.length;
    section.querySelector("tbody").replaceChildren(...rows);
  };
  const show = (run) => {
    document.title = `${run.name}: ${run.progress?.words ?? run.state} - Trainyard`;
    write(id("name"), run.name);
    write(id("state"), run.state);
    id("state").dataset.state = run.state;
    write(id("words"), run.words);
    id("progress-panel").hidden = id("report").hidden = !run.progress;
    if (run.progress) {
      id("share").value = run.progress.share;
      write(id("steps"), run.progress.words);
      id("parts").replaceChildren(...run.progress.parts.map((part) => make("li", part)));
    }
    for (const [key, chart] of Object.entries(run.charts)) {
      const figure = document.querySelector(`[data-chart="${key}"]`);
      if (chart) draw(figure, chart);
      if (chart) id("training").hidden = false;
    }
    const heads = run.ranks.columns.map((name) => make("th", name));
    for (const head of heads) head.scope = "col";
    id("ranks").querySelector("thead tr").replaceChildren(...heads);
    write(id("ranks-words"), run.ranks.words);
    table(id("ranks"), run.ranks.rows.map((each) => {
      const row = document.createElement("tr");
      row.append(...cells(each.cells));
      if (each.slowest) {
        row.className = "slowest";
        row.cells[0].append(" (slowest)");
      }
      return row;
    }));
    table(id("restarts"), run.restarts.map((each) => {
      const row = document.createElement("tr");
      row.append(...cells(each));
      row.lastChild.className = "cause";
      return row;
    }));
    id("validation").hidden = !run.pictures.count;
    write(id("validated"), run.pictures.step.toLocaleString("en"));
    for (const image of document.querySelectorAll("[data-picture]")) {
      // Its letters have 12 pixels; below 9, scrolling is better.
      image.onload = () => { image.style.minWidth = `${0.75 * image.naturalWidth}px`; };
      const source = `/picture/${image.dataset.picture}?step=${run.pictures.step}`;
      if (run.pictures.count && image.getAttribute("src") !== source) image.src = source;
      image.hidden = !run.pictures.count;
    }
  };
  const complain = () => {
    const words = missed > 1
      ? "The program that serves this page does not answer: it has ended, or is busy. This page asks again each second."
      : said?.trouble ?? "";
    write(id("trouble"), words);
    id("trouble").hidden = !words;
    const seconds = Date.now() / 1000 - (said?.progress?.time ?? NaN);
    const [amount, unit] = seconds < 120 ? [seconds, "s"] : seconds < 7200 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
    write(id("age"), seconds >= 0 && !over ? `the newest figures are ${Math.round(amount)} ${unit} old` : "");
  };

  const ask = async () => {
    try {
      const answer = await fetch("/state", {
        headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store", signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag");
        said = await answer.json();
        show(said);
      }
      missed = answer.status === 200 || answer.status === 304 ? 0 : missed + 1;
    } catch {
      missed += 1;
    }
    complain();
    if (said?.state === "finished" && !missed && (await becomeReport())) return;
    setTimeout(ask, EVERY);
  };
  const becomeReport = async () => {
    if (over) return false;
    over = true; // one try: what fails once fails again
    try {
      const answer = await fetch("/report");
      if (answer.ok) {
        location.replace("/report");
        return true;
      }
      write(id("words"), `no report: ${await answer.text()}`);
    } catch {
      over = false; // the program has ended meanwhile
    }
    return false;
  };
  ask();
})();
