"""TensorFlow, started quietly: the one place that decides how. Imports no TensorFlow before `start` is called.

`train.py`, `judge.py` and `export.py` call `start` before they import a module that needs TensorFlow. They run in
a process of their own, so what is set here stays in that process.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

from serving.session import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # C++ logs: fatal only
    "KERAS_BACKEND": "tensorflow",
}
CHATTY_LIBRARIES = ("tensorflow", "tf2onnx", "absl", "h5py")
DEPRECATING_LIBRARIES = ("keras", "tensorflow", "tf2onnx", "onnx", "google")


def start() -> int:
    """Import TensorFlow and Keras so that they say only what is wrong; may be called twice.

    Returns:
        the threads that it computes with: as many as this process may have, its cgroup's quota included, which
        TensorFlow doesn't see. Another number gives other last digits, and so other weights.
    """
    threads = available_cpus()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    for library in DEPRECATING_LIBRARIES:
        # What these libraries deprecate in one another is no business of the person who runs us.
        warnings.filterwarnings("ignore", module=rf"{library}(\..*)?")
    if "tensorflow" in sys.modules:
        return threads
    with warnings.catch_warnings(), _held_back_stderr():
        warnings.simplefilter("ignore")
        tensorflow = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.list_logical_devices()  # starts the runtime, which has something to say as well
    return threads


def strategy(devices: str) -> Any | None:
    """How the devices of this machine train together: mirrored, where there are several and `all` are asked for.

    Args:
        devices: one or all, as `config.Recipe.devices` says.

    Returns:
        a `tf.distribute.Strategy` over all GPUs, or over all logical CPUs where there is no GPU; None: the one
        device that TensorFlow takes by itself.
    """
    if devices == "one":
        return None
    tensorflow = importlib.import_module("tensorflow")
    found = [device.name for kind in ("GPU", "CPU") for device in tensorflow.config.list_logical_devices(kind)]
    kind = "GPU" if any("GPU" in name for name in found) else "CPU"
    chosen = [name for name in found if kind in name]
    if len(chosen) == 1:
        return None
    # The default, collective operations, meets in another order on each device once a step has several of them
    # (gradients, and batch normalisation's means) and fails with mismatched shapes.
    adding = tensorflow.distribute.ReductionToOneDevice()
    return tensorflow.distribute.MirroredStrategy(chosen, cross_device_ops=adding)


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keep the process's stderr, C++ included, and let it out only if the body fails.

    TensorFlow's first lines come before its log level counts.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
