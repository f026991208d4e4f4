"""What a command sets up before it computes."""

import pytest

from experiments.runtime.backend import prepare_backend
from resjax import InputError


def test_a_cache_of_programs_that_cannot_be_made_is_said_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--compilation_cache .*file/x cannot be made: .*; use 'off' for no cache"):
        prepare_backend((8,), str(tmp_path / "file" / "x"))
