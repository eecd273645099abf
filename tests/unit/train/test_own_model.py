"""A user's own model: what is taken, and that each mistake is one line where it was made."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import parse
from trainer.errors import ConfigError
from trainer.runs import user_code
from trainer.train import devices, models

pytestmark = pytest.mark.tensorflow

MNIST = (28, 28, 1)
SOURCE = """from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def in_a_row(*stack):
    return lambda input_shape, classes: keras.Sequential(
        [keras.Input(input_shape), *stack, layers.Dense(classes)])


def good(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(classes)])


def built_by_its_first_call(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes)])


class Own(keras.Model):
    def __init__(self, classes, activation=None):
        super().__init__()
        self.dense = layers.Dense(classes, activation=activation)
        self.flatten = layers.Flatten()

    def call(self, images):
        return self.dense(self.flatten(images))


def subclassed(input_shape, classes):
    return Own(classes)


def two_branches(input_shape, classes):
    images = keras.Input(input_shape)
    flat = layers.Flatten()(images)
    pooled = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(images))
    return keras.Model(images, layers.Dense(classes)(layers.concatenate([flat, pooled])))


def lstm(input_shape, classes):
    height, width, channels = input_shape
    rows = layers.Reshape((height, width * channels))
    return in_a_row(rows, layers.LSTM(8))(input_shape, classes)


def channels_first(input_shape, classes):
    images = keras.Input(input_shape)
    first = layers.Permute((3, 1, 2))(images)
    pooled = layers.MaxPooling2D(4, data_format="channels_first")(first)
    return keras.Model(images, layers.Dense(classes)(layers.Flatten()(pooled)))


def with_buffers(input_shape, classes):
    stack = layers.Flatten(), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5)
    return in_a_row(*stack)(input_shape, classes)


def embedding(input_shape, classes):
    levels = layers.Lambda(lambda x: keras.ops.cast(x * 15, "int32"))
    return in_a_row(layers.Flatten(), levels, layers.Embedding(16, 2), layers.Flatten())(
        input_shape, classes)


def relu_inside(input_shape, classes):
    return in_a_row(layers.Flatten(), layers.Dense(9, "relu"))(input_shape, classes)


def zoomed(input_shape, classes):
    return in_a_row(layers.Rescaling(2.0, -1.0), layers.Flatten())(input_shape, classes)


def compiled(input_shape, classes):
    model = good(input_shape, classes)
    model.compile("sgd", "mse")
    return model


def ending(activation):
    return lambda input_shape, classes: keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, activation=activation)])


softmax, sigmoid, relu = ending("softmax"), ending("sigmoid"), ending("relu")


def softmax_layer(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes), layers.Softmax()])


def sigmoid_operation(input_shape, classes):
    images = keras.Input(input_shape)
    logits = layers.Dense(classes)(layers.Flatten()(images))
    return keras.Model(images, keras.ops.sigmoid(logits))


def nested(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), softmax(input_shape, classes)])


def hidden_softmax(input_shape, classes):
    return Own(classes, "softmax")


def hidden_sigmoid(input_shape, classes):
    return Own(classes, "sigmoid")


def values(input_shape, classes):
    return keras.Sequential([layers.Dense(64, "relu", input_shape=(784,)), layers.Dense(classes)])


def values_of_a_graph(input_shape, classes):
    images = keras.Input((784,))
    return keras.Model(images, layers.Dense(classes)(images))


def other_input(input_shape, classes):
    return keras.Sequential([keras.Input((5, 5, 1)), layers.Flatten(), layers.Dense(classes)])


def any_size(input_shape, classes):
    return keras.Sequential([
        keras.Input((None, None, 1)), layers.GlobalMaxPooling2D(), layers.Dense(classes)])


def scaled_twice(input_shape, classes):
    return in_a_row(layers.Rescaling(1 / 255), layers.Flatten())(input_shape, classes)


def divided(input_shape, classes):
    images = keras.Input(input_shape)
    return keras.Model(images, layers.Dense(classes)(layers.Flatten()(images / 255.0)))


def placeholder(input_shape, classes):
    x = tf.placeholder(tf.float32, [None, 784])
    return x


def session(input_shape, classes):
    with tf.Session() as sess:
        return sess


def contrib(input_shape, classes):
    import tensorflow.contrib
    return None


def compat(input_shape, classes):
    return tf.compat.v1.placeholder(tf.float32, [None, 784])


def raising(input_shape, classes):
    raise RuntimeError("first line\\n  second line")


def leaving(input_shape, classes):
    import argparse

    argparse.ArgumentParser(prog="mine").parse_args(["--mine"])


def deep(input_shape, classes):
    return raising(input_shape, classes)


class Bad(layers.Layer):
    def call(self, inputs):
        raise ValueError("the reason")


class InTraining(layers.Layer):
    def call(self, inputs, training=False):
        if training:
            raise KeyError("the key")
        return inputs


class Arrays(layers.Layer):
    def call(self, inputs):
        return keras.ops.convert_to_tensor(np.asarray(inputs) * 2)


class Branching(layers.Layer):
    def call(self, inputs):
        return inputs if keras.ops.sum(inputs) > 0 else -inputs


class Floating(layers.Layer):
    def call(self, inputs):
        return inputs * float(keras.ops.sum(inputs))


class Twins(layers.Layer):
    def build(self, input_shape):
        self.one, self.other = [self.add_weight(name="w", shape=()) for _ in range(2)]

    def call(self, inputs):
        return inputs * self.one + self.other


class Penalised(layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs))
        return inputs


def of(layer):
    return lambda input_shape, classes: in_a_row(layer(), layers.Flatten())(input_shape, classes)


in_a_layer, in_training, on_arrays, twins = of(Bad), of(InTraining), of(Arrays), of(Twins)
branching, floating = of(Branching), of(Floating)
rotated = of(lambda: layers.RandomRotation(0.1))


def late_in_a_layer(input_shape, classes):
    return keras.Sequential([layers.Flatten(), Bad(), layers.Dense(classes)])


def late_on_arrays(input_shape, classes):
    return keras.Sequential([layers.Flatten(), Arrays(), layers.Dense(classes)])


def in_a_constraint(input_shape, classes):
    limited = layers.Dense(4, kernel_constraint=lambda kernel: kernel * (1 / 0))
    return in_a_row(layers.Flatten(), limited)(input_shape, classes)


def half(input_shape, classes):
    return in_a_row(layers.Flatten(), layers.Dense(4, dtype="float16"))(input_shape, classes)


def penalised(input_shape, classes):
    limited = layers.Dense(
        4, kernel_regularizer="l2", activity_regularizer="l1", kernel_constraint="unit_norm")
    return in_a_row(layers.Flatten(), limited, Penalised())(input_shape, classes)


def double(input_shape, classes):
    return keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, dtype="float64")])


class Stepping(Own):
    def train_step(self, data):
        return {}


def stepping(input_shape, classes):
    return Stepping(classes)


def beside(input_shape, classes):
    return (Path(__file__).parent / "units.txt").read_text()


def not_a_number(input_shape, classes):
    return in_a_row(layers.Flatten(), layers.Lambda(lambda x: x * np.nan))(input_shape, classes)


def too_wide(input_shape, classes):
    return good(input_shape, classes + 1)


def unflattened(input_shape, classes):
    return keras.Sequential([layers.Dense(classes)])


def two_inputs(input_shape, classes):
    pair = [keras.Input(input_shape), keras.Input(input_shape)]
    return keras.Model(pair, layers.Dense(classes)(layers.Flatten()(layers.Add()(pair))))


def named_inputs(input_shape, classes):
    pair = {name: keras.Input(input_shape, name=name) for name in ("a", "b")}
    flat = layers.Flatten()(layers.Add()([*pair.values()]))
    return keras.Model(pair, layers.Dense(classes)(flat))


def two_outputs(input_shape, classes):
    images = keras.Input(input_shape)
    flat = layers.Flatten()(images)
    return keras.Model(images, [layers.Dense(classes)(flat), layers.Dense(1)(flat)])


def named_outputs(input_shape, classes):
    images = keras.Input(input_shape)
    return keras.Model(images, {"logits": layers.Dense(classes)(layers.Flatten()(images))})


def no_model(input_shape, classes):
    return [layers.Dense(classes)]


def nothing(input_shape, classes):
    pass


def of_one_argument(input_shape):
    pass


number = 3
"""


def at(text: str) -> str:
    """Return the place of the first line that holds a text."""
    number = next(n for n, line in enumerate(SOURCE.splitlines(), 1) if text in line)
    return f"zoo/own.py:{number}: "


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's, imported as a worker does."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "own.py").write_text(SOURCE)
    (tmp_path / "zoo" / "broken.py").write_text("\nimport no_such_package\n")
    (tmp_path / "zoo" / "torn.py").write_text("x = 1\ndef good(\n")
    (tmp_path / "zoo" / "tutorial.py").write_text(
        "from tensorflow.examples.tutorials.mnist import input_data\n"
    )
    (tmp_path / "random.py").write_text("from zoo.own import good\n")  # after Python's own
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv(user_code.UNPACKED, "")
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        monkeypatch.delitem(sys.modules, name)
    user_code.import_from(str(tmp_path))


def build(name: str, warnings: list[str] | None = None, shape: models.Shape = MNIST) -> Any:
    reference = name if ":" in name else f"zoo.own:{name}"
    heard: list[str] = [] if warnings is None else warnings
    return models.build(parse({"model": reference}), shape, 10, heard.append)


KINDS = (
    *("good", "built_by_its_first_call", "subclassed", "two_branches", "lstm", "channels_first"),
    *("with_buffers", "embedding", "relu_inside", "zoomed", "any_size", "penalised", "double"),
)


@pytest.mark.parametrize("name", KINDS)
def test_models_of_every_kind_are_taken_and_start_alike(name: str) -> None:
    warnings: list[str] = []
    model = build(name, warnings)
    assert warnings == []
    pixels = np.random.default_rng(1).integers(0, 256, (3, *MNIST)).astype(np.uint8)
    assert np.asarray(model(pixels)).shape == (3, 10)
    again = build(name)
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    for one, other in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


GIVE = "; give package.module:function of (input_shape, classes) that returns a keras.Model"
END = "; remove that activation from the end"
GRAPH = "; training calls it in a graph, with training=True"
SYMBOLIC = "; use keras.ops or TensorFlow there in place of NumPy and Python"
SHARES = (
    "its outputs are shares that add up to 1, as a softmax gives, but the loss takes logits; "
    "remove that activation"
)
FLATTEN = (
    "takes 784 values, but images are 28x28x1; put keras.layers.Flatten() first, with "
    "keras.Input(input_shape) before it"
)
TRAINS = "use a keras.Model, which this program trains instead"
MISTAKES = {
    "softmax": f"ends with softmax, but the loss takes logits{END}",
    "softmax_layer": f"ends with Softmax, but the loss takes logits{END}",
    "nested": f"ends with softmax, but the loss takes logits{END}",
    "sigmoid": f"ends with sigmoid, but the loss takes logits{END}",
    "sigmoid_operation": f"ends with Sigmoid, but the loss takes logits{END}",
    "relu": f"ends with relu, but the loss takes logits{END}",
    "hidden_softmax": SHARES,
    "values": FLATTEN,
    "values_of_a_graph": FLATTEN,
    "other_input": "takes 5x5x1, but images are 28x28x1; start with keras.Input(input_shape)",
    "scaled_twice": (
        "has Rescaling(0.003922), but images come scaled to 0 to 1; remove that layer"
    ),
    "placeholder": at("x = tf.placeholder")
    + "tf.placeholder is of TensorFlow 1; use keras.Input instead",
    "compat": at("tf.compat.v1") + "tf.placeholder is of TensorFlow 1; use keras.Input instead",
    "session": at("tf.Session") + f"tf.Session is of TensorFlow 1; {TRAINS}",
    "contrib": at("tensorflow.contrib") + "tf.contrib is of TensorFlow 1; use keras.layers instead",
    "zoo.tutorial:good": "zoo/tutorial.py:1: tf.examples is of TensorFlow 1; use the setting "
    "data, which reads MNIST instead",
    "raising": at("raise RuntimeError") + "RuntimeError: first line",
    "leaving": at('parse_args(["--mine"])') + f"SystemExit: 2{GIVE}",
    "deep": at("raise RuntimeError") + "RuntimeError: first line",
    "in_a_layer": at("raise ValueError") + "ValueError: the reason",
    "late_in_a_layer": at("raise ValueError") + "ValueError: the reason",
    "in_training": at("raise KeyError") + f"KeyError: the key{GRAPH}",
    "in_a_constraint": at("1 / 0") + f"ZeroDivisionError: division by zero{GRAPH}",
    "twins": "two of its weights are called sequential/twins/w; checkpoints go by name, so give "
    "layers, and the weights of a layer, names of their own",
    "half": "its weight sequential/dense/kernel is float16, but training takes float32 or "
    "float64; change its dtype, or give trainable=False",
    "beside": at("read_text") + "there is no zoo/units.txt in the packed code; name a folder "
    "that holds the model and this file as code (--code), and see that .gitignore does not name it",
    "not_a_number": "its outputs for a black, a grey and a white image are not finite numbers",
    "too_wide": "its output for 3 images has shape (3, 11), but the data has 10 classes; "
    "end with Dense(10)",
    "unflattened": "its output for 3 images has shape (3, 28, 28, 10), but the data has 10 "
    "classes; end with keras.layers.Flatten() and Dense(10)",
    "two_inputs": "takes 2 inputs; take one, the images: keras.Input(input_shape)",
    "named_inputs": "takes 2 inputs; take one, the images: keras.Input(input_shape)",
    "two_outputs": "returns a list of outputs; return the logits alone",
    "named_outputs": "returns a dict of outputs; return the logits alone",
    "no_model": f"returned a list{GIVE}",
    "nothing": f"returned a NoneType{GIVE}",
    "number": f"number is a int{GIVE}",
    "of_one_argument": (
        f"TypeError: of_one_argument() takes 1 positional argument but 2 were given{GIVE}"
    ),
    "xyz": f"zoo.own has no xyz{GIVE}",
    "random:good": "random is a module of Python's or a package's; rename your file",
    "subclased": f"zoo.own has no subclased; did you mean subclassed?{GIVE}",
    "zoo.none:good": "there is no module 'zoo.none' where you stand or in the folder of code, "
    "and none is installed; name its file or folder as code (--code)",
    "zoo.broken:good": "zoo/broken.py:2: imports 'no_such_package', which is not there; if it "
    "is yours, name the folder of both as code (--code); else install it, or add it to the image, "
    "see docs/your-own.md",
}


def mistake(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(name)
    told = str(caught.value)
    reference = name if ":" in name else f"zoo.own:{name}"
    assert told.startswith(f"model: {reference}: ")
    assert told.isprintable()
    assert len(told) < 500
    return told.removeprefix(f"model: {reference}: ")


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str) -> None:
    assert mistake(name) == MISTAKES[name]


def test_what_python_says_of_a_file_is_one_line_too() -> None:
    assert mistake("zoo.torn:good").startswith("zoo/torn.py:2: SyntaxError: '(' was never closed")
    assert "Arguments received" not in mistake("two_outputs")


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("hidden_sigmoid", "none of its outputs is negative for 16 random images"),
        ("divided", "remove a division by 255, if there is one"),
        ("compiled", "its loss, optimizer and metrics are ignored"),
        ("stepping", "has a train_step of its own, which is not called"),
    ],
)
def test_what_may_be_a_mistake_is_a_warning(name: str, warning: str) -> None:
    warnings: list[str] = []
    build(name, warnings)
    [told] = warnings
    assert told.startswith(f"model: zoo.own:{name}: ")
    assert warning in told


@pytest.mark.parametrize("name", ["on_arrays", "late_on_arrays"])
def test_a_layer_that_only_works_outside_of_graphs_is_named(name: str) -> None:
    said = mistake(name)
    assert said.startswith(at("np.asarray(inputs)") + "NotImplementedError: Cannot convert")
    assert said.endswith(GRAPH + SYMBOLIC)


@pytest.mark.parametrize("name", ["branching", "floating"])
def test_a_layer_that_asks_for_values_is_told_what_has_them(name: str) -> None:
    said = mistake(name)
    assert said.startswith("zoo/own.py:")
    assert said.endswith(SYMBOLIC)


def test_xla_compiles_only_models_that_it_can() -> None:
    alone = tf.distribute.get_strategy()

    def uses(name: str, xla: str) -> bool:
        config = parse({"model": f"zoo.own:{name}", "xla": xla})
        return devices.is_xla_used(config, build(name), alone)

    assert [uses("penalised", xla) for xla in ("auto", "on", "off")] == [True, True, False]
    assert not uses("rotated", "auto")
    with pytest.raises(ConfigError) as caught:
        uses("rotated", "on")
    assert str(caught.value) == (
        "xla: 'on': cannot compile zoo.own:rotated: XLA has no ImageProjectiveTransformV3 here; "
        "set xla to 'off'"
    )
