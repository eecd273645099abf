"""TensorFlow imported in less time."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Leave out what takes time and does nothing for us while TensorFlow is imported.

    That is looking for garbage among objects that stay, and scikit-learn, which Keras imports where
    it is installed for wrappers that nobody asked for: of 4.4 s 0.6 and 1.2 s (TensorFlow 2.21, a
    core of a Xeon at 2.8 GHz).
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
        gc.freeze()  # a forked worker shares these objects as long as nobody looks at them
        if was_on:
            gc.enable()
