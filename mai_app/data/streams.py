"""First numbers of many of numpy's random streams at once: what default_rng([…, i]).integers(n) gives for each i.

A batch of cached features is read in the time that numpy takes to make a dozen generators, and each draw has a stream
of its own. So this repeats, for all of an epoch's draws together, what numpy does: SeedSequence (O'Neill 2015,
"Developing a seed_seq Alternative"), the first output of PCG64 (O'Neill 2014, "PCG", XSL-RR 128/64), and Lemire's
bounded integers (2019, "Fast Random Integer Generation in an Interval").
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""(n,) of a 32-bit word of each stream, or of a 64-bit one; sums and products wrap."""

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MULTIPLIER: Final = (0x2360ED051FC65DA4, 0x4385DF649FCCF645)  # PCG64's, upper and lower half


def first_integers(seeds: tuple[int, ...], count: int, below: int) -> npt.NDArray[np.int64]:
    """For each i under count np.random.default_rng([*seeds, i]).integers(below), as (count,) int64.

    At most three seeds from 0 on, and below from 1 to 2**31.
    """
    if max(seeds) > _LOW:  # of several words, and rare
        return np.array([np.random.default_rng([*seeds, i]).integers(below) for i in range(count)], dtype=np.int64)
    if below == 1:
        return np.zeros(count, dtype=np.int64)
    with np.errstate(over="ignore"):
        words = _pcg64(
            _seed_words([*(np.full(count, seed, np.uint64) for seed in seeds), np.arange(count, dtype="u8")])
        )
        products = (words & _LOW) * np.uint64(below)
    found = (products >> _HALF).astype(np.int64)
    # One in billions is drawn again: numpy does that.
    for i in np.flatnonzero((products & _LOW) < below):
        found[i] = np.random.default_rng([*seeds, int(i)]).integers(below)
    return found


def _seed_words(entropy: list[Words]) -> list[Words]:
    """SeedSequence(entropy).generate_state(4, uint64) of each stream; the entropy's words have 32 bits, at most 4."""
    constant = 0x43B0D7E5
    entropy = entropy + [np.zeros_like(entropy[0])] * (4 - len(entropy))

    def scramble(value: Words, multiplier: int) -> Words:
        nonlocal constant
        value = value ^ np.uint64(constant)
        constant = constant * multiplier & 0xFFFFFFFF
        value = value * np.uint64(constant) & _LOW
        return value ^ (value >> np.uint64(16))

    pool = [scramble(word, 0x931E8875) for word in entropy]
    for source in range(4):
        for target in range(4):
            if source != target:
                other = scramble(pool[source], 0x931E8875)
                mixed = (pool[target] * np.uint64(0xCA01F9DD) - other * np.uint64(0x4973F715)) & _LOW
                pool[target] = mixed ^ (mixed >> np.uint64(16))
    constant = 0x8B51F9DD
    halves = [scramble(pool[i % 4], 0x58F38DED) for i in range(8)]
    return [halves[2 * i] | (halves[2 * i + 1] << _HALF) for i in range(4)]


def _pcg64(words: list[Words]) -> Words:
    """The first 64-bit output of PCG64 with these four words as state and stream, upper halves first."""
    one = np.uint64(1)
    step = ((words[2] << one) | (words[3] >> np.uint64(63)), (words[3] << one) | one)
    # The state begins at 0, so that its first step gives the increment; it steps once more before it is read.
    high, low = _add(step, (words[0], words[1]))
    for _ in range(2):
        high, low = _add(_multiply(high, low), step)
    turn: Words = np.right_shift(high, np.uint64(58))
    mixed: Words = np.bitwise_xor(high, low)
    turned: Words = np.right_shift(mixed, turn) | np.left_shift(mixed, (np.uint64(64) - turn) & np.uint64(63))
    return turned


def _add(a: tuple[Words, Words], b: tuple[Words, Words]) -> tuple[Words, Words]:
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(np.uint64), low


def _multiply(high: Words, low: Words) -> tuple[Words, Words]:
    """Times PCG64's multiplier, modulo 2**128."""
    by_high, by_low = (np.uint64(half) for half in _MULTIPLIER)
    a, b, c, d = low >> _HALF, low & _LOW, by_low >> _HALF, by_low & _LOW
    middle = a * d + ((b * d) >> _HALF)
    carried = b * c + (middle & _LOW)
    return high * by_low + low * by_high + a * c + (middle >> _HALF) + (carried >> _HALF), low * by_low
