"""Random streams by the thousand: the very numbers that numpy's own generators give."""

import numpy as np
import pytest

from mai_app.data.streams import first_integers


@pytest.mark.parametrize("seeds", [(0, 0), (7, 3), (2**32 - 1, 100), (5,), (1, 2, 3), (2**40, 1)])
@pytest.mark.parametrize("below", [1, 2, 3, 7, 2**31])
def test_each_is_the_first_number_of_its_stream(seeds: tuple[int, ...], below: int) -> None:
    numpys = [np.random.default_rng([*seeds, i]).integers(below) for i in range(300)]
    assert first_integers(seeds, 300, below).tolist() == numpys
