"""Counts of shapes and bytes of a cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.shapes import COMPONENTS, KvShape, Layout, LinearShape


def test_a_layout_counts_weights_and_biases_by_component():
    whole = Layout(
        linears=(
            LinearShape("q_proj", 4, 6, count=2, bias=True),
            LinearShape("fc1", 3, 5, bias=True, component="vision_tower"),
        ),
        rest={"norms": 7, "embeddings": 40, "vision_tower": 2, "experts": 0},
        kv=KvShape(1, 1, 1),
        hidden_size=4,
        vocab_size=10,
    )
    assert whole.components == {"embeddings": 40, "linear": 48, "linear_bias": 12, "norms": 7, "vision_tower": 22}
    assert list(whole.components) == [c for c in COMPONENTS if c in whole.components]
    assert whole.parameters == 129


@given(
    tokens=st.integers(0, 5000),
    sequences=st.integers(1, 5),
    window=st.integers(1, 3000),
    full=st.integers(0, 6),
    sliding=st.integers(0, 6),
    state=st.integers(0, 1000),
)
def test_the_cache_grows_with_tokens_up_to_the_window(tokens, sequences, window, full, sliding, state):
    kv = KvShape(full, 2, 8, sliding, window, 3, 4, state)
    expected = sequences * (tokens * full * 2 * 8 * 2 * 2 + min(tokens, window) * sliding * 3 * 4 * 2 * 2 + state)
    assert kv.bytes_for(tokens, sequences) == expected
    assert kv.bytes_for(tokens + 1, sequences) >= kv.bytes_for(tokens, sequences)


def test_a_cache_of_one_byte_values_is_half():
    kv = KvShape(32, 8, 128)
    assert kv.bytes_per_token(1) * 2 == kv.bytes_per_token() == 131072
