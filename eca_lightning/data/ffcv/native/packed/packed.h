/* The interface of the shared library for packed coefficients. Arguments are plain numbers,
 * including addresses, so that code compiled by numba can call it through ctypes. All functions are
 * thread-safe. Statuses are those of crop_decode.h. docs/packed.md describes the format. */
#ifndef ECA_PACKED_H
#define ECA_PACKED_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* A status besides those of crop_decode.h: the JPEG is sound, but not of a kind that is packed. */
enum { PACKED_UNSUPPORTED = 5 };

/* Increase with every change of a signature or a status. */
enum { PACKED_LIBRARY_VERSION = 1 };

EXPORT int64_t packed_library_version(void);

/* Resizes a crop of a packed image, as crop_decode_image does one of a JPEG stream; its signature
 * is the same, and `mode` must be 2. The image is always decoded at full resolution. */
EXPORT int64_t packed_decode_image(int64_t mode, int64_t data, int64_t data_bytes,
                                   int64_t picture_height, int64_t picture_width, double top,
                                   double left, double height, double width, int64_t how,
                                   int64_t output, int64_t out_height, int64_t out_width,
                                   double reduce_from, int64_t message);

/* Checks all of a packed image, also what no crop reads: sizes, checksums and codes. The image must
 * be of picture_height x picture_width unless these are 0. */
EXPORT int64_t packed_check(int64_t data, int64_t data_bytes, int64_t picture_height,
                            int64_t picture_width);

/* The two conversions allocate their result: they set the numbers at `address` and `bytes` to
 * where it lies and how long it is. packed_free frees it. If `message` is not 0, up to
 * CROP_MESSAGE_BYTES of libjpeg's error message may be written there. */

/* Packs the coefficients of a JPEG stream. */
EXPORT int64_t packed_encode(int64_t jpeg, int64_t jpeg_bytes, int64_t address, int64_t bytes,
                             int64_t message);

/* Writes the coefficients of a packed image as a JPEG stream with optimal Huffman codes. */
EXPORT int64_t packed_to_jpeg(int64_t data, int64_t data_bytes, int64_t address, int64_t bytes,
                              int64_t message);

EXPORT void packed_free(int64_t address);

/* If not 0, uses portable C in place of SIMD; for tests. Returns `portable`. */
EXPORT int64_t packed_portable(int64_t portable);

#endif
