/* Separable resampling of 8-bit RGB rows: area when reducing, bilinear when enlarging. */
#ifndef ECA_RESAMPLE_H
#define ECA_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>

/* One axis of a crop. The box [start, start + length) is cut into `outputs` equal cells; pixel p
 * covers [p, p + 1), and only pixels in [low, high) may be read. */
typedef struct {
  double start, length;
  int low, high;
  int outputs;
} span;

/* Whether [start, start + length) lies in a side of `pixels`; NaN does not. The tolerance is for
 * crops that were carried back from a resized picture. */
bool is_inside(double start, double length, int64_t pixels);

/* The span of [start, start + length), which must be inside `pixels`; it may read every pixel
 * that it touches and no other. */
span span_of(double start, double length, int pixels, int outputs);

/* What one output of an axis reads: `count` source pixels from `first`, times `weight`. */
typedef struct {
  int first, count;
  int16_t *weight;
} cell;

typedef struct {
  cell *rows;       /* one an output row; `first` counts from the top of the picture */
  int longest_cell; /* the largest `count` in `rows` */
  int left;         /* the first source column that is read */
  int samples;      /* bytes of a source row that are read: 3 a pixel, from `left` */
  int outputs;      /* output columns */
  int pairs;        /* pairs of source pixels an output column reads */
  int32_t *offsets; /* where each output column starts reading, in samples from `left` */
  int16_t *weights; /* see weight_at in resample.c */
  int16_t *blended; /* one source row after the vertical pass, 7 fraction bits */
  void *memory;
} resampler;

/* Set to keep to portable C where SIMD could be used. The pixels are the same. */
extern int resampler_portable;

/* Prepares the filters of both axes. Returns false when memory runs out. */
bool resampler_init(resampler *r, const span *vertical, const span *horizontal, bool flip);

void resampler_free(resampler *r);

/* Makes output row `y` (3 * outputs bytes) of the source rows that r->rows[y] names;
 * `sources[i]` points at the leftmost pixel read (column r->left) of row first + i. */
void resampler_row(const resampler *r, int y, const uint8_t *const *sources, uint8_t *output);

#endif
