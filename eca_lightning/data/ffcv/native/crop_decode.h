/* What the shared library offers. Arguments are plain numbers, addresses among them, so that
 * code compiled by numba can call it through ctypes. Every function may be called from any number
 * of threads at once. */
#ifndef ECA_CROP_DECODE_H
#define ECA_CROP_DECODE_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* crop_decode.py repeats these numbers. */
enum {
  CROP_OK = 0,
  CROP_DAMAGED = 1,       /* libjpeg reported an error or warned of corrupt data */
  CROP_SIZE_MISMATCH = 2, /* the picture is not of the recorded size */
  CROP_BAD_ARGUMENT = 3,  /* a crop outside the picture; a size or mode out of range */
  CROP_NO_MEMORY = 4,
};

/* To be raised with every change of a signature or of a status. */
enum { CROP_VERSION = 1 };

EXPORT int64_t crop_decode_version(void);

enum { CROP_LARGEST_SIDE = 65535, CROP_MESSAGE_BYTES = 200 };

/* Shows [top, top + height) x [left, left + width) of a picture at out_height x out_width, mirrored
 * if `flip` is not 0, as RGB bytes, rows first. `mode` is FFCV's: 0, the data are a JPEG stream, of
 * picture_height x picture_width unless these are 0; 1, they are RGB bytes of that size, rows
 * first, without gaps. A JPEG of which the crop is at least `reduce_from` times as large as the
 * output, in both directions, is decoded at 1/2 of its resolution; at 1/4 from twice as large on;
 * at 1/8 from four times; at full resolution if `reduce_from` is not at least 2. On any status but
 * CROP_OK the output is zeroed, and if `message` is not 0, CROP_MESSAGE_BYTES there may receive
 * libjpeg's sentence. */
EXPORT int64_t crop_decode_image(int64_t mode, int64_t data, int64_t data_bytes,
                                 int64_t picture_height, int64_t picture_width, double top,
                                 double left, double height, double width, int64_t flip,
                                 int64_t output, int64_t out_height, int64_t out_width,
                                 double reduce_from, int64_t message);

/* Keeps to portable C where SIMD could be used, if not 0; for tests. Returns `portable`. */
EXPORT int64_t crop_decode_portable(int64_t portable);

#endif
