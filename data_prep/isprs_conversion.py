"""From a source of Potsdam or Vaihingen to a converted set: survey, settle what was found, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.builder import Conversion, convert
from data_prep.findings import settle
from data_prep.isprs import AreaOptions, AreaReader, area_schema, plan_tiles
from data_prep.isprs_survey import AreaSurvey
from data_prep.parallel import parallel_arguments
from data_prep.sources import SourceTree, open_source_beside
from data_prep.workspace import check_target
from sgma_jax.data.schema import SPLITS
from sgma_jax.show.tables import print_dataset


def convert_areas(
    source: Path,
    out: Path,
    options: AreaOptions,
    survey: Callable[[SourceTree], AreaSurvey],
    converter: str,
    choices: Mapping[str, Any],
) -> None:
    """Check everything, then write the converted set; `choices` are the options that only this set has."""
    workers = parallel_arguments(options.parallel)
    check_target(out, options.overwrite)
    with open_source_beside(source, out) as tree:
        surveyed = survey(tree)
        findings = settle(surveyed.findings, options.accept)
        schema = area_schema(options.name, surveyed.modalities, options)
        reader = AreaReader(surveyed.areas, surveyed.modalities, options.tile, options.clutter)
        conversion = Conversion(
            schema=schema,
            keys=plan_tiles(surveyed.areas, options),
            read=reader,
            converter=converter,
            options={
                "modalities": list(schema.names),
                "tile": options.tile,
                "stride": options.stride,
                "splits": {split: [area.id for area in surveyed.areas if area.split == split] for split in SPLITS},
                "drop": list(options.drop),
                "clutter": options.clutter,
                "eroded_evaluation": options.eroded_evaluation,
                "accept": list(options.accept),
                **choices,
            },
            sources=tree.source_files(surveyed.used),
            findings=findings,
        )
        print_dataset(convert(conversion, out, overwrite=options.overwrite, **workers), out)
