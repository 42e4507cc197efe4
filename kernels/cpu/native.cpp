// The kernels, compiled for the CPU: a Python module of one function, `call(kernel, arrays, sizes, scalars)`.
//
// What a kernel computes is in kernels/*.h, its loop in loops.h. The loops are compiled once for each instruction set
// below, and the best one that this processor has is taken when the module is imported. Nothing here checks shapes:
// xpdense/ops/native.py does, and is the only caller.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int MOST_ARRAYS = 7, MOST_SIZES = 4, MOST_SCALARS = 10;

struct Arguments {
    char *p[MOST_ARRAYS];
    long n[MOST_SIZES];
    double s[MOST_SCALARS];
};

using Kernel = int (*)(const Arguments &);  // 0, or 1 where a row number is outside of its array
struct Entry {
    const char *name;
    int integers;  // a bit for each array that may be of int64
    Kernel f32, f64;
};

}  // namespace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=skylake-avx512,prefer-vector-width=512")
#define XPD_CLONE v4
#include "loops.h"
#undef XPD_CLONE
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=haswell")
#define XPD_CLONE v3
#include "loops.h"
#undef XPD_CLONE
#pragma GCC pop_options
#endif
#define XPD_CLONE baseline
#include "loops.h"
#undef XPD_CLONE

namespace {

const Entry *entries = baseline::entries;
constexpr size_t COUNT = sizeof baseline::entries / sizeof baseline::entries[0];
const char *instruction_set = "baseline";

void choose(const char *most) {
    entries = baseline::entries, instruction_set = "baseline";
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    if (strcmp(most, "baseline") == 0) return;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        entries = v3::entries, instruction_set = "avx2";
    if (strcmp(most, "avx2") == 0) return;
    if (instruction_set[0] == 'a' && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
        entries = v4::entries, instruction_set = "avx512";
#else
    (void)most;
#endif
}

// The arguments of one call, with the arrays held for as long as it lasts.
struct Call : Arguments {
    Py_buffer views[MOST_ARRAYS];
    int held = 0;

    Call() : Arguments() {}
    ~Call() {
        while (held) PyBuffer_Release(&views[--held]);
    }

    // 1 where the array is contiguous and of the element type (or of int64, if it may be); 0 where it is not; -1 with an
    // exception.
    int hold(PyObject *array, int place, bool wide, bool integer) {
        if (array == Py_None) return 1;
        Py_buffer *view = &views[held];
        if (PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
            if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_BufferError)) return -1;
            PyErr_Clear();  // not contiguous
            return 0;
        }
        ++held;
        p[place] = (char *)view->buf;
        const char type = view->format ? view->format[0] : 'B';
        return type == (wide ? 'd' : 'f') || (integer && (type == 'l' || type == 'q') && view->itemsize == 8);
    }
};

// call(kernel, wide, arrays, sizes, scalars): kernel is a number from `kernels`, wide is 1 for float64, the rest are
// tuples. True where it ran; False, with nothing done, where an array is not contiguous or of another element type.
PyObject *call(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count != 5 || !PyTuple_Check(args[2]) || !PyTuple_Check(args[3]) || !PyTuple_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "call(kernel, wide, arrays, sizes, scalars)");
        return nullptr;
    }
    const long kernel = PyLong_AsLong(args[0]), wide = PyLong_AsLong(args[1]);
    const Py_ssize_t arrays = PyTuple_GET_SIZE(args[2]), sizes = PyTuple_GET_SIZE(args[3]);
    const Py_ssize_t scalars = PyTuple_GET_SIZE(args[4]);
    if (kernel < 0 || kernel >= long(COUNT) || arrays > MOST_ARRAYS || sizes > MOST_SIZES || scalars > MOST_SCALARS) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such kernel, or too many arguments");
        return nullptr;
    }
    Call bound;
    for (Py_ssize_t i = 0; i < arrays; ++i) {
        const int fits = bound.hold(PyTuple_GET_ITEM(args[2], i), int(i), wide != 0, entries[kernel].integers >> i & 1);
        if (fits < 0) return nullptr;
        if (!fits) Py_RETURN_FALSE;
    }
    for (Py_ssize_t i = 0; i < sizes; ++i) bound.n[i] = PyLong_AsLong(PyTuple_GET_ITEM(args[3], i));
    for (Py_ssize_t i = 0; i < scalars; ++i) bound.s[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(args[4], i));
    if (PyErr_Occurred()) return nullptr;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = (wide ? entries[kernel].f64 : entries[kernel].f32)(bound);
    Py_END_ALLOW_THREADS
    if (failed) {
        PyErr_SetString(PyExc_IndexError, "a row number is outside of the array");
        return nullptr;
    }
    Py_RETURN_TRUE;
}

// use(most): takes the best instruction set up to `most` that this processor has; returns its name.
PyObject *use(PyObject *, PyObject *most) {
    const char *name = PyUnicode_AsUTF8(most);
    if (!name) return nullptr;
    choose(name);
    return PyUnicode_FromString(instruction_set);
}

PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, "call(kernel, wide, arrays, sizes, scalars): whether it ran"},
    {"use", use, METH_O, "use(most): the best instruction set up to 'baseline', 'avx2' or 'avx512'; its name"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Kernels compiled for the CPU.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native(void) {
    choose("avx512");
    PyObject *module = PyModule_Create(&definition), *kernels = PyDict_New();
    if (!module || !kernels) return nullptr;
    for (size_t i = 0; i < COUNT; ++i) {
        PyObject *number = PyLong_FromSize_t(i);
        if (!number || PyDict_SetItemString(kernels, entries[i].name, number)) return nullptr;
        Py_DECREF(number);
    }
    if (PyModule_AddObject(module, "kernels", kernels)) return nullptr;
    return module;
}
