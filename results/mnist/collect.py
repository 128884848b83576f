"""Collects the records of a demo, and judges the whole test set with its two networks alone.

python results/mnist/collect.py RUN DATA: RUN is the folder of the demo, DATA the data set. Writes
records.parquet, the demo's without images, and clean.parquet, the networks on the whole test set,
clean and under random noise (pang B.3, eps 0.04) as a control.
"""

from __future__ import annotations

import sys
from pathlib import Path

import notsure as ns
from notsure.attacks import RandomNoise


def main(run: Path, data: str) -> None:
    """Writes records.parquet and clean.parquet beside this file."""
    here = Path(__file__).parent
    ns.Records.read(run / "records.parquet").without_images().write(here / "records.parquet")
    test = ns.data.load(data).test
    networks = {
        name: ns.Guard(ns.Guard.load(run / f"{name.lower()}-k-density").classifier)
        for name in ("CE", "RCE")
    }
    records = ns.evaluate(
        networks,
        test.x,
        test.y,
        attacks=[RandomNoise(eps=0.04)],
        threats=["white-box"],
        illustrated=0,
        embedded=0,
        data="mnist",
        progress=True,
    )
    records.write(here / "clean.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
