/* The weights of source pixels in resized ones, along one axis. */
#ifndef ECA_FILTER_H
#define ECA_FILTER_H

#include <stdbool.h>
#include <stdint.h>

/* How a crop is resized; crop_decode.py repeats these numbers, with that of a flip. */
enum { CROP_FLIP = 1, CROP_BILINEAR = 2, CROP_WHOLE_IMAGE = 4 };

/* One axis of a crop. The box that begins at `start` is cut into `outputs` cells of `step` pixels;
 * pixel p covers [p, p + 1), and only pixels in [low, high) may be read. */
typedef struct {
  double start, step;
  int low, high;
  int outputs;
  bool bilinear;
} span;

/* Checks that [start, start + length) lies in a side of `pixels`; false for NaN. The tolerance is
 * for crops that were mapped back from a resized image. */
bool is_inside(double start, double length, int64_t pixels);

/* Returns the span of [start, start + length), which must be inside `pixels`. It reads only pixels
 * that it overlaps, as if the crop came first; those around it as well if `how` has
 * CROP_WHOLE_IMAGE, as if all of the image were resized first. */
span span_of(double start, double length, int pixels, int outputs, int how);

/* Returns the maximum number of pixels that an output of the span reads. */
int cell_limit(const span *s);

/* Sets the share of each source pixel in output `i`, up to cell_limit of them, of any sum above 0;
 * `first` becomes the first of these pixels. Returns their number.
 *
 * When reducing, an output pixel is the mean of the area that it covers (OpenCV's INTER_AREA, PIL's
 * BOX): exact at the edges of the crop, and half the taps of an antialiased triangle, which is
 * blurrier. That is what PIL and torchvision call bilinear, and what a bilinear span takes. When
 * enlarging, areas would repeat pixels, so that both interpolate the two nearest (half-pixel
 * centers, the crop's edge repeated). At equal size both are the identity. */
int cell_shares(const span *s, int i, double *share, int *first);

/* Converts `count` shares to integer weights that sum to 1 << bits. Rounding the running sum, not
 * each share, keeps the error of a long cell as small as that of a short one. */
void quantize(const double *share, int count, int bits, int16_t *weight);

/* Returns (a * b) >> 15, rounded, as pmulhrsw and sqrdmulh compute it. */
static inline int16_t multiply(int16_t a, int16_t b) {
  return (int16_t)((((int32_t)a * b >> 14) + 1) >> 1);
}

#endif
