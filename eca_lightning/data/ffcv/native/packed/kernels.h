/* The inner loops of decoding, each in portable C, which defines the result, and in AVX2.
 *
 * Samples are signed 16-bit numbers: the level minus 128, with 7 fraction bits. Two blocks are
 * decoded together and left transposed: a column is 16 samples, of one block and then the other. */
#ifndef ECA_PACKED_KERNELS_H
#define ECA_PACKED_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

enum {
  LANES = 16,        /* samples of a column */
  SAMPLE_BITS = 7,   /* fraction bits */
  ROW_MULTIPLE = 32, /* samples that vector code reads and writes at a time */
};

/* Of the color conversion, with 15 fraction bits: 0.402, 0.228, 0.344136 and 0.714136. */
enum { RED_FACTOR = 13173, BLUE_FACTOR = 7471, GREEN_CB_FACTOR = 11277, GREEN_CR_FACTOR = 23401 };

/* The sources of each output along one axis: samples first[i] to first[i] + taps - 1, times
 * weights[i * taps ...]. A weight has 15 fraction bits and is stored in both halves of 32 bits, as
 * vector code loads it. */
typedef struct {
  int outputs, taps;
  int *first;
  int32_t *weights;
} axis;

/* The rows of one component that an output row is made of: `rows[t]` times weights[t]. */
typedef struct {
  const int16_t *const *rows;
  const int32_t *weights;
  int taps;
} row_sources;

typedef struct {
  /* Unpacks a block of at most BLOCK_LIMIT bytes, of which PADDING_BYTES can be read, to
   * coefficients in natural order. `dc` is that of the block before and becomes this one's.
   * Returns the first byte after it, or NULL if a code is invalid. */
  const uint8_t *(*unpack)(const uint8_t *block, int *dc, int16_t *coefficients);

  /* Computes the inverse DCT of two blocks, to the bit libjpeg-turbo's JDCT_ISLOW: 8 columns. */
  void (*inverse_dct)(const int16_t *first, const int16_t *second, const uint16_t *first_table,
                      const uint16_t *second_table, int16_t *columns);

  /* Resizes along rows: the columns, of which the first is number `origin`, become 8 rows of
   * upper[] and 8 of lower[]. The rows have room for a multiple of ROW_MULTIPLE samples. */
  void (*resize_columns)(const axis *horizontal, const int16_t *columns, int origin,
                         int16_t *const *upper, int16_t *const *lower);

  /* Computes an output row of `outputs` RGB pixels from the rows of 1 or 3 components. */
  void (*output_row)(const row_sources *sources, int components, int outputs, uint8_t *output);
} kernels;

extern const kernels portable_kernels;

/* If true, portable C replaces SIMD; the results are the same. */
extern bool kernels_portable;

/* Returns the fastest that this processor runs. */
const kernels *best_kernels(void);

#endif
