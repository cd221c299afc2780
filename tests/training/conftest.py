"""Settings shared by the tests of training."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Products this small are slower on many cores, above all while something else uses those."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
