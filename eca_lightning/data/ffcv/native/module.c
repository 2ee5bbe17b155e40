/* An empty Python module, so that the library can be imported like every other file of the
 * package. Its functions are reached through ctypes: crop_decode.py. */
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_crop_decode", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__crop_decode(void) { return PyModule_Create(&module); }
