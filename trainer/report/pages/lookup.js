/* The panel in which the user looks test images up; trainer/report/lookup.py makes what it reads. */
(() => {
  "use strict";
  const SHOWN = 10; // classes, the most probable first, and the true one

  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const tested = read("tested");
  const names = read("names");
  const labels = bytes(tested.labels);
  const predicted = bytes(tested.predicted);
  const places = new Uint32Array(bytes(tested.places).buffer);
  const shares = new Uint16Array(bytes(tested.shares).buffer);
  const cellOf = new Map(Array.from(places, (place, cell) => [place, cell]));
  const sheet = new Image();

  const root = document.querySelector("[data-lookup=panel]");
  const part = (name) => root.querySelector(`[data-lookup="${name}"]`);
  const [number, wanted, guess, picture] = ["number", "true", "predicted", "picture"].map(part);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;

  const fits = (place) =>
    (wanted.value === "" || labels[place] === Number(wanted.value)) &&
    (guess.value === "" || predicted[place] === Number(guess.value));

  /* Show the image at a place, or that there is none. */
  function show(place) {
    const isThere = Number.isInteger(place) && place >= 0 && place < labels.length;
    const cell = isThere ? cellOf.get(place) : undefined;
    part("answer").textContent = isThere
      ? `#${place}: true ${names[labels[place]]}, predicted ${names[predicted[place]]}` +
        (cell === undefined ? ". Its picture is not in this page." : "")
      : `There is no test image #${number.value} in this page: they go from 0 to ${labels.length - 1}.`;
    const [width, height] = tested.cell;
    picture.hidden = cell === undefined;
    picture.width = width;
    picture.height = height;
    const rows = [];
    part("rest").textContent = "";
    if (cell !== undefined) {
      const [x, y] = [(cell % tested.across) * width, Math.floor(cell / tested.across) * height];
      picture.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
      const own = shares.subarray(cell * tested.classes, (cell + 1) * tested.classes);
      const order = Array.from(own, (share, label) => [share / 65535, label]);
      order.sort(([a, i], [b, j]) => b - a || i - j);
      const isListed = ([, label], rank) => rank < SHOWN || label === labels[place];
      const others = order.filter((each, rank) => !isListed(each, rank));
      if (others.length) {
        const sum = others.reduce((total, [share]) => total + share, 0);
        part("rest").textContent = `and ${others.length} more, ${percent(sum)} together`;
      }
      for (const [share, label] of order.filter(isListed)) {
        const row = document.createElement("tr");
        row.classList.toggle("best", label === predicted[place]);
        const name = document.createElement("th");
        name.scope = "row";
        name.textContent = names[label];
        const bar = document.createElement("td");
        bar.setAttribute("aria-hidden", "true");
        bar.append(document.createElement("span"));
        bar.firstChild.style.width = percent(share);
        const value = document.createElement("td");
        value.textContent = percent(share);
        row.append(name, bar, value);
        rows.push(row);
      }
    }
    part("shares").replaceChildren(...rows);
  }

  /* Show the next image that fits, forwards or backwards, first those whose picture is here. */
  function step(by) {
    const count = labels.length;
    const from = Number(number.value);
    for (const needed of [true, false]) {
      for (let k = 1; k <= count; k++) {
        const place = (((from + by * k) % count) + count) % count;
        if (fits(place) && (!needed || cellOf.has(place))) {
          number.value = place;
          show(place);
          return;
        }
      }
    }
    picture.hidden = true;
    part("shares").replaceChildren();
    part("rest").textContent = "";
    part("answer").textContent = "No test image is of these classes.";
  }

  const shown = () => show(number.value === "" ? NaN : Number(number.value));
  number.addEventListener("input", shown);
  root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  for (const choice of [wanted, guess]) {
    choice.addEventListener("change", () => (fits(Number(number.value)) ? shown() : step(1)));
  }
  part("next").addEventListener("click", () => step(1));
  part("back").addEventListener("click", () => step(-1));
  sheet.addEventListener("load", shown);
  sheet.src = tested.sheet;
  root.hidden = false;
  shown();
})();
