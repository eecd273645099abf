/* The panel in which the user draws a digit and sees what the model makes of it.
 *
 * A drawing is a list of strokes, a stroke a list of points [x, y] on a paper of SIDE x SIDE. What
 * is on the screen is drawn as SVG; the model gets the same strokes traced on a canvas of SIDE x
 * SIDE pixels, whatever the screen, so that the answer does not depend on the device.
 */
(() => {
  "use strict";
  const Trainyard = (globalThis.Trainyard ??= {});

  const SIDE = 280;
  const PEN = 28; // width of a stroke
  const THICKEST = 0.12; // a stroke's width for the model, in shares of the digit's longer side
  const FAINTEST = 0.05; // ink that a crop keeps
  const LISTED = 10; // classes, the most probable first, where there are too many to list all

  // What the pen passes through, in hundredths of the paper's side; a point given twice is a corner.
  const EXAMPLES = [
    "50,14 34,22 26,50 34,78 50,86 66,78 74,50 66,22 50,14",
    "40,30 54,14 54,14 53,50 52,86",
    "30,32 39,17 56,14 69,26 65,45 46,66 28,86 28,86 50,85 74,84",
    "31,23 45,14 63,20 62,36 45,47 45,47 66,54 69,72 53,86 30,80",
    "36,15 30,52 30,52 52,54 74,52 | 66,15 62,50 60,86",
    "70,15 38,15 38,15 34,44 34,44 56,43 69,58 63,78 46,86 29,80",
    "62,14 42,32 31,58 37,82 56,86 69,74 64,58 46,56 33,70",
    "27,18 50,17 73,16 73,16 57,52 46,86",
    "68,24 50,14 34,24 40,40 60,58 68,74 50,86 32,74 40,58 60,40 68,24",
    "68,26 51,14 34,24 33,42 49,49 64,38 68,26 68,26 64,56 58,86",
  ].map((strokes) =>
    strokes.split(" | ").map((points) =>
      points.split(" ").map((point) => point.split(",").map((value) => (value * SIDE) / 100)),
    ),
  );

  /* The path, in SVG's words, of smooth curves through the points of strokes (Catmull and Rom's). */
  function path(strokes) {
    const words = [];
    for (const stroke of strokes) {
      const at = (i) => stroke[Math.min(Math.max(i, 0), stroke.length - 1)];
      words.push("M", ...at(0));
      for (let i = 0; i < Math.max(stroke.length - 1, 1); i++) {
        const [before, from, to, after] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
        words.push("C", from[0] + (to[0] - before[0]) / 6, from[1] + (to[1] - before[1]) / 6);
        words.push(to[0] - (after[0] - from[0]) / 6, to[1] - (after[1] - from[1]) / 6, ...to);
      }
    }
    return words.join(" ");
  }

  /* The ink of a drawing: SIDE x SIDE shares of 1, row by row. A small digit gets a thinner pen, so
   * that its strokes become no wider than MNIST's, 2.9 pixels of 28. */
  Trainyard.ink = (strokes) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.lineCap = context.lineJoin = "round";
    const extent = (axis) => {
      const values = strokes.flat().map((point) => point[axis]);
      return values.reduce((a, b) => Math.max(a, b), 0) - values.reduce((a, b) => Math.min(a, b), SIDE);
    };
    const side = Math.max(extent(0), extent(1), 20);
    context.lineWidth = Math.min(PEN, (side * THICKEST) / (1 - THICKEST));
    context.stroke(new Path2D(path(strokes)));
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    const ink = new Float32Array(SIDE * SIDE);
    for (let i = 0; i < ink.length; i++) {
      ink[i] = data[4 * i + 3] / 255;
    }
    return ink;
  };

  /* The picture that the model gets of some ink [height, width]: bytes [size, size], light on dark,
   * cropped, scaled and centred by mass, to the last step as centred of trainer/inference/picture.py. */
  Trainyard.centred = (ink, height, width, size) => {
    const result = new Uint8Array(size * size);
    const [top, bottom, left, right] = inked(ink, height, width);
    if (top >= bottom) {
      return result;
    }
    const [rows, columns] = [bottom - top, right - left];
    let picture = new Float32Array(rows * columns);
    for (let y = 0; y < rows; y++) {
      const start = (top + y) * width;
      picture.set(ink.subarray(start + left, start + right), y * columns);
    }
    const inner = Math.floor((size * 20) / 28 + 0.5);
    const sides = [rows, columns].map((length) =>
      Math.max(1, Math.floor((length * inner) / Math.max(rows, columns) + 0.5)),
    );
    const [high, wide] = sides;
    // First across, then down, as Pillow does.
    picture = resampled(picture, rows, columns, wide, columns, 1);
    picture = resampled(picture, wide, rows, high, 1, wide);
    const darkest = picture.reduce((a, b) => Math.max(a, b));
    picture = picture.map((value) => value / darkest);
    const [y, x] = place(picture, high, wide, size);
    picture.forEach((value, i) => {
      const at = (y + Math.floor(i / wide)) * size + x + (i % wide);
      result[at] = Math.floor(255 * value + 0.5);
    });
    return result;
  };

  /* The rows and columns with ink, from the first to after the last; top is not above bottom where
   * there is none. */
  function inked(ink, height, width) {
    let [top, bottom, left, right] = [height, 0, width, 0];
    for (let i = 0; i < ink.length; i++) {
      if (ink[i] > FAINTEST) {
        const x = i % width;
        const y = (i - x) / width;
        top = Math.min(top, y);
        bottom = Math.max(bottom, y + 1);
        left = Math.min(left, x);
        right = Math.max(right, x + 1);
      }
    }
    return [top, bottom, left, right];
  }

  /* Resample one axis of a picture with Pillow's bilinear filter, a triangle that grows wider when
   * the picture shrinks. There are lines of so many values; the next line begins lineStep further
   * on, the next value of a line valueStep. */
  function resampled(picture, lines, length, wanted, lineStep, valueStep) {
    if (length === wanted) {
      return picture;
    }
    const result = new Float32Array(lines * wanted);
    const outLineStep = valueStep === 1 ? wanted : 1;
    const scale = length / wanted;
    const reach = Math.max(scale, 1);
    for (let out = 0; out < wanted; out++) {
      const centre = (out + 0.5) * scale;
      const low = Math.max(0, Math.trunc(centre - reach + 0.5));
      const high = Math.min(length, Math.trunc(centre + reach + 0.5));
      const weights = Array.from({ length: high - low }, (_, i) =>
        Math.max(0, 1 - Math.abs((low + i - centre + 0.5) / reach)),
      );
      const total = weights.reduce((a, b) => a + b);
      for (let line = 0; line < lines; line++) {
        const start = line * lineStep + low * valueStep;
        let sum = 0;
        weights.forEach((weight, i) => {
          sum += (weight / total) * picture[start + i * valueStep];
        });
        result[line * outLineStep + out * valueStep] = sum;
      }
    }
    return result;
  }

  /* Where the top left corner goes so that the centre of mass is in the middle. */
  function place(picture, high, wide, size) {
    let [mass, down, across] = [0, 0, 0];
    picture.forEach((value, i) => {
      mass += value;
      down += value * Math.floor(i / wide);
      across += value * (i % wide);
    });
    const corner = (centre, length) =>
      Math.min(Math.max(Math.ceil(size / 2 - 0.5 - centre), 0), size - length);
    return [corner(down / mass, high), corner(across / mass, wide)];
  }

  function panel(root, description) {
    const part = (name) => root.querySelector(`[data-draw="${name}"]`);
    const [paper, strokes, seen, answer] = ["paper", "strokes", "seen", "answer"].map(part);
    const rows = [...root.querySelectorAll("[data-draw=probability]")];
    const network = Trainyard.network(description);
    const listsAll = !rows.some((row) => row.hidden);
    const size = description.input_shape[0];
    const drawings = [[]]; // the last is on the paper, Undo goes back to the one before
    let pen = null; // the stroke that is being drawn
    let example = 0;
    let due = false;

    function show() {
      due = false;
      const drawing = drawings.at(-1);
      strokes.setAttribute("d", path(drawing));
      const image = Trainyard.centred(Trainyard.ink(drawing), SIDE, SIDE, size);
      showSeen(image);
      showProbabilities(drawing.length ? network.probabilities(image) : null);
    }

    function showSeen(image) {
      seen.width = seen.height = size;
      const pixels = new ImageData(size, size);
      image.forEach((grey, i) => pixels.data.set([grey, grey, grey, 255], 4 * i));
      seen.getContext("2d").putImageData(pixels, 0, 0);
    }

    function showProbabilities(probabilities) {
      const percent = (share) => `${(100 * share).toFixed(1)}%`;
      const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
      rows.forEach((row, i) => {
        const share = probabilities ? probabilities[i] : 0;
        row.classList.toggle("best", i === best);
        row.querySelector("span").style.width = `${100 * share}%`;
        row.querySelector("td:last-child").textContent = probabilities ? percent(share) : "";
      });
      if (!listsAll) {
        showMostProbable(probabilities ?? []);
      }
      const text = best < 0 ? "Nothing drawn" : `${rows[best].dataset.name}, ${percent(probabilities[best])}`;
      if (answer.textContent !== text) {
        answer.textContent = text; // said aloud when it changes
      }
    }

    function showMostProbable(probabilities) {
      const order = Array.from(probabilities, (_, i) => i);
      order.sort((i, j) => probabilities[j] - probabilities[i]);
      const listed = order.slice(0, LISTED).map((i) => rows[i]);
      rows.forEach((row) => (row.hidden = !listed.includes(row)));
      answer.nextElementSibling.tBodies[0].prepend(...listed);
      const others = order.slice(LISTED).reduce((sum, i) => sum + probabilities[i], 0);
      part("rest").textContent = order.length
        ? `and ${order.length - LISTED} more, ${(100 * others).toFixed(1)}% together`
        : "";
    }

    function changed() {
      if (!due) {
        due = true;
        requestAnimationFrame(show);
      }
    }

    function point(event) {
      const box = paper.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      return [x * SIDE, y * SIDE];
    }

    function lift(event) {
      if (event.isPrimary) {
        pen = null;
      }
    }

    paper.addEventListener("pointerdown", (event) => {
      if (event.isPrimary && event.button === 0) {
        event.preventDefault(); // nothing is to be selected
        paper.setPointerCapture(event.pointerId);
        pen = [point(event)];
        drawings.push([...drawings.at(-1), pen]);
        changed();
      }
    });
    paper.addEventListener("pointermove", (event) => {
      if (pen && event.isPrimary) {
        const events = event.getCoalescedEvents?.() ?? [];
        pen.push(...(events.length ? events : [event]).map(point));
        changed();
      }
    });
    paper.addEventListener("pointerup", lift);
    paper.addEventListener("pointercancel", lift);
    part("undo").addEventListener("click", () => {
      if (drawings.length > 1) {
        drawings.pop();
        changed();
      }
    });
    part("clear").addEventListener("click", () => {
      if (drawings.at(-1).length) {
        drawings.push([]);
        changed();
      }
    });
    part("example").addEventListener("click", () => {
      drawings.push(EXAMPLES[example]);
      example = (example + 1) % EXAMPLES.length;
      changed();
    });
    show();
  }

  const root = document.querySelector("[data-draw=panel]");
  if (root) {
    panel(root, JSON.parse(document.getElementById("network").textContent));
  }
})();
