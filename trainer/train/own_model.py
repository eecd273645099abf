"""A user's own model: their function called, what it returns checked, their mistakes named.

Each mistake is one line with the file and line where it is in the user's code.
"""

import importlib
import os
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.common.text import nearest
from trainer.errors import ConfigError
from trainer.runs import user_code
from trainer.train.replicas import as_graph

Shape = tuple[int, int, int]  # height, width, channels
Warn = Callable[[str], object]

GIVE = "give package.module:function of (input_shape, classes) that returns a keras.Model"
MOST_WORDS = 240  # characters of what Python or Keras says
# What Keras says before it says why.
KERAS_PREAMBLE = (
    r"^(\s*Exception encountered when calling [^\n]*"
    r"|\s*Could not automatically infer the output shape.*?Error encountered:)+"
)
GRAPH = "; training calls it in a graph, with training=True"
SYMBOLIC = "; use keras.ops or TensorFlow there in place of NumPy and Python"

# What ends a network whose outputs are no logits, by the name of the activation or the layer.
SQUASHING = frozenset(
    ("softmax", "sigmoid", "hardsigmoid", "relu", "relu6", "softplus", "tanh", "exponential")
)

# Names of TensorFlow 1, and what does their work.
TENSORFLOW_1 = {
    "contrib": "keras.layers",
    "placeholder": "keras.Input",
    "examples": "the setting data, which reads MNIST",
    "layers": "keras.layers",
    "app": "a function of (input_shape, classes)",
    "flags": "a function of (input_shape, classes)",
    "estimator": "a keras.Model",
}
TENSORFLOW_1 |= dict.fromkeys(
    ("Session", "InteractiveSession", "global_variables_initializer", "train", "losses"),
    "a keras.Model, which this program trains",
)
TENSORFLOW_1 |= dict.fromkeys(
    ("get_variable", "variable_scope", "truncated_normal", "random_normal"), "layers of Keras"
)


def build(
    reference: str,
    input_shape: Shape,
    classes: int,
    warn: Warn,
    of_bytes: Callable[[Any], Any] = lambda model: model,
) -> Any:
    """Return the model that the user's function makes.

    Args:
        reference: package.module:function.
        input_shape: height, width and channels of the images.
        classes: number of logits.
        warn: called with what is suspicious and no mistake for certain.
        of_bytes: makes the model to be trained of the one that takes images scaled to 0 to 1.

    Raises:
        ConfigError: the function cannot be found, or fails, or returns something else than a
            model from images scaled to 0 to 1, [n, *input_shape], to logits [n, classes].
    """
    hint = ""
    try:
        model = _function(reference)(input_shape, classes)
        if not isinstance(model, keras.Model):
            raise _Mistake(f"returned a {type(model).__name__}; {GIVE}")
        _check_input(model, input_shape)
        _check_layers(model)
        # A black, a grey and a white image: the first call builds what is not built yet, and
        # shows what the model returns.
        grey = np.multiply.outer(np.linspace(0, 1, 3), np.ones(input_shape))
        answer = model(grey.astype(np.float32), training=False)
        if isinstance(answer, dict | list | tuple):
            raise _Mistake(f"returns a {type(answer).__name__} of outputs; return the logits alone")
        answer = np.asarray(answer, np.float32)
        _check_logits(answer, classes)
        _check_weights(model)
        _warn_of_suspects(model, input_shape, answer, lambda w: warn(f"model: {reference}: {w}"))
        hint = GRAPH
        step, arguments = _rehearsal(model, grey.astype(np.float32))
        step.get_concrete_function(*arguments)
        model = of_bytes(model)
    except _Mistake as mistake:
        raise ConfigError(f"model: {reference}: {mistake}") from None
    except (Exception, SystemExit) as error:  # a script's own arguments end with the latter
        raise ConfigError(f"model: {reference}: {_explained(error, reference, hint)}") from None
    return model


def xla_problem(model: Any) -> str | None:
    """Return why XLA cannot compile a step of a model of ``build``, None if it can."""
    step, arguments = _rehearsal(model, np.zeros([3, *model.input_shape[1:]], np.uint8))
    try:
        step.experimental_get_compiler_ir(*arguments)()
    except Exception as error:
        words = _plain(error)
        lacking = re.search(r"No registered '(\w+)' OpKernel", words)
        return f"XLA has no {lacking[1]} here" if lacking else _reason(words)
    return None


def _rehearsal(model: Any, images: npt.NDArray[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return what a step does with a model, as a function for XLA, and arguments for it.

    In training a model may do other things than in prediction, and in a graph it cannot do all
    that it can outside.
    """
    variables, others = model.trainable_variables, model.non_trainable_variables
    values = [tf.convert_to_tensor(each.value) for each in (*variables, *others)]

    def step(images: Any, values: list[Any]) -> Any:
        state = list(zip((*variables, *others), values, strict=True))
        with (
            tf.GradientTape() as tape,
            keras.StatelessScope(state, collect_losses=True) as scope,
        ):
            weights = values[: len(variables)]
            tape.watch(weights)
            results = [model(images, training=True), *model.losses]
            total = sum(tf.reduce_sum(tf.cast(each, tf.float32)) for each in results)
        gradients = tape.gradient(total, weights, unconnected_gradients="zero")
        constrained = [
            each.constraint(value)
            for each, value in zip(variables, weights, strict=True)
            if each.constraint
        ]
        updated = [scope.get_current_value(each) for each in others]
        with keras.StatelessScope(state):
            return gradients, constrained, updated, model(images, training=False)

    return as_graph(step, jit_compile=True), (tf.constant(images), values)


class _Mistake(Exception):  # noqa: N818
    """What is wrong with a user's model, and the remedy."""


def _function(reference: str) -> Callable[..., Any]:
    module_name, _, name = reference.partition(":")
    module = importlib.import_module(module_name)
    if user_code.is_hidden(module_name, getattr(module, "__file__", None)):
        raise _Mistake(f"{module_name} is a module of Python's or a package's; rename your file")
    function = getattr(module, name, None)
    if function is None:
        own = [each for each, value in vars(module).items() if callable(value)]
        raise _Mistake(f"{module_name} has no {name}{nearest(name, own)}; {GIVE}")
    if not callable(function):
        raise _Mistake(f"{name} is a {type(function).__name__}; {GIVE}")
    checked: Callable[..., Any] = function
    return checked


def _check_input(model: Any, input_shape: Shape) -> None:
    """Refuse a model of another input, before Keras does so at length."""
    if (count := len(getattr(model, "inputs", None) or ())) > 1:
        raise _Mistake(f"takes {count} inputs; take one, the images: keras.Input(input_shape)")
    shape = getattr(model, "input_shape", None) if model.built else None
    if not isinstance(shape, tuple) or any(isinstance(each, tuple) for each in shape):
        return  # built by its first call, or its input is in a list or a dictionary
    wanted, given = shape[1:], "x".join(map(str, input_shape))
    fits = len(wanted) == 3 and all(
        a in (None, b) for a, b in zip(wanted, input_shape, strict=True)
    )
    if fits:
        return
    if wanted == (int(np.prod(input_shape)),):
        raise _Mistake(
            f"takes {wanted[0]} values, but images are {given}; put keras.layers.Flatten() first, "
            f"with keras.Input(input_shape) before it"
        )
    found = "x".join("?" if each is None else str(each) for each in wanted)
    raise _Mistake(f"takes {found}, but images are {given}; start with keras.Input(input_shape)")


def _check_layers(model: Any) -> None:
    last = _last_name(model)
    if last.replace("_", "").lower() in SQUASHING:
        raise _Mistake(
            f"ends with {last}, but the loss takes logits; remove that activation from the end"
        )
    for layer in model._flatten_layers():
        is_rescaling = isinstance(layer, keras.layers.Rescaling)
        if is_rescaling and np.max(np.abs(layer.scale)) <= 0.02:
            raise _Mistake(
                f"has Rescaling({float(np.max(layer.scale)):.4g}), but images come scaled to "
                "0 to 1; remove that layer"
            )


def _check_weights(model: Any) -> None:
    paths = [each.path for each in model.weights]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise _Mistake(
            f"two of its weights are called {twice}; checkpoints go by name, so give layers, and "
            "the weights of a layer, names of their own"
        )
    for each in model.trainable_weights:
        if each.dtype not in ("float32", "float64"):
            raise _Mistake(
                f"its weight {each.path} is {each.dtype}, but training takes float32 or float64; "
                "change its dtype, or give trainable=False"
            )


def _last_name(model: Any) -> str:
    """Return the name of the activation or the operation that makes the outputs."""
    layer = model
    while isinstance(layer, keras.Model):
        if isinstance(layer, keras.Sequential) and layer.layers:
            layer = layer.layers[-1]
        elif len(getattr(layer, "outputs", None) or ()) == 1:
            layer = layer.outputs[0]._keras_history.operation
        else:
            return ""
    activation = getattr(layer, "activation", None)
    return str(getattr(activation, "__name__", "")) or type(layer).__name__


def _check_logits(answer: npt.NDArray[np.float32], classes: int) -> None:
    if answer.shape != (3, classes):
        flat = "keras.layers.Flatten() and " if answer.ndim > 2 else ""
        raise _Mistake(
            f"its output for 3 images has shape {answer.shape}, but the data has {classes} "
            f"classes; end with {flat}Dense({classes})"
        )
    if not np.isfinite(answer).all():
        raise _Mistake("its outputs for a black, a grey and a white image are not finite numbers")
    if (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=5e-3):
        raise _Mistake(
            "its outputs are shares that add up to 1, as a softmax gives, but the loss takes "
            "logits; remove that activation"
        )


def _warn_of_suspects(model: Any, shape: Shape, grey: npt.NDArray[np.float32], warn: Warn) -> None:
    noise = np.random.default_rng(0).random((16, *shape), np.float32)
    answer = np.asarray(model(noise, training=False), np.float32)
    if (answer >= 0).all() and answer.std(axis=0).any():
        warn(
            "none of its outputs is negative for 16 random images; the loss takes logits, so "
            "remove a sigmoid or ReLU at its end, if there is one"
        )
    change = float(np.abs(grey[2] - grey[0]).max())
    if 0 < change < 0.02:
        warn(
            f"a white and a black image differ by {change:.2g} in its outputs; images come scaled "
            "to 0 to 1, so remove a division by 255, if there is one"
        )
    if getattr(model, "compiled", False):
        warn(
            "was compiled; its loss, optimizer and metrics are ignored, the settings' are used "
            "(optimizer, learning_rate)"
        )
    for name in ("train_step", "compute_loss"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            warn(f"has a {name} of its own, which is not called; add losses with add_loss")


def _explained(error: BaseException, reference: str, hint: str) -> str:
    """Return where in the user's code an error arose, what it is, and the remedy."""
    # Keras may raise another error while it handles that of the user's code.
    error = next(filter(_place, _chain(error)), error)
    place, words = _place(error), _reason(_plain(error))
    if missing := _missing_file(_plain(error)):
        return (
            f"{place}there is no {missing} in the packed code; name a folder that holds the "
            "model and this file as code (--code), and see that .gitignore does not name it"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top == reference.partition(":")[0].partition(".")[0] and not place:
            return (
                f"there is no module {error.name!r} where you stand or in the folder of code, and "
                "none is installed; name its file or folder as code (--code)"
            )
        if top != "tensorflow":
            return (
                f"{place}imports {error.name!r}, which is not there; if it is yours, name the "
                "folder of both as code (--code); else install it, or add it to the image, see "
                "docs/your-own.md"
            )
    if replacement := _of_tensorflow_1(words):
        name, instead = replacement
        return f"{place}{name} is of TensorFlow 1; use {instead} instead"
    # An error without a place in the user's code is of how the function was called.
    is_call = not place or isinstance(error, SystemExit)
    remedy = hint or (f"; {GIVE}" if is_call else "")
    if "symbolic" in words.lower():  # it asks for the values of a tensor that has none yet
        remedy = hint + SYMBOLIC
    return f"{place}{type(error).__name__}: {words.rstrip('.')}{remedy}"


def _reason(words: str) -> str:
    """Return the line that says why, of what Python, Keras or TensorFlow says."""
    words = re.sub(KERAS_PREAMBLE, "", words, flags=re.DOTALL)
    return next(filter(None, map(str.strip, words.splitlines())), "")[:MOST_WORDS]


def _missing_file(words: str) -> str | None:
    """Return the name of a file that was looked for beside the model and is not there."""
    folder = os.environ.get(user_code.UNPACKED)
    if not folder or "No such file or directory" not in words:
        return None
    found = re.search(re.escape(folder) + r"/([^'\"\n;]+)", words)
    return found and found[1]


def _of_tensorflow_1(words: str) -> tuple[str, str] | None:
    found = re.search(
        r"module 'tensorflow[^']*' has no attribute '(\w+)'|No module named 'tensorflow\.(\w+)"
        r"|tf\.(placeholder)\(\) is not compatible",
        words,
    )
    name = next(filter(None, found.groups()), "") if found else ""
    return (f"tf.{name}", TENSORFLOW_1[name]) if name in TENSORFLOW_1 else None


def _plain(error: BaseException) -> str:
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    return re.sub(r"\x1b\[\d*m", "", str(words))  # Keras writes in bold


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__context__


def _place(error: BaseException) -> str:
    """Return ``FILE:LINE: `` of the innermost line of the user's code, or nothing."""
    for file, line in _lines(error):
        if name := user_code.own_name(file):
            return f"{name}:{line}: "
    return ""


def _lines(error: BaseException) -> Iterator[tuple[str, int]]:
    if isinstance(error, SyntaxError) and error.filename:
        yield error.filename, error.lineno or 0
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        yield frame.filename, frame.lineno or 0
