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

    maximum: (layer) => pool(layer, (xs) => xs.reduce((a, b) => Math.max(a, b))),
    average: (layer) => pool(layer, (xs) => xs.reduce((a, b) => a + b) / xs.length),

    activation(layer) {
      if (layer.name === "softmax") {
        const width = layer.output.at(-1);
        return (values) => {
          const result = new Float32Array(values.length);
          for (let at = 0; at < values.length; at += width) {
            result.set(softmax(values.subarray(at, at + width)), at);
          }
          return result;
        };
      }
      const f = activations[layer.name](layer);
      return (values) => values.map((x) => f(x));
    },
  };

  const activations = {
    relu: ({ slope, threshold, ceiling }) => (x) =>
      x < threshold ? slope * (x - threshold) : Math.min(x, ceiling ?? Infinity),
    elu: ({ alpha }) => (x) => (x > 0 ? x : alpha * Math.expm1(x)),
    sigmoid: () => sigmoid,
    log_sigmoid: () => (x) => -softplus(-x),
    softplus: () => softplus,
    tanh: () => Math.tanh,
    silu: () => (x) => x * sigmoid(x),
    gelu: () => (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  };

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  /* The error function as 2/sqrt(pi) e^(-x^2) (x + 2 x^3/3 + 4 x^5/15 + ...), whose terms all have
   * one sign, so that none cancels another: Abramowitz and Stegun, 7.1.6. */
  function erf(x) {
    if (!(Math.abs(x) < 6)) {
      return Math.sign(x);
    }
    let term = x;
    let sum = 0;
    for (let n = 1; sum + term !== sum; n++) {
      sum += term;
      term *= (2 * x * x) / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }

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
  function slide({ input, size, strides, dilation, padding }, [height, width]) {
    const along = (axis, length) =>
      Array.from({ length }, (_, i) =>
        Array.from({ length: size[axis] }, (_, tap) => [
          i * strides[axis] - padding[axis] + tap * dilation[axis],
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

  function pool(layer, reduce) {
    const { output } = layer;
    const channels = output.at(-1);
    const taps = slide(layer, output.length === 3 ? output : [1, 1]);
    return (values) => {
      const result = new Float32Array(product(output));
      taps.forEach((places, pixel) => {
        for (let channel = 0; channel < channels; channel++) {
          const seen = places.map(([at]) => values[at * channels + channel]);
          result[pixel * channels + channel] = reduce(seen);
        }
      });
      return result;
    };
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
