"""Judges the whole test set with the two networks alone, clean and under random noise.

python results/mnist/clean.py RUN DATA: RUN is the folder of the demo, DATA the data set. The noise
(pang B.3, eps 0.04) is a control: networks that noise fools would not need an attack.
"""

from __future__ import annotations

import sys
from pathlib import Path

import notsure as ns
from notsure.attacks import RandomNoise


def main(run: Path, data: str) -> None:
    """Writes clean.parquet beside this file."""
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
    records.write(Path(__file__).with_name("clean.parquet"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
