"""Keyed hashes and permutations of whole numbers, computed one element at a time.

Everything here is a pure function of its arguments, works on numpy arrays of any shape and needs
no table of the size of what it permutes, so the 2^40-th element costs as much as the first.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

Uint64Array = NDArray[np.uint64]

_WORD = 0xFFFFFFFFFFFFFFFF
_GOLDEN_INT = 0x9E3779B97F4A7C15
_GOLDEN = np.uint64(_GOLDEN_INT)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_ROUNDS = 8


def key_of(text: str) -> int:
    """Turns a text into a 64-bit key: the first 8 bytes of its SHA-256, big-endian."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def hash64(key: ArrayLike, *parts: ArrayLike) -> Uint64Array:
    """Hashes whole numbers under a key; arguments broadcast against each other.

    Args:
        key: 64-bit key or array of keys.
        parts: Numbers in [0, 2^64); their order matters.

    Returns:
        Uniform 64-bit numbers, at least one-dimensional.
    """
    state = _mix(_uint64(key))
    for part in parts:
        state = _mix((state + _GOLDEN) ^ _mix(_uint64(part) + _GOLDEN))
    return state


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """Maps each index of [0, size) to its place in a permutation of [0, size) named by a key.

    A Feistel network over the smallest power of two that holds `size`, repeated for the few
    elements it sends out of range (cycle walking; fewer than two passes each on average).

    Args:
        index: Numbers in [0, size).
        size: Length of the permuted range, one number or one per element, at most 2^62.
        key: 64-bit key, one number or one per element.

    Returns:
        int64 array of the broadcast shape, at least one-dimensional.
    """
    value, limit, keys = np.broadcast_arrays(_uint64(index), _uint64(size), _uint64(key))
    if np.any(value >= limit):
        raise ValueError("every index must lie in [0, size)")
    bits = _bit_length(limit - np.uint64(1))
    keys = _mix(keys)
    result = _feistel(value, bits, keys)
    outside = np.flatnonzero(result >= limit)
    while outside.size:
        again = _feistel(result.flat[outside], bits.flat[outside], keys.flat[outside])
        result.flat[outside] = again
        outside = outside[again >= limit.flat[outside]]
    return result.astype(np.int64)


def _feistel(value: Uint64Array, bits: Uint64Array, key: Uint64Array) -> Uint64Array:
    """One pass: a bijection of [0, 2^bits), halves of bits // 2 and the rest."""
    low_bits = bits - bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits // np.uint64(2))) - np.uint64(1)
    high, low = value >> low_bits, value & low_mask
    for number in range(_ROUNDS):
        round_key = key + np.uint64(_GOLDEN_INT * number & _WORD)
        if number % 2:
            high = high ^ (_mix(low + round_key) & high_mask)
        else:
            low = low ^ (_mix(high + round_key) & low_mask)
    return (high << low_bits) | low


def _mix(value: Uint64Array) -> Uint64Array:
    """The finaliser of splitmix64: a bijection in which every input bit reaches every output."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_A
    value = (value ^ (value >> np.uint64(27))) * _MIX_B
    return value ^ (value >> np.uint64(31))


def _bit_length(value: Uint64Array) -> Uint64Array:
    """Bits needed to write each value; 0 for 0."""
    bits = np.zeros(value.shape, dtype=np.uint64)
    rest = value.copy()
    for shift in (32, 16, 8, 4, 2, 1):
        large = rest >= np.uint64(1) << np.uint64(shift)
        bits += np.where(large, np.uint64(shift), np.uint64(0))
        rest = np.where(large, rest >> np.uint64(shift), rest)
    return bits + rest


def _uint64(value: ArrayLike) -> Uint64Array:
    """Arrays only: numpy scalars warn when unsigned arithmetic wraps, arrays do not."""
    if isinstance(value, int):
        return np.array([value & _WORD], dtype=np.uint64)
    return np.atleast_1d(np.asarray(value)).astype(np.uint64, copy=False)
