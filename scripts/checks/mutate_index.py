"""Mutations of an index's FAISS file under right checksums."""

import random

import numpy as np

from scripts.checks.targets import CODEBOOK, INDEX, PART, Mutation, Target, adopt, declare_in

MUTATIONS: list[Mutation] = []
_mutation = declare_in(MUTATIONS)


@_mutation(INDEX, sealed=True, weight=5)
def _other_index(chance: random.Random, target: Target) -> str:
    import faiss

    index = faiss.read_index(str(target.path))
    how = chance.choice(
        ("fewer", "more", "none", "ids", "dimension", "flat", "l2", "untrained", "lists", "binary")
    )
    vectors = np.random.default_rng(1).standard_normal((500, index.d)).astype(np.float32)
    if how == "fewer":
        index.remove_ids(np.arange(0, index.ntotal, 2))
    elif how == "more":
        index.add(vectors)
    elif how == "none":
        index.reset()
    elif how == "ids":
        total = index.ntotal
        index.reset()
        ids = np.random.default_rng(2).integers(-(2**40), 2**40, 500)
        index.add_with_ids(vectors, ids)
        index.ntotal = total
    elif how == "dimension":
        index = faiss.index_factory(16, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:, :16].copy())
        index.add(vectors[:, :16].copy())
    elif how == "flat":
        index = faiss.IndexFlatIP(index.d)
        index.add(vectors)
    elif how == "l2":
        index = faiss.index_factory(index.d, "IVF4,Flat")
        index.train(vectors)
        index.add(vectors)
    elif how == "untrained":
        index = faiss.index_factory(index.d, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    elif how == "lists":
        index = faiss.index_factory(index.d, "IVF64,PQ4x4fs", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    if how == "binary":
        faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(target.path))
    else:
        faiss.write_index(index, str(target.path))
    adopt(target)
    return f"{how}, sealed"


@_mutation(CODEBOOK, PART, sealed=True, weight=10)
def _other_codes(chance: random.Random, target: Target) -> str:
    """Change centroids, or lists and codes of rows; the first 32 bytes say what a part is made from."""
    content = bytearray(target.path.read_bytes())
    first = chance.randrange(32, len(content) - 32)
    last = min(len(content) - 32, first + chance.choice((1, 8, 500)))
    content[first:last] = chance.choice((b"\x00", b"\xff", b"\x7f")) * (last - first)
    if chance.random() < 0.2:
        content = content[: chance.randrange(64, len(content))]
    target.path.write_bytes(content)
    adopt(target)
    return f"bytes {first} to {last}, sealed"


@_mutation(INDEX, sealed=True, weight=5)
def _index_fields(chance: random.Random, target: Target) -> str:
    """Numbers in the head of the index, where its sizes are."""
    content = bytearray(target.path.read_bytes())
    width = chance.choice((4, 8))
    at = chance.choice((*range(0, 160, 4), *range(len(content) - 200, len(content) - 8, 4)))
    value = chance.choice(
        (0, 1, 2**31 - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2**33, 10**9)
    ) % 2 ** (8 * width)
    content[at : at + width] = value.to_bytes(width, "little")
    target.path.write_bytes(content)
    adopt(target)
    return f"{width} bytes at {at} = {value}, sealed"
