/* An empty Python module, so that setuptools builds the library and importlib finds it. Its
 * functions are called through ctypes, see packed/native.py. */
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_packed", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__packed(void) { return PyModule_Create(&module); }
