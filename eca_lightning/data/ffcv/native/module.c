/* An empty Python module, so that setuptools builds the library and importlib finds it. Its
 * functions are called through ctypes, see crop_decode.py. */
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_crop_decode", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__crop_decode(void) { return PyModule_Create(&module); }
