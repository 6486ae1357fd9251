"""Turns the results of analyses into Arrow tables."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from ctxbatch.analysis.layers import Trends
from ctxbatch.analysis.senses import Senses
from ctxbatch.search.hits import OCCURRENCE_FIELDS, around_word
from ctxbatch.store.reader import Store

_SENSES = pa.schema([("group", pa.int32()), *OCCURRENCE_FIELDS])


def senses_table(store: Store, found: Senses) -> pa.Table:
    """Return a row for each occurrence that is in a group, with the group's number, in the order of groups.

    ``left_context`` and ``right_context`` are the sentence before and after the word. With ``--pool none`` an
    occurrence has a row for each wordpiece.
    """
    rows = []
    for group in found.groups:
        positions_N = store.positions(np.array(group.row_ids, np.int64))
        rows += [{**around_word(row), **row, "group": group.number} for row in store.rows(positions_N)]
    return pa.Table.from_pylist(rows, _SENSES)


def layers_table(found: Trends) -> pa.Table:
    """Return a row for each word, or for the sample, and each layer and kind of vector, with its measures.

    ``word`` is null for the sample.
    """
    kinds = {"word": pa.string(), "words": pa.int32(), "occurrences": pa.int64(), "sentences": pa.int64()}
    kinds |= {"layer": pa.int32(), "kind": pa.string()}
    rows = [
        {
            "word": trend.words[0] if found.eligible_words is None else None,
            "words": len(trend.words),
            "occurrences": trend.occurrences,
            "sentences": trend.sentences,
            **asdict(measures),
        }
        for trend in found.trends
        for measures in trend.measures
    ]
    names = [*kinds, *(name for name in rows[0] if name not in kinds)]
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    return pa.Table.from_pylist(rows, schema)
