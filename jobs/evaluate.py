"""Say how good a network is on labelled data: accuracy, calibration, by class, and on damaged data.

    python jobs/evaluate.py --weights out/train/motions/network.safetensors --data unseen-clips/ \\
        --tables tables/ --out out/evaluation --calibrate 0.5 --corruptions

Figures go to the log, to the `evaluations` table and to plots. `--calibrate` writes temperature and thresholds into the
sidecar, where `label` finds them. Exit codes: 0 measured; 1 crash; 2 usage; 4 another run holds the tables.
"""

from vidproc.command import end_with, parse
from vidproc.train.evaluate import OutputOptions, evaluate


def main() -> int:
    return evaluate(parse(OutputOptions, __doc__))


if __name__ == "__main__":
    end_with(main)
