"""Killed, filled, refused or shared out: the map is whole or not there, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sgma_jax.errors import InputError
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.parts import parts_folder
from sgma_jax.prediction.predict import merge_shards
from tests.prediction.local_scene import LocalModel, city, predict, save

Files = dict[str, Path]
OPTIONS = {"overlap": 32, "confidence": True}


class Stopped(Exception):
    """What stops the model below."""


class StoppingModel(LocalModel):
    """A model that fails after some batches."""

    left = 10

    def __call__(self, *arguments):
        if self.left == 0:
            raise Stopped
        self.left -= 1
        return super().__call__(*arguments)


def test_a_stopped_prediction_goes_on_to_the_same_bytes_and_computes_only_what_is_missing(
    city_files: Files, tmp_path: Path
) -> None:
    whole = LocalModel()
    expected = predict(whole, city_files, tmp_path / "whole.tif", **OPTIONS).read_bytes()
    out = tmp_path / "map.tif"
    with pytest.raises(Stopped):
        predict(StoppingModel(), city_files, out, **OPTIONS)
    assert not out.exists()
    assert list(parts_folder(out).glob("rows_*"))
    model = LocalModel()
    assert predict(model, city_files, out, resume=True, **OPTIONS).read_bytes() == expected
    assert len(model.calls) < len(whole.calls)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dsm.tif",
        "map.tif",
        "map.tif.aux.xml",
        "rgb.tif",
        "whole.tif",
        "whole.tif.aux.xml",
    ]


def test_a_killed_process_leaves_rows_that_a_resumed_one_takes_up(city_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.prediction.local_scene import LocalModel, predict\n"
        "class Slow(LocalModel):\n    def __call__(self, *a):\n        time.sleep(0.2)\n        return "
        "super().__call__(*a)\n"
        f"predict(Slow(), {{'rgb': Path({str(city_files['rgb'])!r}), 'dsm': Path({str(city_files['dsm'])!r})}}, "
        f"Path({str(out)!r}), **{OPTIONS})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(parts_folder(out).glob("rows_*")):
        assert process.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not out.exists()
    expected = predict(LocalModel(), city_files, tmp_path / "whole.tif", **OPTIONS).read_bytes()
    assert predict(LocalModel(), city_files, out, resume=True, **OPTIONS).read_bytes() == expected


def test_shards_join_to_the_bytes_of_one_host_in_any_order(city_files: Files, tmp_path: Path) -> None:
    more = {**OPTIONS, "used": True}
    expected = predict(
        LocalModel(), city_files, tmp_path / "whole.tif", **more, probabilities=tmp_path / "whole_p.tif"
    ).read_bytes()
    out, probabilities = tmp_path / "map.tif", tmp_path / "p.tif"
    for number in (3, 1, 4):
        predict(LocalModel(batch=2), city_files, out, shard=(number, 4), **more, probabilities=probabilities)
    assert not out.exists()
    with pytest.raises(InputError, match="of 7 rows of windows; the first that is missing is 1"):
        merge_shards(out, PredictOptions(probabilities=probabilities))
    predict(LocalModel(), city_files, out, shard=(2, 4), **more, probabilities=probabilities)
    with pytest.raises(InputError, match="--probabilities must be given"):
        merge_shards(out, PredictOptions())
    assert merge_shards(out, PredictOptions(probabilities=probabilities)) == [out, probabilities]
    assert out.read_bytes() == expected
    assert probabilities.read_bytes() == (tmp_path / "whole_p.tif").read_bytes()
    assert not parts_folder(out).exists()


def test_a_prediction_does_not_go_on_with_other_arguments_or_files(city_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    with pytest.raises(Stopped):
        predict(StoppingModel(), city_files, out, **OPTIONS)
    with pytest.raises(InputError, match="other layers"):
        predict(LocalModel(), city_files, out, overlap=32, resume=True)
    save(city_files["dsm"], city(200, 170, seed=5)["dsm"])
    with pytest.raises(InputError, match="other files"):
        predict(LocalModel(), city_files, out, resume=True, **OPTIONS)
    predict(LocalModel(), city_files, out, **OPTIONS)  # without --resume it begins anew
    assert out.exists()


def test_two_processes_do_not_write_the_same_map(city_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"

    class Meddling(LocalModel):
        def __call__(self, *arguments):
            with pytest.raises(InputError, match="another process"):
                predict(LocalModel(), city_files, out)
            return super().__call__(*arguments)

    predict(Meddling(batch=50), city_files, out)


def test_what_is_there_is_not_replaced_unasked(city_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    out.write_bytes(b"precious")
    # `write_scene` itself replaces; who asks first is `predict_scene`, before it computes anything.
    from sgma_jax.prediction.assemble import check_outputs

    with pytest.raises(InputError, match=r"map\.tif, which exists already.*--overwrite"):
        check_outputs(out, PredictOptions())
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        check_outputs(tmp_path / "nowhere" / "map.tif", PredictOptions())
    with pytest.raises(InputError, match=r"ends in \.tif"):
        check_outputs(tmp_path / "map.png", PredictOptions())
    with pytest.raises(Stopped):
        predict(StoppingModel(), city_files, out, overwrite=True, **OPTIONS)
    assert out.read_bytes() == b"precious"


def test_a_truncated_sensor_is_one_line_and_the_rest_goes_on_when_it_is_restored(tmp_path: Path) -> None:
    files = {
        "dsm": save(
            tmp_path / "dsm.tif",
            np.random.default_rng(0).normal(size=(1, 400, 300)).astype(np.float32),
            compress="deflate",
        )
    }
    content = files["dsm"].read_bytes()
    expected = predict(LocalModel(("dsm",)), files, tmp_path / "whole.tif", overlap=32).read_bytes()
    times = (files["dsm"].stat().st_atime_ns, files["dsm"].stat().st_mtime_ns)
    files["dsm"].write_bytes(content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2))
    os.utime(files["dsm"], ns=times)
    out = tmp_path / "map.tif"
    with pytest.raises(InputError, match=r"dsm\.tif cannot be read at rows .*truncated or damaged"):
        predict(LocalModel(("dsm",)), files, out, overlap=32)
    assert not out.exists()
    files["dsm"].write_bytes(content)
    os.utime(files["dsm"], ns=times)
    model = LocalModel(("dsm",))
    assert predict(model, files, out, overlap=32, resume=True).read_bytes() == expected
    assert len(model.calls) * model.batch < 13 * 10


def test_a_target_that_cannot_be_written_is_one_line(city_files: Files, tmp_path: Path) -> None:
    (tmp_path / "map.tif.parts").write_text("a file where the rows should wait")
    with pytest.raises(InputError, match=r"map\.tif\.parts cannot be written.*Choose another --out"):
        predict(LocalModel(), city_files, tmp_path / "map.tif")
    with pytest.raises(InputError, match="cannot be written"):
        predict(LocalModel(), city_files, Path("/proc/map.tif"))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs, to have a disk that can be filled")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("free", [8, 60, 100])
def test_a_full_disk_leaves_what_was_there_and_the_prediction_goes_on_when_there_is_room(
    free: int, small_disk: Path, tmp_path: Path
) -> None:
    """Kilobytes that are free decide whether the rows or the finished map do not fit."""
    from sgma_jax.errors import is_disk_full

    rng = np.random.default_rng(3)
    files = {"dsm": save(tmp_path / "dsm.tif", rng.normal(10, 5, (1, 250, 250)).astype(np.float32))}
    more = {"overlap": 32, "confidence": True, "overwrite": True}
    expected = predict(LocalModel(("dsm",), reach=0), files, tmp_path / "whole.tif", **more).read_bytes()
    out, filler = small_disk / "map.tif", small_disk / "filler"
    out.write_bytes(b"precious")
    filler.write_bytes(b"x" * ((196 - free) << 10))
    with pytest.raises(OSError) as caught:
        predict(LocalModel(("dsm",), reach=0), files, out, **more)
    assert is_disk_full(caught.value)
    assert out.read_bytes() == b"precious"
    filler.unlink()
    assert predict(LocalModel(("dsm",), reach=0), files, out, resume=True, **more).read_bytes() == expected
    assert sorted(p.name for p in small_disk.iterdir()) == ["map.tif", "map.tif.aux.xml"]
