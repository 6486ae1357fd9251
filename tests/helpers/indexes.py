"""Makes builds of indexes quick, for tests that need an index and not how well it is tuned."""

from ctxbatch.search import index_choice, index_tuning, new_queries

_OTHERS = new_queries._of_another_kind


def _few_others(random):
    return _OTHERS(random)[:16]


# What to set where: stores of few rows have indexes, too; a build tunes and measures with a tenth of the
# queries, which take most of its time.
QUICK = (
    (index_choice, "LEAST_ROWS", 100),
    (index_tuning, "_QUERIES", 32),
    (index_tuning, "_FILTERED_QUERIES", 8),
    (new_queries, "_ALTERED", 16),
    (new_queries, "_of_another_kind", _few_others),
)
