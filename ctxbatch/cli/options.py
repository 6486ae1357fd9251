"""Defines the options and arguments that several commands share."""

from typing import Annotated

from cyclopts import Parameter

AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON for machines.")]
CsvFile = Annotated[
    str | None, Parameter(name="--csv", metavar="FILE", help="Also write a table into FILE, as CSV.")
]
ParquetFile = Annotated[
    str | None, Parameter(name="--parquet", metavar="FILE", help="Also write a table into FILE, as Parquet.")
]
Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], help="Show no progress and no summary.")]
StoreName = Annotated[str, Parameter(help="The store: its folder, or its URL.")]
StoreHere = Annotated[str, Parameter(help="Folder of the store.")]
VectorKind = Annotated[
    str | None,
    Parameter(
        name="--on",
        metavar="KIND",
        show_default="the first of shift, contextual and static that is stored",
        help="Vectors: shift, contextual, static, or a shift by name: log_ratio, asinh, difference.",
    ),
]
Delta = Annotated[
    float | None, Parameter(metavar="X", show_default="the store's, or 0.1", help="Delta of --on asinh.")
]
Floor = Annotated[
    float | None,
    Parameter(metavar="X", show_default="the store's, or 0.001", help="Floor of --on log_ratio."),
]
Standardise = Annotated[
    bool,
    Parameter(
        help="Standardise vectors: each dimension less its mean over the store, over its standard deviation."
    ),
]
Layer = Annotated[
    int | None,
    Parameter(
        metavar="N",
        show_default="the first that the run named, or its default",
        help="Layer of the vectors.",
    ),
]
StoredModel = Annotated[
    str | None,
    Parameter(
        metavar="M",
        show_default="where the store says, if that is an absolute path, installed, or in the Hugging Face "
        "cache",
        help="Where the store's model is: a folder, or a name.",
    ),
]
