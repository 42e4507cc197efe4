"""The kernels of `kernels/` as objects of CuPy, which compiles each at its first use and keeps it on disk.

A pass over elements is an ElementwiseKernel, a pass that contains a sum a RawModule. S is the type that arrays are
stored in, T the type of the arithmetic (see kernels/cuda/blocks.h).
"""

from __future__ import annotations

import functools
from typing import Any

from .slots import CONSTANTS, HYPER, SOURCES


@functools.cache
def text(*files: str) -> str:
    """Return the text of headers, to be pasted into a kernel: CuPy's disk cache does not depend on included files."""
    return "\n".join((SOURCES / file).read_text() for file in ("common.h", *files, "cuda/blocks.h"))


_STORED = {
    "float32": "typedef float S;", "float64": "typedef double S;",
    "float16": "#include <cuda_fp16.h>\ntypedef __half S;",
    "bfloat16": "#include <cuda_bf16.h>\ntypedef __nv_bfloat16 S;",
}
_COMPUTED = {"float32": "typedef float T;", "float64": "typedef double T;"}
_HEADERS = {"columns.cu": ("activations.h",), "losses.cu": ("slots.h", "activations.h", "losses.h"),
            "norms.cu": ("norms.h",), "clip.cu": ("slots.h",), "penalty.cu": ()}


@functools.cache
def raw(cupy: Any, file: str, function: str, dtype: str, wide: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    """Return a function of a .cu file, compiled with these macros."""
    given = "".join(f"#define {name} {value}\n" for name, value in defines)
    code = f"{_STORED[dtype]}\n{_COMPUTED[wide]}\n#define XPD_RAW\n{text(*_HEADERS[file])}\n{given}"
    return cupy.RawModule(code=code + (SOURCES / "cuda" / file).read_text(),
                          options=("--std=c++17",)).get_function(function)


def elementwise(cupy: Any, name: str, inputs: str, outputs: str, operation: str, *headers: str) -> Any:
    """Return an ElementwiseKernel; S, the stored type, is the type of one of its arguments."""
    preamble = text(*headers) + "\ntypedef xpd_wide<S>::type T;\n"
    return cupy.ElementwiseKernel(inputs, outputs, operation, f"xpdense_{name}", preamble=preamble)


@functools.cache
def increase(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("", "int64 row", "row += 1", "xpdense_increase")


@functools.cache
def copy(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("X source", "X target", "target = source", "xpdense_copy")


@functools.cache
def from_row(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("raw X table, raw int64 row, int64 size", "X target",
                                  "target = table[row[0] * size + i]", "xpdense_from_row")


@functools.cache
def to_row(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("X source, raw int64 row, int64 size", "raw X table",
                                  "table[row[0] * size + i] = source", "xpdense_to_row")


@functools.cache
def assign(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("float64 a, float64 b, float64 c, float64 d", "X target",
                                  "target = X(i == 0 ? a : i == 1 ? b : i == 2 ? c : d)", "xpdense_assign")


@functools.cache
def gather(cupy: Any) -> Any:
    return cupy.ElementwiseKernel(
        "raw X x, raw int64 rows, int64 count, uint32 size", "X y",
        """const long long row = rows[(unsigned)i / size];
        y = row >= 0 && row < count ? x[row * size + (unsigned)i % size] : X(0)""", "xpdense_gather")


@functools.cache
def add(cupy: Any) -> Any:
    return elementwise(cupy, "add", "S a, S b", "S y", "y = S(T(a) + T(b))")


@functools.cache
def blend(cupy: Any) -> Any:
    return cupy.ElementwiseKernel("T batch, float64 momentum", "T running",
                                  "running += T(momentum) * (batch - running)", "xpdense_blend")


@functools.cache
def activate(cupy: Any, name: str, parameter: str, saves: str, biased: bool) -> Any:
    z = "T(z) + T(bias[(unsigned)i % cols])" if biased else "T(z)"
    formula = f"act_{name}<T>::forward"
    if saves == "output":
        operation = f"z = S({formula}({z}, T({parameter})))"
    else:
        operation = f"z = S({z}); a = S({formula}(T(z), T({parameter})))"
    return elementwise(cupy, f"activate_{name}", "raw S bias, uint32 cols" if biased else "",
                        "S z" if saves == "output" else "S z, S a", operation, "activations.h")


@functools.cache
def activate_backward(cupy: Any, name: str, parameter: str) -> Any:
    operation = f"dz = S(T(da) * act_{name}<T>::derivative(T(saved), T({parameter})))"
    return elementwise(cupy, f"activate_backward_{name}", "S saved, S da", "S dz", operation, "activations.h")


@functools.cache
def scale_shift(cupy: Any) -> Any:
    return elementwise(
        cupy, "scale_shift",
        "S x, raw T mean, raw T variance, raw S gain, raw S bias, uint32 cols, float64 epsilon", "S y",
        """const unsigned j = (unsigned)i % cols;
        y = S(xpd_norm<T>::fixed(T(x), mean[j], variance[j], T(gain[j]), T(bias[j]), T(epsilon)))""", "norms.h")


@functools.cache
def dropout(cupy: Any) -> Any:
    return elementwise(
        cupy, "dropout", "S x, raw int64 step, uint32 key0, uint32 key1, uint64 limit, float64 keep", "S y",
        """unsigned c[4];
        xpd_random_words((unsigned long long)i / 4, (unsigned long long)step[0], key0, key1, c);
        y = S(xpd_dropout(T(x), c[i % 4], limit, T(keep)))""", "random.h")


@functools.cache
def update(cupy: Any, rule: str, buffers: int, scalars: int, decoupled: bool, factor: bool, scaled: bool,
           working: bool) -> Any:
    """Return the kernel of an optimizer's rule; its parameters after `weight_decay` are the constants of the rule."""
    held = "".join(f", T s{i}" for i in range(buffers))
    now = [f"hyper[{i}]" for i in range(scalars)] + ["T(0)"] * (len(HYPER) - scalars)
    old = [f"s{i}" for i in range(buffers)] + ["T(0)"] * (2 - buffers)
    names = CONSTANTS.get(rule, ())
    constants = ", ".join(f"T({name})" for name in names) or "T(0)"
    operation = f"""
        const T h[slots::HYPER] = {{{', '.join(now)}}}, c[] = {{{constants}}};
        const T decay = i < decay_size ? T(weight_decay) : T(0), f = {'factor[0]' if factor else 'T(1)'};
        T x = p, a = {old[0]}, b = {old[1]}, grad = T(g) * f;
        {'x *= T(1) - h[slots::rate] * decay' if decoupled else 'grad += decay * x'};
        rule_{rule}<T>::step(x, grad, a, b, h, c);
        {'if (f != T(0))' if scaled else ''} {{
            p = x;
            {' '.join(f's{i} = {new};' for i, new in zip(range(buffers), 'ab', strict=False))}
            {'w = S(x);' if working else ''}
        }}"""
    return elementwise(
        cupy, f"update_{rule}", "S g, raw T hyper, " + ("raw T factor, " if factor else "") + "int64 decay_size, "
        "float64 weight_decay" + "".join(f", float64 {name}" for name in names),
        f"T p{held}" + (", S w" if working else ""), operation, "slots.h", "optimizers.h")
