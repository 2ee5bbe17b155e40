/* The interface of the shared library. Arguments are plain numbers, including addresses, so that
 * code compiled by numba can call it through ctypes. All functions are thread-safe. */
#ifndef ECA_CROP_DECODE_H
#define ECA_CROP_DECODE_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* crop_decode.py repeats these numbers. */
enum {
  CROP_OK = 0,
  CROP_DAMAGED = 1,       /* libjpeg reported an error or warned of corrupt data */
  CROP_SIZE_MISMATCH = 2, /* the image does not have the recorded size */
  CROP_BAD_ARGUMENT = 3,  /* a crop outside the image; a size or mode out of range */
  CROP_NO_MEMORY = 4,
};

/* Increase with every change of a signature or a status. */
enum { CROP_VERSION = 2 };

EXPORT int64_t crop_decode_version(void);

enum { CROP_LARGEST_SIDE = 65535, CROP_MESSAGE_BYTES = 200 };

/* Resizes [top, top + height) x [left, left + width) of an image to out_height x out_width, as
 * row-major RGB bytes, in the way that the bits of `how` say (see filter.h). `mode` is FFCV's: 0 for a JPEG
 * stream of picture_height x picture_width (unless these are 0), 1 for contiguous row-major RGB
 * bytes of that size. A JPEG whose crop is at least `reduce_from` times as large as the output in
 * both directions is decoded at 1/2 of its resolution; at 1/4 from twice this factor, at 1/8 from
 * four times; at full resolution if `reduce_from` is less than 2 or `how` has CROP_BILINEAR. On any status but CROP_OK the
 * output is zeroed, and if `message` is not 0, up to CROP_MESSAGE_BYTES of libjpeg's error message
 * may be written there. */
EXPORT int64_t crop_decode_image(int64_t mode, int64_t data, int64_t data_bytes,
                                 int64_t picture_height, int64_t picture_width, double top,
                                 double left, double height, double width, int64_t how,
                                 int64_t output, int64_t out_height, int64_t out_width,
                                 double reduce_from, int64_t message);

/* If not 0, uses portable C in place of SIMD; for tests. Returns `portable`. */
EXPORT int64_t crop_decode_portable(int64_t portable);

#endif
