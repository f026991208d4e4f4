"""A pretrained directory."""

import hashlib
import json

import pytest
from safetensors.numpy import load_file, save_file

from resjax import save_pretrained
from tests.helpers.pretrained_networks import MODEL, draw


@pytest.fixture
def variables(draw_variables):
    return draw(draw_variables, MODEL)


@pytest.fixture
def saved(tmp_path, variables):
    """A directory with `MODEL`."""
    save_pretrained(tmp_path / "saved", MODEL, variables)
    return tmp_path / "saved"


@pytest.fixture
def edit(saved):
    """edit(change) has change(config) alter the config; edit(arrays=change) the arrays, under their true digest."""

    def edited(config=lambda config: None, arrays=None):
        content = json.loads((saved / "config.json").read_text())
        if arrays is not None:
            held = load_file(saved / "model.safetensors")
            arrays(held)
            save_file(held, saved / "model.safetensors")
            content["weights_sha256"] = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
        content.pop("config_sha256", None)  # as in folders that were written before there was one
        config(content)
        (saved / "config.json").write_text(json.dumps(content))
        return saved

    return edited
