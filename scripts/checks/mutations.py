"""All mutations of a store's files, in the order in which a case draws one of them.

The order is part of what a seed means: a mutation in another place makes other cases of the same numbers.
"""

from scripts.checks import mutate_arrow, mutate_bytes, mutate_files, mutate_index, mutate_json

MUTATIONS = (
    *mutate_bytes.MUTATIONS,
    *mutate_files.MUTATIONS,
    *mutate_json.MUTATIONS,
    *mutate_bytes.SEALED,
    *mutate_arrow.MUTATIONS,
    *mutate_index.MUTATIONS,
)
