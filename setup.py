"""The compiled part of the package; everything else is in pyproject.toml.

It is optional: without a C compiler or libjpeg-turbo's headers (libjpeg62-turbo-dev, or
libjpeg-turbo8-dev on Ubuntu) the installation goes on, and FFCV's own decoder is used.
"""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("eca_lightning/data/ffcv/native")

setup(
    ext_modules=[
        Extension(
            "eca_lightning.data.ffcv._crop_decode",
            sources=[str(path) for path in sorted(NATIVE.glob("*.c"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            libraries=["jpeg", "m"],
            # Without contraction a product and a sum round alike on every machine.
            extra_compile_args=["-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)
