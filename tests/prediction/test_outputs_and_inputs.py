"""What is written never replaces what is read, and what lay beside a replaced map goes with it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from sgma_jax.data.rasters import Rasters
from sgma_jax.errors import InputError
from sgma_jax.prediction.assemble import check_inputs_stay, check_outputs
from sgma_jax.prediction.options import PredictOptions
from tests.prediction.local_scene import LocalModel, city, predict, save

AGAIN = PredictOptions(overwrite=True)


def vrt_of(path: Path, *sources: Path) -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename>{source}</SourceFilename>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, source in enumerate(sources, 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="40">{bands}</VRTDataset>')
    return path


def test_an_output_is_never_an_input_by_any_name(tmp_path: Path) -> None:
    source = save(tmp_path / "rgb.tif", city(40, 40)["rgb"])
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    (tmp_path / "link.tif").symlink_to("rgb.tif")
    os.link(source, tmp_path / "hard.tif")
    inner = vrt_of(tmp_path / "inner.vrt", source)
    outer = vrt_of(tmp_path / "outer.vrt", inner)
    rasters = Rasters()
    for read in (source, inner, outer, tmp_path / "link.tif"):
        inputs = rasters.files(read)
        for name in ("rgb.tif", "link.tif", "hard.tif", "../" + tmp_path.name + "/rgb.tif"):
            with pytest.raises(InputError, match=r"--out is .* which is read as .*never replaced"):
                check_inputs_stay(tmp_path / name, AGAIN, inputs)
        with pytest.raises(InputError, match="--probabilities is"):
            check_inputs_stay(tmp_path / "m.tif", PredictOptions(probabilities=tmp_path / "hard.tif"), inputs)
        with pytest.raises(InputError, match="--polygons car is"):
            check_inputs_stay(tmp_path / "m.tif", PredictOptions(polygons={"car": tmp_path / "link.tif"}), inputs)
        check_inputs_stay(tmp_path / "map.tif", AGAIN, inputs)
    rasters.close()
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    out = tmp_path / "m.tif"
    (tmp_path / "n.tif").symlink_to("m.tif")
    for other in (out, tmp_path / "n.tif", tmp_path / "x" / ".." / "m.tif"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"--probabilities is .* which is --out too"):
            check_outputs(out, PredictOptions(probabilities=other, overwrite=True))
    check_outputs(out, PredictOptions(probabilities=tmp_path / "p.tif"))
    both = {"car": tmp_path / "a.gpkg", "tree": tmp_path / "a.gpkg"}
    with pytest.raises(InputError, match="--polygons tree is"):
        check_outputs(out, PredictOptions(polygons=both))


@pytest.mark.parametrize("confidence", [True, False])
def test_what_lay_beside_a_map_goes_when_it_is_replaced(tmp_path: Path, confidence: bool) -> None:
    values = city(128, 128)["dsm"]
    old, new = save(tmp_path / "old.tif", values), save(tmp_path / "new.tif", values[:, :, ::-1])
    model, out = LocalModel(("dsm",)), tmp_path / "map.tif"
    predict(model, {"dsm": old}, out, confidence=True)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(out, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    auxiliary = out.with_name("map.tif.aux.xml")
    statistics = '<Metadata><MDI key="STATISTICS_MAXIMUM">123</MDI></Metadata></PAMRasterBand>'
    auxiliary.write_text(auxiliary.read_text().replace("</PAMRasterBand>", statistics))
    assert out.with_name("map.tif.ovr").exists()
    save(tmp_path / "mask.tif", np.zeros((128, 128), np.uint8)).rename(out.with_name("map.tif.msk"))
    predict(model, {"dsm": new}, out, confidence=confidence, overwrite=True)
    assert not out.with_name("map.tif.ovr").exists()
    assert not out.with_name("map.tif.msk").exists()
    with rasterio.open(out) as file:
        assert "STATISTICS_MAXIMUM" not in file.tags(1)
        assert not file.overviews(1)
        full, small = file.read(1), file.read(1, out_shape=(32, 32))
    assert (small == full[2::4, 2::4]).mean() > 0.95


@pytest.mark.parametrize("confidence", [True, False])
def test_a_map_carries_names_and_colours_of_its_own_classes(tmp_path: Path, confidence: bool) -> None:
    model, out = LocalModel(("dsm",)), tmp_path / "map.tif"
    model.labels = dataclasses.replace(model.labels, classes=("ground", "<building> & more", "tree"))
    predict(model, {"dsm": save(tmp_path / "dsm.tif", city(64, 64)["dsm"])}, out, confidence=confidence)
    text = out.with_name("map.tif.aux.xml").read_text()
    names = ("ground", "&lt;building&gt; &amp; more", "tree")
    assert "".join(f"<Category>{name}</Category>" for name in names) in text
    with rasterio.open(out) as file:
        assert [file.colormap(1)[code][:3] for code in range(3)] == list(model.labels.palette)
        assert np.isin(file.read(1), range(3)).all()
