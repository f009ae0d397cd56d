"""What happens to published files on their way to a user: rearranged, archived, cut short, re-encoded."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio


def repeat_top_folders(folder: Path) -> None:
    """`4_Ortho_RGBIR/x.tif` becomes `4_Ortho_RGBIR/4_Ortho_RGBIR/x.tif`, as some archives unpack."""
    for product in [p for p in folder.iterdir() if p.is_dir()]:
        product.rename(folder / "moving")
        product.mkdir()
        (folder / "moving").rename(product / product.name)


def zip_folders(folder: Path, target: Path) -> Path:
    """An archive for each folder, as products are downloaded one by one. Returns the folder of archives."""
    target.mkdir(parents=True, exist_ok=True)
    for product in sorted(p for p in folder.iterdir() if p.is_dir()):
        zip_files(target / f"{product.name}.zip", product.parent, sorted(product.rglob("*")))
    return target


def zip_files(archive: Path, base: Path, files: list[Path]) -> Path:
    """An archive of files, named relative to `base`."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writing:
        for path in files:
            if path.is_file():
                writing.write(path, path.relative_to(base).as_posix())
    return archive


def truncate(path: Path) -> None:
    """Keep the first two thirds of a file, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], **profile: object) -> None:
    """Replace a raster's pixels [bands, rows, columns] by `change` of them; size, type and bands may change too."""
    with rasterio.open(path) as file:
        values, old = file.read(), file.profile
    values = change(values)
    new = {
        **old,
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        **profile,
    }
    path.unlink()
    with rasterio.open(path, "w", **new) as file:
        file.write(values)


def drop_last_column(path: Path) -> None:
    """One column short, as `dsm_potsdam_03_13` is."""
    rewrite(path, lambda values: values[..., :-1])


def re_encode(path: Path, seed: int = 0) -> None:
    """A label as 4_12 of Potsdam is: thousands of colours around the palette's, none of which has to be exact."""
    noise = np.random.default_rng(seed)

    def blur(values: np.ndarray) -> np.ndarray:
        towards = np.where(values > 127, -1, 1)
        return (values + towards * noise.integers(1, 120, values.shape)).astype(np.uint8)

    rewrite(path, blur)


def tint_cars(path: Path) -> None:
    """A label as 6_7 of Potsdam is: most cars are (252, 255, 0)."""

    def tint(values: np.ndarray) -> np.ndarray:
        yellow = (values == np.array((255, 255, 0)).reshape(3, 1, 1)).all(0)
        yellow[::5] = False
        values[0][yellow] = 252
        return values

    rewrite(path, tint)


def copy_tree(source: Path, target: Path) -> Path:
    """A copy to harm."""
    shutil.copytree(source, target)
    return target
