"""No tile and its neighbour are ever in two splits, and the rule that sees to it gives the same splits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_prep.cities import SHARES, Place, neighbours_apart, place_of, split_by_city

# Scenes per city of the real training part.
REAL = {
    "Berlin": 566,
    "Brasilia": 246,
    "Copenhagen": 216,
    "Portsmouth": 151,
    "NewDelhi": 131,
    "NewYork": 108,
    "SanDiego": 108,
    "Rio": 93,
    "Barcelona": 90,
    "Sydney": 34,
    "SaoLuis": 30,
}
CITIES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 60), min_size=1, max_size=12)


def test_the_real_cities_fall_as_documented() -> None:
    splits = split_by_city(REAL)
    assert {split: sorted(c for c in REAL if splits[c] == split) for split in SHARES} == {
        "train": ["Barcelona", "Berlin", "Brasilia", "Copenhagen", "NewDelhi"],
        "validation": ["SanDiego", "SaoLuis", "Sydney"],
        "test": ["NewYork", "Portsmouth", "Rio"],
    }


@given(CITIES)
def test_every_city_has_one_split_whatever_the_order(tiles: dict[str, int]) -> None:
    splits = split_by_city(tiles)
    assert set(splits) == set(tiles)
    assert splits == split_by_city(dict(reversed(tiles.items())))
    # A split is given another city only while it is below its share, so it ends at most one city above.
    for split, share in SHARES.items():
        members = [tiles[city] for city in tiles if splits[city] == split]
        assert sum(members) <= share * sum(tiles.values()) + max(tiles.values())
    assert "train" in splits.values()


@given(CITIES, st.integers(0, 2**32 - 1))
def test_tiles_of_cities_split_as_a_whole_have_no_neighbour_elsewhere(tiles: dict[str, int], seed: int) -> None:
    splits = split_by_city(tiles)
    # Cities are 0.5 degrees apart and grids of tiles of 256 m.
    places, own = [], []
    for number, city in enumerate(sorted(tiles)):
        for tile in range(tiles[city]):
            places.append(place_of(-30 + 5.0 * number + 0.0023 * (tile // 8), seed % 90 + 0.0023 * (tile % 8)))
            own.append(splits[city])
    assert neighbours_apart(places, own, 400.0) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "EPSG:1"]), st.integers(0, 12), st.integers(0, 12), st.sampled_from(list(SHARES))
        ),
        max_size=25,
    )
)
def test_neighbours_in_two_splits_are_found_exactly(tiles: list[tuple[str, int, int, str]]) -> None:
    places = [Place(frame, 256.0 * north, 256.0 * east) for frame, north, east, _ in tiles]
    splits = [split for *_, split in tiles]

    def touch(a: int, b: int) -> bool:
        (f, y, x, s), (g, v, u, t) = tiles[a], tiles[b]
        return f == g and s != t and abs(y - v) <= 1 and abs(x - u) <= 1

    expected = {a for a in range(len(tiles)) for b in range(a + 1, len(tiles)) if touch(a, b)}
    pairs = neighbours_apart(places, splits, 400.0)
    assert all(touch(*pair) for pair in pairs)
    assert {first for first, _ in pairs} == expected


def test_neighbours_are_found_wherever_the_city_lies() -> None:
    # 0.0037 degrees of longitude are 250 m in Berlin and 412 m at the equator.
    assert neighbours_apart([place_of(52.4902, 13.5090), place_of(52.4902, 13.5127)], ["train", "test"], 400.0) == [
        (0, 1)
    ]
    assert neighbours_apart([place_of(0.0, 13.5090), place_of(0.0, 13.5127)], ["train", "test"], 400.0) == []
    assert neighbours_apart([None, place_of(0, 0)], ["train", "test"], 400.0) == []
