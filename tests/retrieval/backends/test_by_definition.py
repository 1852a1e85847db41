"""Counts and places of random inputs, by every engine, against the definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.retrieval import Ranking, hamming
from tests.retrieval.backends.test_backends import EACH, KINDS, drawn


def by_definition(query, database, query_labels, database_labels, nbit):
    distance = hamming(query, database)
    if query_labels.ndim == 1:
        relevant = query_labels[:, None] == database_labels[None]
    else:
        relevant = query_labels.astype(int) @ database_labels.T.astype(int) > 0
    items, hits = (np.zeros((len(query), nbit + 1), dtype=np.int64) for _ in range(2))
    for q, row in enumerate(distance):
        for d, shares in zip(row, relevant[q], strict=True):
            items[q, d] += 1
            hits[q, d] += shares
    order = [sorted(range(len(row)), key=lambda i, row=row: (row[i], i)) for row in distance]
    places = [[k for k, i in enumerate(seen) if relevant[q, i]] for q, seen in enumerate(order)]
    return items, hits, places


@EACH
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 9),
    size=st.one_of(st.integers(1, 40), st.integers(500, 1100)),
    nbit=st.sampled_from([1, 2, 7, 8, 9, 31, 48, 64, 65, 127, 128, 129, 200, 255, 256, 300]),
    classes=st.sampled_from([1, 3, 64, 65, 130]),
    kind=st.sampled_from(KINDS),
)
def test_counts_and_places_are_those_of_the_definition(
    engine, seed, queries, size, nbit, classes, kind
):
    given_ = drawn(seed, queries, size, nbit, classes, kind)
    items, hits, places = by_definition(*given_, nbit)
    ranking = Ranking(*given_, nbit, engine)
    np.testing.assert_array_equal(ranking.counts[0], items)
    np.testing.assert_array_equal(ranking.counts[1], hits)
    assert [result.tolist() for result in ranking.each(np.copy)] == places
    top = 1 + seed % size
    cut = [[place for place in row if place < top] for row in places]
    assert [result.tolist() for result in ranking.each(np.copy, top)] == cut
