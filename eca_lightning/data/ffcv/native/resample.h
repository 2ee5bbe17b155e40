/* Separable resampling of 8-bit RGB rows. */
#ifndef ECA_RESAMPLE_H
#define ECA_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "filter.h"

/* The input of one output of an axis: `count` source pixels from `first`, times `weight`. */
typedef struct {
  int first, count;
  int16_t *weight;
} cell;

typedef struct {
  cell *rows;       /* one per output row; `first` counts from the top of the image */
  int longest_cell; /* the largest `count` in `rows` */
  int left;         /* the first source column that is read */
  int samples;      /* bytes of a source row that are read: 3 per pixel, from `left` */
  int outputs;      /* output columns */
  int pairs;        /* pairs of source pixels per output column */
  int32_t *offsets; /* where each output column starts reading, in samples from `left` */
  int16_t *weights; /* see weight_at in resample.c */
  int16_t *blended; /* one source row after the vertical pass, 7 fraction bits */
  void *memory;
} resampler;

/* If true, portable C replaces SIMD; the pixels are the same. */
extern int resampler_portable;

/* Prepares the filters of both axes. Returns false when memory runs out. */
bool resampler_init(resampler *r, const span *vertical, const span *horizontal, bool flip);

void resampler_free(resampler *r);

/* Computes output row `y` (3 * outputs bytes) from the source rows that r->rows[y] names;
 * `sources[i]` points at the leftmost pixel read (column r->left) of row first + i. */
void resampler_row(const resampler *r, int y, const uint8_t *const *sources, uint8_t *output);

#endif
