"""Label an archive: decode its videos, run the networks, commit the tables. What is labelled already is left alone.

    python jobs/label.py --archive videos/ --tables tables/ --annotators quality,actions,objects \\
        --weights actions=demo objects=demo

Exit codes: 0 done, failures within budget; 1 crash; 2 usage; 3 failure budget exceeded (good rows are committed);
4 another run holds the lease; 5 the canary came out wrong. Ended by SIGTERM 143, by Ctrl-C 130: what is finished is
committed first, and the same command goes on from there (at `--stop-at` likewise, but that is 0).
"""

import sys

from vidproc.errors import VidprocError
from vidproc.flags import parse
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.progress import log
from vidproc.pipeline.stopping import Stopped


def main() -> int:
    try:
        return label.run(parse(LabelConfig, __doc__))
    except VidprocError as error:
        log("failed", error=type(error).__name__, message=str(error), exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt as error:
        code = error.exit_code if isinstance(error, Stopped) else 130
        log("stopped", message="committed work is kept; run the same command to go on", exit_code=code)
        return code


if __name__ == "__main__":
    sys.exit(main())
