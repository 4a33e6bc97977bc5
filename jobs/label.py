"""Label an archive: decode its videos, run the networks, commit the tables. What is labelled already is left alone.

    python jobs/label.py --archive videos/ --tables tables/ --annotators quality,actions,objects \\
        --weights actions=demo objects=demo

Exit codes: 0 done, failures within budget; 1 crash; 2 usage; 3 failure budget exceeded (good rows are committed);
4 another run holds the lease; 5 the canary came out wrong. Ended by SIGTERM 143, by Ctrl-C 130: what is finished is
committed first, and the same command goes on from there (at `--stop-at` likewise, but that is 0).
"""

from vidproc.command import end_with, parse
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig


def main() -> int:
    return label.run(parse(LabelConfig, __doc__))


if __name__ == "__main__":
    end_with(main)
