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


@given(heads=st.integers(1, 9), key=st.integers(1, 64), value=st.integers(1, 64), tokens=st.integers(0, 999))
def test_keys_and_values_may_differ_in_width(heads, key, value, tokens):
    kv = KvShape(3, heads, key, value_dim=value)
    assert kv.bytes_for(tokens) == tokens * 3 * heads * (key + value) * 2
    assert KvShape(3, heads, key).bytes_for(tokens) == KvShape(3, heads, key, value_dim=key).bytes_for(tokens)


def test_a_latent_is_kept_once_a_layer_unless_it_is_expanded():
    kv = KvShape(2, 16, 192, value_dim=128, latent_width=576)
    assert kv.bytes_per_token() == 2 * 576 * 2
    assert kv.bytes_per_token(1) == 2 * 576
    assert kv.bytes_per_token(latent=False) == 2 * 16 * 320 * 2
    assert kv.bytes_for(10, 3, latent=False) == 3 * 10 * kv.bytes_per_token(latent=False)


def test_an_engine_without_a_form_of_its_own_holds_the_common_one():
    grouped = KvShape(2, 8, 64)
    repeated = KvShape(2, 64, 64, vllm=grouped)
    assert repeated.held_by("vllm") is grouped
    assert repeated.held_by("local") is repeated
    assert grouped.held_by("vllm") is grouped
