"""The README's tree names every file, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tree_names_every_file() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("## The tables")[0]
    named = set(re.findall(r"[\w/]+\.py", tree))
    files = [path.relative_to(ROOT) for folder in ("vidproc", "jobs") for path in (ROOT / folder).rglob("*.py")]
    plain = {path for path in files if not path.name.startswith("__") and path.parent.name != "tasks"}
    assert {name.rpartition("/")[2] for name in named} == {path.name for path in plain}
