"""A few damaged images for the installed library; ``make fuzz`` tries many under sanitizers."""

from fuzz_packed import DAMAGED, OK, fuzz

from eca_lightning.data.ffcv.packed import native


def test_damaged_images_are_refused_or_decoded_alike_by_every_kernel():
    seen = fuzz(native.library(), 400, seed=1)
    assert seen[OK] > 60
    assert seen[DAMAGED] > 100
