"""Inception v1 and v3 against torchvision's, auxiliary heads and transform_input included."""

from pathlib import Path

import pytest
import torch
import torchvision

from deploykit.models.registry import MODELS, load_model
from tests.oracles.test_models_oracles import assert_same_logits, pictures, randomize

THEIRS = {"inception_v1": "googlenet", "inception_v3": "inception_v3"}


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_logits_are_torchvisions_whose_checkpoint_has_auxiliary_heads_and_transforms_its_input(name: str, tmp_path: Path) -> None:
    theirs = torchvision.models.get_model(THEIRS[name], init_weights=False, aux_logits=True, transform_input=False)
    source = load_model(name, seed=1).model
    randomize(source, seed=2)
    missing = theirs.load_state_dict(source.state_dict(), strict=False)
    assert all(key.startswith(MODELS[name].training_only) for key in missing.missing_keys)
    assert not missing.unexpected_keys
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = load_model(name, weights_file=tmp_path / "w.pth").model
    assert_same_logits(ours, theirs, 75)
    pixels = (pictures(75).double() + 3) / 6
    theirs.transform_input = True
    spec = torchvision.models.get_model_weights(THEIRS[name]).DEFAULT.transforms()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (spec.mean, spec.std))
    own_mean, own_std = (torch.tensor(v).double().view(3, 1, 1) for v in (MODELS[name].image.mean, MODELS[name].image.std))
    # The same affine map in another order of operations, in float64.
    torch.testing.assert_close(ours((pixels - own_mean) / own_std), theirs((pixels - mean) / std), rtol=0, atol=1e-8)
