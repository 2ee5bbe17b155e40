"""The compiled parts of the package; everything else is in pyproject.toml.

They are optional: without a C compiler or libjpeg-turbo's headers (libjpeg62-turbo-dev, or
libjpeg-turbo8-dev on Ubuntu) the installation goes on, and FFCV's own decoder is used.
"""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("eca_lightning/data/ffcv/native")


def library(name: str, sources: list[Path]) -> Extension:
    """Describe a library on libjpeg-turbo and the sources that it shares with the others."""
    return Extension(
        f"eca_lightning.data.ffcv.{name}",
        sources=sorted(map(str, sources)),
        depends=sorted(map(str, NATIVE.rglob("*.h"))),
        libraries=["jpeg", "m"],
        # Without contraction a product and a sum round alike on every machine.
        extra_compile_args=[
            "-std=gnu11",
            "-O3",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fvisibility=hidden",
        ],
        optional=True,
        py_limited_api=True,  # one wheel for all versions of Python
    )


setup(
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    ext_modules=[
        library("_crop_decode", list(NATIVE.glob("*.c"))),
        library(
            "packed._packed",
            [*NATIVE.glob("packed/*.c"), NATIVE / "filter.c", NATIVE / "jpeg_guard.c"],
        ),
    ],
)
