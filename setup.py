"""What pyproject.toml cannot say: that the installation goes on without a C++ compiler, and where kernels/ goes."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

# With -pthread, since a C library may keep threads apart; no -ffast-math.
NATIVE = Extension(
    "xpdense._native",
    sources=["kernels/cpu/native.cpp"],
    depends=sorted(glob("kernels/*.h") + glob("kernels/cpu/*.h")),
    extra_compile_args=["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-pthread"],
    extra_link_args=["-pthread"],
    language="c++",
    optional=True,
)
RUN_TIME = sorted(glob("kernels/*.h") + glob("kernels/cuda/*.h") + glob("kernels/cuda/*.cu"))


class BuildExt(build_ext):
    """Where the library cannot be compiled the installation goes on, and says so."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            # Half a library would pass for an up-to-date one in the next build; a checkout's may be of other sources.
            for folder in (self.build_lib, *(["src"] if self.editable_mode else [])):
                Path(folder, self.get_ext_filename(ext.name)).unlink(missing_ok=True)
            self.warn(f"{ext.name} was not compiled: {error}")
            self.warn("no C++ compiler that works: xpdense will compute with NumPy alone, slower and equal; "
                      "install g++ or clang and reinstall")


class BuildPy(build_py):
    """Installs the kernel sources that are compiled at run time; those of a checkout are read where they lie."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source in RUN_TIME:
                target = Path(self.build_lib, "xpdense", source)
                self.mkpath(str(target.parent))
                self.copy_file(source, str(target))


setup(ext_modules=[NATIVE], cmdclass={"build_ext": BuildExt, "build_py": BuildPy})
