"""The example of a dense head learns to segment made masks."""

import pytest

from examples.dense_head import made_clips, main


def test_masks_show_the_square_that_is_brighter() -> None:
    clips, masks = made_clips(3)
    assert masks.sum(dim=(2, 3)).eq(32 * 32).all()
    assert (clips[:, 0][masks == 1].mean() - clips[:, 0][masks == 0].mean()).item() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_a_head_on_a_frozen_network_segments() -> None:
    assert main(None) > 0.7
