import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations

from ancestral.tools.demo.digits import HELD_OUT, THRESHOLD, load


def test_all_1797_images_are_there_in_the_two_parts() -> None:
    digits = load()
    assert digits.train.shape == (1797 - HELD_OUT, 64)
    assert digits.held_out.shape == (HELD_OUT, 64)


def test_pixels_are_float_zeros_and_ones_and_both_occur() -> None:
    images = torch.cat([*load().train, *load().held_out])
    assert images.dtype == torch.float32
    assert set(torch.unique(images).tolist()) == {0.0, 1.0}


def test_the_split_is_the_same_every_time_whatever_the_global_seed() -> None:
    torch.manual_seed(1)
    first = load()
    torch.manual_seed(2)
    again = load()
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.held_out, again.held_out)


def test_another_split_seed_makes_another_split() -> None:
    assert not torch.equal(load(0).held_out, load(1).held_out)


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    load()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_two_parts_are_disjoint_and_complete() -> None:
    """As multisets: some images are equal once binarized, but none is used twice or lost."""
    images = (torch.as_tensor(load_digits(return_X_y=True)[0]) >= THRESHOLD).float()
    digits = load()
    parts = torch.cat([digits.train, digits.held_out])
    assert sorted(parts.tolist()) == sorted(images.tolist())
