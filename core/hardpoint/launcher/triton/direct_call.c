/* The guarded direct call of a compiled Triton kernel, in C: checks every argument, then calls Triton's own launcher.
 *
 * An object of type `Entry` answers the calls that are plainly right. Whatever is not (another kind of argument, an
 * unknown name, a launch hook, an error while looking) goes unchanged to `otherwise`, the generated
 * Python call, which checks again and says what is wrong. So nothing is refused or explained here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#ifndef Py_T_PYSSIZET /* Python before 3.12 */
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

#define MOST 96 /* parameters of a kernel */
#define BEFORE 16 /* arguments of the launcher between the stream and the kernel's own */

enum { POINTER, INTEGER, FLOATING, BOOLEAN, CONSTANT };

typedef struct {
    PyObject *name, *dtype, *value, *fallback; /* fallback: what an argument that is not given stands for, or NULL */
    int kind, aligned, divisible, bounded, pinned;
    long long low, high;
} Parameter;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Py_ssize_t count, before;
    Parameter parameter[MOST];
    PyObject *prefix[BEFORE];
    PyObject *otherwise, *launch, *current, *exchange, *stream, *device, *grid;
    PyObject *hooks, *enter, *leave, *enter_calls, *leave_calls;
    long long index;
    int as_integers;
} Entry;

static PyObject *s_dtype, *s_get_device, *s_data_ptr, *s_grid, *s_enter, *s_leave, *one;

/* 1: equal as constants are compared (None and booleans by identity, else type and value); 0: not; -1: error. */
static int same_constant(PyObject *found, PyObject *expected) {
    if (found == expected) return 1;
    if (expected == Py_None || PyBool_Check(expected) || Py_TYPE(found) != Py_TYPE(expected)) return 0;
    return PyObject_RichCompareBool(found, expected, Py_EQ);
}

static int hooked(Entry *self) {
    PyObject *enter = PyObject_GetAttr(self->hooks, s_enter);
    PyObject *leave = enter ? PyObject_GetAttr(self->hooks, s_leave) : NULL;
    int yes = !leave || enter != self->enter || leave != self->leave || PyList_GET_SIZE(self->enter_calls) ||
              PyList_GET_SIZE(self->leave_calls);
    Py_XDECREF(enter);
    Py_XDECREF(leave);
    return yes;
}

/* 1 if the argument is what the form was compiled for; a pointer's address is added to `bits` and, new, to `*address`. */
static int fits(Entry *self, Parameter *p, PyObject *x, unsigned long long *bits, PyObject **address) {
    if (p->pinned && same_constant(x, p->value) != 1) return 0;
    switch (p->kind) {
    case POINTER: {
        PyObject *dtype = PyObject_GetAttr(x, s_dtype);
        if (!dtype) return 0;
        Py_DECREF(dtype); /* dtypes of torch are never freed */
        if (dtype != p->dtype) return 0;
        PyObject *device = PyObject_CallMethodNoArgs(x, s_get_device);
        if (!device) return 0;
        long long index = PyLong_AsLongLong(device);
        Py_DECREF(device);
        if (index != self->index) return 0;
        *address = PyObject_CallMethodNoArgs(x, s_data_ptr);
        if (!*address) return 0;
        unsigned long long at = PyLong_AsUnsignedLongLongMask(*address);
        if (at == (unsigned long long)-1 && PyErr_Occurred()) return 0;
        if (p->aligned) *bits |= at;
        return 1;
    }
    case INTEGER: {
        if (!PyLong_CheckExact(x)) return 0;
        if (!p->divisible && !p->bounded) return 1;
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(x, &overflow);
        if (overflow || (value == -1 && PyErr_Occurred())) return 0;
        if (p->divisible && (value & 15)) return 0;
        return !p->bounded || (p->low <= value && value <= p->high);
    }
    case FLOATING:
        return PyFloat_CheckExact(x);
    case BOOLEAN:
        return PyBool_Check(x);
    default:
        return same_constant(x, p->value) == 1;
    }
}

/* Put each argument at its place; 0 if the call is not one to be answered here. */
static int placed(Entry *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names, PyObject **found,
                  PyObject **grid) {
    Py_ssize_t count = self->count;
    if (nargs > count) return 0;
    for (Py_ssize_t i = 0; i < nargs; i++) found[i] = args[i];
    for (Py_ssize_t i = nargs; i < count; i++) found[i] = NULL;
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t k = 0; k < named; k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k);
        Py_ssize_t i = nargs;
        if (name != s_grid) { /* names in source text are interned, so identity finds them; others are compared */
            while (i < count && self->parameter[i].name != name) i++;
            if (i == count && PyUnicode_Compare(name, s_grid) != 0) {
                i = nargs;
                while (i < count && PyUnicode_Compare(self->parameter[i].name, name) != 0) i++;
                if (i == count) return 0;
            }
        } else {
            i = count;
        }
        if (i == count)
            *grid = args[nargs + k];
        else
            found[i] = args[nargs + k];
    }
    for (Py_ssize_t i = nargs; i < count; i++) {
        if (!found[i]) found[i] = self->parameter[i].fallback;
        if (!found[i]) return 0;
    }
    return *grid && PyTuple_CheckExact(*grid) && PyTuple_GET_SIZE(*grid) >= 1 && PyTuple_GET_SIZE(*grid) <= 3;
}

/* Launch on the entry's device; NULL with an error set. The device that was current is so again afterwards. */
static PyObject *launched(Entry *self, PyObject **call, Py_ssize_t size) {
    PyObject *before = PyObject_CallNoArgs(self->current), *result = NULL;
    if (!before) return NULL;
    long long current = PyLong_AsLongLong(before);
    Py_DECREF(before);
    before = NULL;
    if (current == -1 && PyErr_Occurred()) return NULL;
    if (current != self->index && !(before = PyObject_CallOneArg(self->exchange, self->device))) return NULL;
    call[3] = PyObject_CallOneArg(self->stream, self->device);
    if (call[3]) {
        result = PyObject_Vectorcall(self->launch, call, size, NULL);
        Py_DECREF(call[3]);
    }
    if (before) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *back = PyObject_CallOneArg(self->exchange, before);
        Py_DECREF(before);
        if (!back) Py_CLEAR(result);
        Py_XDECREF(back);
        if (type) PyErr_Restore(type, value, trace); /* the first error is the one to be told */
    }
    return result;
}

static PyObject *call_entry(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *names) {
    Entry *self = (Entry *)object;
    PyObject *found[MOST], *address[MOST], *call[4 + BEFORE + MOST], *grid = self->grid, *result = NULL;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf), held = 0, size;
    unsigned long long bits = 0;
    int right = placed(self, args, nargs, names, found, &grid) && !hooked(self);
    for (; right && held < self->count; held++) {
        address[held] = NULL;
        right = fits(self, &self->parameter[held], found[held], &bits, &address[held]);
    }
    if (right && !(bits & 15)) {
        Py_ssize_t sizes = PyTuple_GET_SIZE(grid);
        for (Py_ssize_t i = 0; i < 3; i++) call[i] = i < sizes ? PyTuple_GET_ITEM(grid, i) : one;
        size = 4;
        for (Py_ssize_t i = 0; i < self->before; i++) call[size++] = self->prefix[i];
        for (Py_ssize_t i = 0; i < self->count; i++) {
            Parameter *p = &self->parameter[i];
            if (p->kind == CONSTANT)
                call[size++] = p->value;
            else
                call[size++] = address[i] && self->as_integers ? address[i] : found[i];
        }
        result = launched(self, call, size);
        /* An integer that needs more bits than the form has: converted before the launch, so nothing has run. */
        right = result || !PyErr_ExceptionMatches(PyExc_OverflowError);
    } else {
        right = 0;
    }
    for (Py_ssize_t i = 0; i < held; i++) Py_XDECREF(address[i]);
    if (right) {
        if (!result) return NULL;
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    PyErr_Clear();
    return PyObject_Vectorcall(self->otherwise, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, names);
}

/* entry(parameters, prefix, as_integers, device, grid, launch, current, exchange, stream, hooks, otherwise)
 * parameters: tuples (name, kind, dtype, value, aligned, divisible, low, high, bounded, pinned, has_fallback, fallback)
 * What is given is held for good: a form may be in a graph. */
static PyTypeObject *entry_type;

static PyObject *make(PyObject *module, PyObject *args) {
    PyObject *parameters, *prefix, *device, *grid, *launch, *current, *exchange, *stream, *hooks, *otherwise;
    int as_integers;
    if (!PyArg_ParseTuple(args, "O!O!pOOOOOOOO", &PyTuple_Type, &parameters, &PyTuple_Type, &prefix, &as_integers,
                          &device, &grid, &launch, &current, &exchange, &stream, &hooks, &otherwise))
        return NULL;
    if (PyTuple_GET_SIZE(parameters) > MOST || PyTuple_GET_SIZE(prefix) > BEFORE) {
        PyErr_SetString(PyExc_ValueError, "too many parameters for the native entry");
        return NULL;
    }
    Entry *self = (Entry *)entry_type->tp_alloc(entry_type, 0);
    if (!self) return NULL;
    self->count = PyTuple_GET_SIZE(parameters);
    self->before = PyTuple_GET_SIZE(prefix);
    for (Py_ssize_t i = 0; i < self->before; i++) self->prefix[i] = Py_NewRef(PyTuple_GET_ITEM(prefix, i));
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Parameter *p = &self->parameter[i];
        int fallback;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(parameters, i), "OiOOppLLpppO", &p->name, &p->kind, &p->dtype,
                              &p->value, &p->aligned, &p->divisible, &p->low, &p->high, &p->bounded, &p->pinned,
                              &fallback, &p->fallback))
            return NULL;
        Py_INCREF(p->name);
        PyUnicode_InternInPlace(&p->name);
        Py_INCREF(p->dtype);
        Py_INCREF(p->value);
        Py_INCREF(p->fallback);
        if (!fallback) p->fallback = NULL;
    }
    self->as_integers = as_integers;
    self->index = PyLong_AsLongLong(device);
    self->device = Py_NewRef(device);
    self->grid = grid == Py_None ? NULL : Py_NewRef(grid);
    self->launch = Py_NewRef(launch);
    self->current = Py_NewRef(current);
    self->exchange = Py_NewRef(exchange);
    self->stream = Py_NewRef(stream);
    self->hooks = Py_NewRef(hooks);
    self->otherwise = Py_NewRef(otherwise);
    self->enter = PyObject_GetAttr(hooks, s_enter);
    self->leave = self->enter ? PyObject_GetAttr(hooks, s_leave) : NULL;
    self->enter_calls = self->leave ? PyObject_GetAttrString(self->enter, "calls") : NULL;
    self->leave_calls = self->enter_calls ? PyObject_GetAttrString(self->leave, "calls") : NULL;
    if (PyErr_Occurred() || !self->leave_calls) return NULL;
    if (!PyList_CheckExact(self->enter_calls) || !PyList_CheckExact(self->leave_calls)) {
        PyErr_SetString(PyExc_TypeError, "Triton's launch hooks are not lists");
        return NULL;
    }
    self->vectorcall = call_entry;
    return (PyObject *)self;
}

static PyMemberDef members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(Entry, vectorcall), Py_READONLY, NULL}, {NULL, 0, 0, 0, NULL}};
static PyType_Slot slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, members},
    {Py_tp_doc, "A guarded direct launch; calls that it does not answer go to the generated Python call."},
    {0, NULL}};
static PyType_Spec spec = {"hardpoint_direct_call.Entry", sizeof(Entry), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
static PyMethodDef methods[] = {{"entry", make, METH_VARARGS, "Make a direct launch."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "hardpoint_direct_call", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_hardpoint_direct_call(void) {
    s_dtype = PyUnicode_InternFromString("dtype");
    s_get_device = PyUnicode_InternFromString("get_device");
    s_data_ptr = PyUnicode_InternFromString("data_ptr");
    s_grid = PyUnicode_InternFromString("grid");
    s_enter = PyUnicode_InternFromString("launch_enter_hook");
    s_leave = PyUnicode_InternFromString("launch_exit_hook");
    one = PyLong_FromLong(1);
    entry_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!entry_type) return NULL;
    return PyModule_Create(&definition);
}
