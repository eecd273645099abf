"""Imports TensorFlow in less time."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Skip slow work that this program does not need while TensorFlow is imported.

    Garbage collection finds nothing to free and costs 0.6 s of 4.4 s; scikit-learn, which Keras
    imports if it is installed, for wrappers unused here, costs 1.2 s (TensorFlow 2.21, a core of a
    Xeon at 2.8 GHz).
    """
    was_on = gc.isenabled()
    gc.disable()
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # makes importing it an ImportError
    try:
        yield
    finally:
        if hidden:
            del sys.modules["sklearn"]
        gc.freeze()  # a forked worker shares these objects until something touches them
        if was_on:
            gc.enable()
