"""Refusals that delta-rs tells in its own text: what a person is told to do about them."""

import pytest

from vidproc.errors import StorageRefused
from vidproc.tables.delta_trouble import asked

TOLD = "Kernel error: Generic S3 error: <Error><Code>{code}</Code><RequestId>tx0</RequestId></Error>"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("RequestTimeTooSkewed", "clock is wrong.*NTP"),
        ("ExpiredToken", "renew them"),
        ("AccessDenied", "allow it"),
    ],
)
def test_a_refusal_says_what_to_do(code: str, advice: str) -> None:
    def refused() -> None:
        raise OSError(TOLD.format(code=code))

    with pytest.raises(StorageRefused, match=f"s3://archive/tables: .*{advice}"):
        asked("s3://archive/tables", refused)
