"""Build of the native (C++) parts; everything declarative stands in pyproject.toml.

Floating-point contraction is off in every extension: the cell of a point and the pillar means have to come out
bit-identical to their numpy twins.
"""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"]

ParallelCompile("PD_EDGE_BUILD_JOBS", default=2).install()

setup(
    ext_modules=[
        Pybind11Extension(
            f"pd_edge.native._{name}",
            [f"pd_edge/native/{name}.cpp"],
            depends=sorted(map(str, Path("pd_edge/native").glob("*.hpp"))),
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
        for name in ("boxes", "pillars", "rulebooks", "voxels")
    ],
    cmdclass={"build_ext": build_ext},
)
