"""Triton as PyPI's nvidia-pytriton carries it, its server started directly; the model in its Python backend.

Settings: two instances (one per core) with one onnxruntime thread each, dynamic batching up to 64 rows without a delay,
gRPC alone. Triton's own ONNX backend is not in that package.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import onnx_model

_CONFIG = """
name: "digits"
backend: "python"
max_batch_size: 64
input [ { name: "image" data_type: TYPE_UINT8 dims: [ 28, 28, 1 ] } ]
output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] } ]
dynamic_batching { }
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters [ { key: "file" value: { string_value: "%s" } } ]
"""


def main() -> None:
    """Lay out the repository and the backend, and become the server."""
    started, here = onnx_model.told(), Path(__file__).resolve().parent
    model = started.folder / "models" / "digits"
    (model / "1").mkdir(parents=True)
    shutil.copy(here / "triton_model.py", model / "1" / "model.py")
    shutil.copy(here / "onnx_model.py", model / "1")
    (model / "config.pbtxt").write_text(_CONFIG % started.model, encoding="ascii")
    packages = Path(sysconfig.get_path("purelib"))
    triton, backend = packages / "pytriton" / "tritonserver", started.folder / "backends" / "python"
    backend.mkdir(parents=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    files = [*(triton / "backends" / "python").iterdir(), *(triton / "python_backend_stubs" / version).iterdir()]
    for file in files:
        (backend / file.name).symlink_to(file)
    libraries = [sysconfig.get_config_var("LIBDIR"), str(packages / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),  # the backend's stub needs libpython
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",  # the stub takes the packages of the python3 that it finds
    }
    server = triton / "bin" / "tritonserver"
    flags = [
        f"--model-repository={model.parent}",
        f"--backend-directory={backend.parent}",
        f"--grpc-port={started.port}",
        *("--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false", "--log-info=false"),
    ]
    os.execve(server, [str(server), *flags], environment)  # noqa: S606 no shell is wanted


if __name__ == "__main__":
    main()
