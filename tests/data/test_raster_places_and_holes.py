"""Where a raster lies and where it has pixels is what its file says; what cannot be meant is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window

from sgma_jax.data.raster_checks import check_raster
from sgma_jax.data.rasters import Box, Rasters
from sgma_jax.errors import InputError
from tests.prediction.local_scene import save

SIDE = 24
HERE = from_origin(500_000, 5_000_000, 1, 1)
EVERYTHING = Window(0, 0, SIDE, SIDE)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rasters = Rasters()
    values, seen = rasters.on_grid(path, rasters.grid(path), EVERYTHING)
    rasters.close()
    return values, seen


def stacked(folder: Path, values: np.ndarray, nodata: tuple[float, ...]) -> Path:
    """The bands of `values` as one VRT of files with a nodata value each."""
    bands = ""
    for number, (band, value) in enumerate(zip(values, nodata, strict=True), 1):
        save(folder / f"{number}.tif", band)
        kind = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "float32": "Float32"}[str(values.dtype)]
        bands += (
            f'<VRTRasterBand dataType="{kind}" band="{number}"><NoDataValue>{value}</NoDataValue><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{number}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    (folder / "stack.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>500000,1,0,5000000,0,-1</GeoTransform>{bands}</VRTDataset>"
    )
    return folder / "stack.vrt"


def test_every_band_is_compared_with_its_own_nodata_value(tmp_path: Path) -> None:
    values = np.arange(1, 2 * SIDE * SIDE + 1).reshape(2, SIDE, SIDE).astype(np.int16)
    values[0, :4], values[1, 4:8] = -9999, -32768
    _, seen = read(stacked(tmp_path, values, (-9999, -32768)))
    np.testing.assert_array_equal(seen, np.repeat(np.arange(SIDE) >= 8, SIDE).reshape(SIDE, SIDE))


@pytest.mark.parametrize(
    ("dtype", "nodata", "spoils"),
    [
        (np.uint8, 0, False),
        (np.uint8, 255, False),
        (np.uint16, 65535, False),
        (np.uint16, 9999, True),
        (np.int16, -32768, True),
        (np.float32, -9999.0, True),
    ],
)
def test_a_value_that_a_brightness_may_have_is_a_hole_only_where_all_bands_have_it(
    tmp_path: Path, dtype: type, nodata: float, spoils: bool
) -> None:
    values = np.full((3, SIDE, SIDE), 7, dtype)
    values[0, :4] = nodata
    values[:, 4:8] = nodata
    _, seen = read(save(tmp_path / "a.tif", values, nodata=nodata))
    assert not seen[4:8].any()
    assert seen[8:].all()
    assert seen[:4].all() != spoils
    assert seen[:4].any() != spoils


def test_the_lowest_float64_as_nodata_of_float32_means_its_lowest_number(tmp_path: Path) -> None:
    values = np.full((1, SIDE, SIDE), 7, np.float32)
    values[0, :4] = np.finfo(np.float32).min
    _, seen = read(stacked(tmp_path, values, (-1.7976931348623157e308,)))
    assert not seen[:4].any()
    assert seen[4:].all()


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("setting", [{}, {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}])
def test_a_mask_counts_for_images_and_codes_however_gdal_is_set_up(
    tmp_path: Path, internal: bool, setting: dict[str, str]
) -> None:
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:5] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = save(tmp_path / "a.tif", np.ones((SIDE, SIDE), np.uint8), mask=mask)
    assert (tmp_path / "a.tif.msk").exists() != internal
    with rasterio.Env(**setting):
        np.testing.assert_array_equal(read(path)[1], mask > 0)
        rasters = Rasters()
        for part in (Box(0, 0, SIDE), (0, SIDE)):
            values, labelled = rasters.codes(path, part)
            np.testing.assert_array_equal(labelled, mask > 0)
            assert (values == 1).all()
        rasters.close()


@pytest.mark.parametrize("crs", [(None, None), (None, "EPSG:32632"), ("EPSG:32632", None)])
def test_rasters_that_state_a_geotransform_and_no_crs_lie_where_it_says(
    tmp_path: Path, crs: tuple[str | None, str | None]
) -> None:
    values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.int16)
    label = save(tmp_path / "label.tif", np.zeros((SIDE, SIDE), np.uint8), crs=crs[0], transform=HERE)
    south = save(tmp_path / "image.tif", values, crs=crs[1], transform=HERE @ Affine.translation(0, 10))
    rasters = Rasters()
    assert not rasters.is_aligned(south, label)
    pixels, seen = rasters.image(south, label, Box(0, 0, SIDE))
    assert not seen[:10].any()
    np.testing.assert_array_equal(pixels[10:, :, 0], values[: SIDE - 10])
    rasters.close()


def test_crss_that_nothing_leads_between_are_one_line(tmp_path: Path) -> None:
    local = CRS.from_wkt(
        'ENGCRS["RGF93 v1 / Lambert-93",EDATUM["Unknown engineering datum"],CS[Cartesian,2],'
        'AXIS["easting",east,ORDER[1],LENGTHUNIT["metre",1]],AXIS["northing",north,ORDER[2],LENGTHUNIT["metre",1]]]'
    )
    image = save(tmp_path / "image.tif", np.ones((SIDE, SIDE), np.uint8), crs="EPSG:2154")
    label = save(tmp_path / "label.tif", np.ones((SIDE, SIDE), np.uint8), crs=local)
    with pytest.raises(InputError, match=r"image\.tif is in EPSG:2154 .*gdal_edit"):
        Rasters().image(image, label, Box(0, 0, SIDE))


def of_two_types(folder: Path) -> Path:
    path = stacked(folder, np.ones((2, SIDE, SIDE), np.uint8), (0, 0))
    path.write_text(path.read_text().replace('"Byte" band="2"', '"Float32" band="2"'))
    return path


def of_a_palette(folder: Path) -> Path:
    path = save(folder / "a.tif", np.ones((SIDE, SIDE), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0, 255), 1: (200, 100, 0, 255)})
    return path


def of_pages(folder: Path) -> Path:
    path = save(folder / "a.tif", np.ones((SIDE, SIDE), np.uint8))
    save(path, np.ones((SIDE, SIDE), np.uint8), APPEND_SUBDATASET="YES")
    return path


def of_alpha_alone(folder: Path) -> Path:
    path = save(folder / "a.tif", np.ones((SIDE, SIDE), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (ColorInterp.alpha,)
    return path


def of_infrared_as_alpha(folder: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 200, (4, SIDE, SIDE)).astype(np.uint8)
    return save(folder / "a.tif", values, photometric="RGB", alpha="YES")


def of_control_points(folder: Path) -> Path:
    points = [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE))]
    path = folder / "a.tif"
    profile = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, gcps=points, crs="EPSG:4326") as file:
        file.write(np.ones((1, SIDE, SIDE), np.uint8))
    return path


def placed(numbers: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = of_two_types(folder)
        text = path.read_text().replace("500000,1,0,5000000,0,-1", numbers)
        path.write_text(text.replace('"Float32" band="2"', '"Byte" band="2"'))
        return path

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (of_two_types, r"stack\.vrt has bands of several types \(uint8, float32\).*gdal_translate -ot"),
        (of_a_palette, r"a\.tif is a palette image.*gdal_translate -expand"),
        (of_pages, r"a\.tif holds 2 rasters.*gdalbuildvrt -separate"),
        (of_alpha_alone, r"a\.tif has an alpha band and nothing else"),
        (of_infrared_as_alpha, r"a\.tif: band 4 is marked as alpha, but.*gdal_edit\.py -colorinterp_4 undefined"),
        (of_control_points, r"a\.tif has ground control points.*gdalwarp"),
        (placed("500000,0,0,5000000,0,-1"), r"stack\.vrt has pixels of no size.*gdal_edit"),
        (placed("nan,1,0,5000000,0,-1"), r"stack\.vrt lies nowhere.*gdal_edit"),
        (placed("500000,inf,0,5000000,0,-1"), r"stack\.vrt lies nowhere.*gdal_edit"),
    ],
)
def test_a_raster_that_cannot_be_meant_as_it_is_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], Path], says: str
) -> None:
    rasters = Rasters()
    with pytest.raises(InputError, match=says):
        check_raster(rasters, make(tmp_path))
    rasters.close()


def test_an_alpha_band_with_soft_edges_is_a_mask(tmp_path: Path) -> None:
    values = np.full((4, 100, 100), 9, np.uint8)
    values[3], values[3, :, :50], values[3, :90, 50] = 255, 0, 128
    rasters = Rasters()
    assert check_raster(rasters, save(tmp_path / "a.tif", values, photometric="RGB", alpha="YES")) == [1, 2, 3]
    rasters.close()
