// The kernels, compiled for the CPU: the Python module xpdense._native. `call(kernel, wide, arrays, sizes, scalars)`
// runs a kernel; a `Program` is a list of such calls with bound arguments, which it runs repeatedly.
//
// kernels/*.h have the formula of a kernel, loops.h has its loop. The loops are compiled once for each instruction set
// below; at import the best one that the processor supports is chosen. Shapes are not checked here, but in
// xpdense/ops/native.py, the only caller.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../slots.h"
#include "share.h"

namespace {

// The most arguments that a kernel has; CONSTANTS are those of an optimizer's rule, which follow its other scalars.
constexpr int MOST_ARRAYS = 7, MOST_SIZES = 5, CONSTANTS = 4, MOST_SCALARS = slots::update::SCALARS + CONSTANTS;

struct Arguments {  // the slots of each array have their names in slots.h
    char *p[MOST_ARRAYS];
    long n[MOST_SIZES];
    double s[MOST_SCALARS];
};

using Kernel = int (*)(const Arguments &);  // 0; 1 if a row number is outside of its array, or a loss is not finite

// The products are those of SciPy's BLAS; its functions have Fortran's arguments.
template <typename T>
using Gemm = void (*)(char *, char *, int *, int *, int *, T *, T *, int *, T *, int *, T *, T *, int *);
Gemm<float> sgemm = nullptr;
Gemm<double> dgemm = nullptr;
inline void gemm(char *a, char *b, int *m, int *n, int *k, float *one, float *x, int *lx, float *y, int *ly,
                 float *zero, float *out, int *lo) {
    sgemm(a, b, m, n, k, one, x, lx, y, ly, zero, out, lo);
}
inline void gemm(char *a, char *b, int *m, int *n, int *k, double *one, double *x, int *lx, double *y, int *ly,
                 double *zero, double *out, int *lo) {
    dgemm(a, b, m, n, k, one, x, lx, y, ly, zero, out, lo);
}
// A kernel: its name, the number of its arrays, the masks of slots.h, and its functions for each element type.
struct Entry {
    const char *name;
    int arrays, integers, optional, written;
    Kernel f32, f64;
};
template <typename Slots> constexpr Entry entry(const char *name, Kernel f32, Kernel f64) {
    static_assert(Slots::ARRAYS <= MOST_ARRAYS, "more arrays than a call can hold");
    return {name, Slots::ARRAYS, Slots::integers, Slots::optional, Slots::written, f32, f64};
}

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

// The arguments of one call; it keeps the buffers of its arrays while it exists.
struct Call : Arguments {
    Py_buffer views[MOST_ARRAYS];
    int held = 0;

    Call() : Arguments() {}
    ~Call() {
        while (held) PyBuffer_Release(&views[--held]);
    }

    // 1 if the array is contiguous and of the element type (or of int64, if it may be); 0 if not; -1 with an exception.
    int hold(PyObject *array, int place, bool wide, const Entry &kernel) {
        const bool integer = kernel.integers >> place & 1, written = kernel.written >> place & 1;
        if (array == Py_None) return kernel.optional >> place & 1;
        Py_buffer *view = &views[held];
        if (PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0)) < 0) {
            if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_BufferError)) return -1;
            PyErr_Clear();  // not contiguous, or read-only
            return 0;
        }
        ++held;
        p[place] = (char *)view->buf;
        const char type = view->format ? view->format[0] : 'B';
        return type == (wide ? 'd' : 'f') || (integer && (type == 'l' || type == 'q') && view->itemsize == 8);
    }
};

// Binds (kernel, wide, arrays, sizes, scalars): kernel is a number from `kernels`, wide is 1 for float64, the others
// are tuples. 1 if it is bound; 0 if an array is not contiguous or of another element type; -1 with an exception.
int bind(PyObject *const *args, Py_ssize_t count, Call &bound, Kernel &function) {
    if (count != 5 || !PyTuple_Check(args[2]) || !PyTuple_Check(args[3]) || !PyTuple_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "call(kernel, wide, arrays, sizes, scalars)");
        return -1;
    }
    const long kernel = PyLong_AsLong(args[0]), wide = PyLong_AsLong(args[1]);
    const Py_ssize_t arrays = PyTuple_GET_SIZE(args[2]), sizes = PyTuple_GET_SIZE(args[3]);
    const Py_ssize_t scalars = PyTuple_GET_SIZE(args[4]);
    if (kernel < 0 || kernel >= long(COUNT) || arrays != entries[kernel].arrays || sizes > MOST_SIZES ||
        scalars > MOST_SCALARS) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such kernel, or not its number of arguments");
        return -1;
    }
    for (Py_ssize_t i = 0; i < arrays; ++i) {
        const int fits = bound.hold(PyTuple_GET_ITEM(args[2], i), int(i), wide != 0, entries[kernel]);
        if (fits <= 0) return fits;
    }
    for (Py_ssize_t i = 0; i < sizes; ++i) bound.n[i] = PyLong_AsLong(PyTuple_GET_ITEM(args[3], i));
    for (Py_ssize_t i = 0; i < scalars; ++i) bound.s[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(args[4], i));
    function = wide ? entries[kernel].f64 : entries[kernel].f32;
    return PyErr_Occurred() ? -1 : 1;
}

// call(kernel, wide, arrays, sizes, scalars): True if it ran; False, with no effect, if it could not be bound.
PyObject *call(PyObject *, PyObject *const *args, Py_ssize_t count) {
    Call bound;
    Kernel function = nullptr;
    const int fits = bind(args, count, bound, function);
    if (fits < 0) return nullptr;
    if (!fits) Py_RETURN_FALSE;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = function(bound);
    Py_END_ALLOW_THREADS
    if (failed) {
        PyErr_SetString(PyExc_IndexError, "a row number is outside of the array");
        return nullptr;
    }
    Py_RETURN_TRUE;
}

// --- programs --------------------------------------------------------------------------------------------------------

struct Instruction {
    std::unique_ptr<Call> call;
    Kernel function;
    long stride[MOST_ARRAYS];  // bytes from one run to the next: not 0 for arrays that are rows of a table
};

struct Program {
    PyObject_HEAD
    std::vector<Instruction> *list;
    PyObject *tables;
};

// Program(calls, tables): calls is a list of argument tuples of `call`; an array that is the first row of a table moves
// on by a row with each run.
PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *) {
    PyObject *calls, *tables;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &calls, &PyTuple_Type, &tables)) return nullptr;
    if (!PyTuple_GET_SIZE(tables)) {
        PyErr_SetString(PyExc_ValueError, "a program needs a table");
        return nullptr;
    }
    Program *self = (Program *)type->tp_alloc(type, 0);
    if (!self) return nullptr;
    self->list = new std::vector<Instruction>();
    self->tables = Py_NewRef(tables);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(calls); ++i) {
        PyObject *entry = PyList_GET_ITEM(calls, i);
        Instruction made = {std::make_unique<Call>(), nullptr, {}};
        PyObject *none = nullptr;
        const int fits = PyTuple_Check(entry)
            ? bind(&PyTuple_GET_ITEM(entry, 0), PyTuple_GET_SIZE(entry), *made.call, made.function)
            : bind(&none, 0, *made.call, made.function);
        if (fits <= 0) {
            if (!fits) PyErr_SetString(PyExc_TypeError, "a recorded call cannot be bound");
            Py_DECREF(self);
            return nullptr;
        }
        for (Py_ssize_t t = 0; t < PyTuple_GET_SIZE(tables); ++t) {
            Py_buffer view;
            if (PyObject_GetBuffer(PyTuple_GET_ITEM(tables, t), &view, PyBUF_C_CONTIGUOUS) < 0) {
                Py_DECREF(self);
                return nullptr;
            }
            const long row = view.ndim && view.shape[0] ? view.len / view.shape[0] : 0;
            for (int a = 0; a < MOST_ARRAYS; ++a)
                if (made.call->p[a] && made.call->p[a] >= (char *)view.buf && made.call->p[a] < (char *)view.buf + row)
                    made.stride[a] = row;
            PyBuffer_Release(&view);
        }
        self->list->push_back(std::move(made));
    }
    return (PyObject *)self;
}

void program_free(PyObject *object) {
    Program *self = (Program *)object;
    PyTypeObject *type = Py_TYPE(object);
    delete self->list;
    Py_XDECREF(self->tables);
    type->tp_free(object);
    Py_DECREF(type);
}

// run(first, count): runs the list for rows first, first + 1, ... of the tables; returns how many runs it completed.
PyObject *program_run(PyObject *object, PyObject *args) {
    long first, count, done = 0;
    if (!PyArg_ParseTuple(args, "ll", &first, &count)) return nullptr;
    Program *self = (Program *)object;
    for (Py_ssize_t t = 0; t < PyTuple_GET_SIZE(self->tables); ++t) {
        const Py_ssize_t rows = PyObject_Length(PyTuple_GET_ITEM(self->tables, t));
        if (first < 0 || count < 0 || first > rows - count) {
            PyErr_SetString(PyExc_IndexError, "a program cannot run beyond its tables");
            return nullptr;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (bool going = true; going && done < count; done += going)
        for (const Instruction &one : *self->list) {
            Arguments now = *one.call;
            for (int a = 0; a < MOST_ARRAYS; ++a)
                if (one.stride[a]) now.p[a] += one.stride[a] * (first + done);
            if (one.function(now)) {
                going = false;
                break;
            }
        }
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(done);
}

PyMethodDef program_methods[] = {
    {"run", program_run, METH_VARARGS, "run(first, count): the number of completed runs"},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot program_slots[] = {
    {Py_tp_new, (void *)program_new}, {Py_tp_dealloc, (void *)program_free}, {Py_tp_methods, program_methods},
    {Py_tp_doc, (void *)"Program(calls, tables): a list of calls with bound arguments, which is run repeatedly."},
    {0, nullptr},
};
PyType_Spec program_spec = {"xpdense._native.Program", sizeof(Program), 0, Py_TPFLAGS_DEFAULT, program_slots};

// use_blas(sgemm, dgemm): capsules of scipy.linalg.cython_blas.
PyObject *use_blas(PyObject *, PyObject *args) {
    PyObject *single, *twofold;
    if (!PyArg_ParseTuple(args, "OO", &single, &twofold)) return nullptr;
    void *s = PyCapsule_GetPointer(single, PyCapsule_GetName(single));
    void *d = s ? PyCapsule_GetPointer(twofold, PyCapsule_GetName(twofold)) : nullptr;
    if (!d) return nullptr;
    sgemm = (Gemm<float>)s, dgemm = (Gemm<double>)d;
    Py_RETURN_NONE;
}

// use(most): chooses the best instruction set up to `most` that the processor supports; returns its name.
PyObject *use(PyObject *, PyObject *most) {
    const char *name = PyUnicode_AsUTF8(most);
    if (!name) return nullptr;
    choose(name);
    return PyUnicode_FromString(instruction_set);
}

// use_threads(most): use 1 thread, or 2 for large arrays; returns the previous number.
PyObject *use_threads(PyObject *, PyObject *most) {
    const long wanted = PyLong_AsLong(most);
    if (wanted == -1 && PyErr_Occurred()) return nullptr;
    return PyLong_FromLong(1 + two_threads.exchange(wanted > 1));
}

PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL,
     "call(kernel, wide, arrays, sizes, scalars): whether it ran"},
    {"use_blas", use_blas, METH_VARARGS, "use_blas(sgemm, dgemm): capsules of scipy.linalg.cython_blas"},
    {"use_threads", use_threads, METH_O, "use_threads(most): 1 thread, or 2 for large arrays; the previous number"},
    {"use", use, METH_O, "use(most): the best instruction set up to 'baseline', 'avx2' or 'avx512'; its name"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Kernels compiled for the CPU.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native(void) {
    choose("avx512");
    begin_sharing();
    PyObject *module = PyModule_Create(&definition), *kernels = PyDict_New();
    if (!module || !kernels) return nullptr;
    for (size_t i = 0; i < COUNT; ++i) {
        PyObject *number = PyLong_FromSize_t(i);
        if (!number || PyDict_SetItemString(kernels, entries[i].name, number)) return nullptr;
        Py_DECREF(number);
    }
    if (PyModule_AddObject(module, "kernels", kernels)) return nullptr;
    if (PyModule_AddIntConstant(module, "slots", slots::version)) return nullptr;
    PyObject *program = PyType_FromSpec(&program_spec);
    if (!program || PyModule_AddObject(module, "Program", program)) return nullptr;
    return module;
}
