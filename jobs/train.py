"""Train a network on labelled videos, pictures or sounds, and leave a checkpoint that `label` loads unchanged.

    python jobs/train.py --name motions --data clips/ --epochs 20 --workers 2
    python jobs/label.py … --weights actions=out/train/motions/network.safetensors --allow-licences private

The same command goes on where a killed one was; other options under the same name are refused. Exit codes: 0 trained;
1 crash; 2 usage.
"""

from vidproc.command import end_with, parse
from vidproc.train import run
from vidproc.train.options import TrainConfig


def main() -> int:
    return run.run(parse(TrainConfig, __doc__))


if __name__ == "__main__":
    end_with(main)
