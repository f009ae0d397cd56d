"""A table of splits written by hand: what is meant is read, and what cannot be meant is told with its line and
column."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.splits import read_splits
from sgma_jax.errors import InputError

KNOWN = ("2_10", "2_11", "3_13", "4_12")


def test_words_order_and_blank_lines_are_the_writers_choice(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("\ufeffsplit, tile\r\nTRAIN, 2_10\r\n\r\nval,2_11\r\nnone,4_12\r\n", encoding="utf-8")
    assert read_splits(path, "tile", KNOWN) == {"2_10": "train", "2_11": "validation"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the header is 'nothing'"),
        ("tile;split\n2_10;train\n", "line 1: the header is 'tile;split', it should be 'tile,split'"),
        (
            "tile,split\n2_10,train\n02_11,test\n",
            r"line 3, column 'tile': '02_11' is not in the source. Is '2_11' meant\?",
        ),
        ("tile,split\n2_10,train\n2_10,test\n", "line 3, column 'tile': '2_10' stands in line 2 too"),
        (
            "tile,split\n2_10,trian\n",
            "line 2, column 'split': 'trian' is no split. Write train, validation, test or none",
        ),
        ("tile,split\n2_10\n", "line 2: 1 cells for 2 columns"),
        ("tile,split\n2_10,test\n", "no line gives a tile to the training split"),
        ("tile,split\n\xff,test\n", "cannot be read as CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_meant_is_told_with_line_and_column(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words):
        read_splits(path, "tile", KNOWN)
