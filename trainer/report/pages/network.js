/* The model in the browser: layers as trainer/report/network.py describes them.
 *
 * Trainyard.network(description) gives an object whose probabilities(image) takes the bytes of one
 * image, height x width x channels, and returns one probability a class. What passes between two
 * layers is float32, as in TensorFlow; sums are made in double.
 */
(() => {
  "use strict";
  const Trainyard = (globalThis.Trainyard ??= {});

  const numbers = (base64) =>
    new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
  const product = (shape) => shape.reduce((size, length) => size * length, 1);

  // Each layer is made once, from its description and all weights: a function of values.
  const layers = {
    affine({ output, scale, shift }, weights) {
      const channels = output.at(-1);
      return (values) =>
        values.map((x, i) => x * weights[scale + (i % channels)] + weights[shift + (i % channels)]);
    },

    dense({ input, output, kernel, bias }, weights) {
      const units = output.at(-1);
      const width = input.at(-1);
      return (values) => {
        const result = new Float32Array(product(output));
        for (let row = 0; row * width < values.length; row++) {
          const sums = start(units, weights, bias);
          multiply(values, row * width, width, weights, kernel, sums);
          result.set(sums, row * units);
        }
        return result;
      };
    },

    convolution(layer, weights) {
      const { input, output, kernel, bias } = layer;
      const [channels, filters] = [input[2], output[2]];
      const taps = slide(layer, output);
      return (values) => {
        const result = new Float32Array(product(output));
        taps.forEach((places, pixel) => {
          const sums = start(filters, weights, bias);
          for (const [at, tap] of places) {
            const from = kernel + tap * channels * filters;
            multiply(values, at * channels, channels, weights, from, sums);
          }
          result.set(sums, pixel * filters);
        });
        return result;
      };
    },

    activation({ name }) {
      return (values) => values.map(activations[name]);
    },
  };

  const activations = {
    relu: (x) => Math.max(x, 0),
    log_sigmoid: (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x))),
  };

  function softmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b));
    const parts = Float64Array.from(logits, (x) => Math.exp(x - top));
    const sum = parts.reduce((a, b) => a + b);
    return parts.map((part) => part / sum);
  }

  function start(units, weights, bias) {
    const sums = new Float64Array(units);
    if (bias !== undefined) {
      sums.set(weights.subarray(bias, bias + units));
    }
    return sums;
  }

  /* Add count values times the rows of a kernel, which begins in the weights at from. */
  function multiply(values, at, count, weights, from, sums) {
    const units = sums.length;
    for (let i = 0; i < count; i++) {
      const value = values[at + i];
      if (value !== 0) {
        const row = from + i * units;
        for (let unit = 0; unit < units; unit++) {
          sums[unit] += value * weights[row + unit];
        }
      }
    }
  }

  /* For every pixel that comes out, the pairs [pixel that goes in, place in the window]; what lies
   * outside the image is left out. */
  function slide({ input, size, strides, padding }, [height, width]) {
    const along = (axis, length) =>
      Array.from({ length }, (_, i) =>
        Array.from({ length: size[axis] }, (_, tap) => [
          i * strides[axis] - padding[axis] + tap,
          tap,
        ]).filter(([at]) => at >= 0 && at < input[axis]),
      );
    const across = along(1, width);
    return along(0, height).flatMap((rows) =>
      across.map((columns) =>
        rows.flatMap(([y, i]) => columns.map(([x, j]) => [y * input[1] + x, i * size[1] + j])),
      ),
    );
  }

  Trainyard.network = (description) => {
    const weights = numbers(description.weights);
    const steps = description.layers.map((layer) => layers[layer.type](layer, weights));
    return {
      /* The image is a Uint8Array; the result a Float64Array whose sum is 1. */
      probabilities: (image) =>
        softmax(steps.reduce((values, step) => step(values), Float32Array.from(image))),
    };
  };
})();
