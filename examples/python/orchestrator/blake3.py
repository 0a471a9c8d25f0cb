"""BLAKE3, the hash of schemas, which `hashlib` does not have.

Written from the specification (O'Connor, Aumasson, Neves, Wilcox-O'Hearn: "BLAKE3, one function,
fast everywhere", 2021), for the default hash mode with its 32 bytes of output. It is meant for
short inputs such as schemas, at most 65,536 bytes: it takes some two milliseconds for each 1,024
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack

# The first 32 bits of the fractional parts of the square roots of the first eight primes.
_IV = (
    0x6A09E667,
    0xBB67AE85,
    0x3C6EF372,
    0xA54FF53A,
    0x510E527F,
    0x9B05688C,
    0x1F83D9AB,
    0x5BE0CD19,
)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_BLOCK, _CHUNK = 64, 1024
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_MASK = 0xFFFFFFFF

# Columns, then diagonals: the four words that each quarter of a round mixes.
_QUARTERS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)

_Node = tuple[Sequence[int], tuple[int, ...], int, int, int]


def blake3(message: bytes) -> bytes:
    """The 32 bytes of the BLAKE3 hash of `message`.

    >>> blake3(b"").hex()[:16]
    'af1349b9f5f9a1a6'
    """
    chunks = [message[at : at + _CHUNK] for at in range(0, len(message), _CHUNK)] or [b""]
    nodes = [_chunk(chunk, number) for number, chunk in enumerate(chunks)]
    root = _tree(nodes)
    return pack("<8I", *_compress(*root[:4], root[4] | _ROOT))


def _tree(nodes: list[_Node]) -> _Node:
    """The node above all of these: on its left the largest power of two of them that leaves
    something for its right."""
    if len(nodes) == 1:
        return nodes[0]
    left = 1 << (len(nodes) - 1).bit_length() - 1
    words = _compress(*_tree(nodes[:left])) + _compress(*_tree(nodes[left:]))
    return _IV, tuple(words), 0, _BLOCK, _PARENT


def _chunk(chunk: bytes, number: int) -> _Node:
    """The last block of a chunk, not compressed yet, because it may be the root."""
    value: Sequence[int] = _IV
    starts = range(0, max(len(chunk), 1), _BLOCK)
    for start in starts:
        block = chunk[start : start + _BLOCK]
        words = unpack("<16I", block.ljust(_BLOCK, b"\0"))
        flags = _CHUNK_START if start == 0 else 0
        if start == starts[-1]:
            break
        value = _compress(value, words, number, _BLOCK, flags)
    return value, words, number, len(block), flags | _CHUNK_END


def _compress(
    value: Sequence[int], words: tuple[int, ...], counter: int, length: int, flags: int
) -> list[int]:
    low, high = counter & _MASK, counter >> 32
    state = [*value, *_IV[:4], low, high, length, flags]
    for turn in range(7):
        if turn > 0:
            words = tuple(words[i] for i in _PERMUTATION)
        for quarter, (a, b, c, d) in enumerate(_QUARTERS):
            x, y = words[2 * quarter], words[2 * quarter + 1]
            _mix(state, a, b, c, d, x, y)
    return [state[i] ^ state[i + 8] for i in range(8)]


def _mix(state: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    state[a] = (state[a] + state[b] + x) & _MASK
    state[d] = _rotated(state[d] ^ state[a], 16)
    state[c] = (state[c] + state[d]) & _MASK
    state[b] = _rotated(state[b] ^ state[c], 12)
    state[a] = (state[a] + state[b] + y) & _MASK
    state[d] = _rotated(state[d] ^ state[a], 8)
    state[c] = (state[c] + state[d]) & _MASK
    state[b] = _rotated(state[b] ^ state[c], 7)


def _rotated(word: int, count: int) -> int:
    """Rotated to the right."""
    return (word >> count | word << (32 - count)) & _MASK
