/* The portable kernels. Sums and products wrap or saturate at 16 bits where vector code does. */
#include "../filter.h"
#include "kernels.h"
#include "layout.h"

bool kernels_portable = false;

/* ---- blocks ---- */

static int16_t nibble_value(int code) { return (int16_t)(code < 8 ? code - 8 : code - 7); }

static const uint8_t *unpack(const uint8_t *block, int *dc, int16_t *coefficients) {
  int kind = *block++, mask_bytes = kind & 15, values = kind >> KIND_VALUES_SHIFT;
  if (mask_bytes > 8) return NULL;
  *dc += kind & KIND_WIDE_DC ? (int16_t)read_u16(block) : (int8_t)*block;
  block += kind & KIND_WIDE_DC ? 2 : 1;
  uint64_t mask = 0;
  memcpy(&mask, block, mask_bytes);
  block += mask_bytes;
  if (mask >> 63) return NULL;

  memset(coefficients, 0, 64 * sizeof *coefficients);
  coefficients[0] = (int16_t)*dc;
  int count = __builtin_popcountll(mask);
  int wide = values == VALUES_OF_TWO_BYTES ? count : WIDE_VALUES[values];
  if (wide > count) wide = count;
  const uint8_t *nibbles = block + wide;
  for (int i = 0; mask; i++, mask &= mask - 1) {
    int16_t *target = &coefficients[ZIGZAG[__builtin_ctzll(mask) + 1]];
    if (values == VALUES_OF_TWO_BYTES)
      *target = (int16_t)read_u16(block + 2 * i);
    else if (i < wide)
      *target = (int8_t)block[i];
    else
      *target = nibble_value(nibbles[(i - wide) / 2] >> 4 * ((i - wide) % 2) & 15);
  }
  if (values == VALUES_OF_TWO_BYTES) return block + 2 * count;
  return nibbles + (count - wide + 1) / 2;
}

/* ---- inverse DCT ---- */

static int16_t saturate(int32_t value) {
  return (int16_t)(value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value);
}

/* One 8-point pass of the algorithm of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with
 * libjpeg's constants of 13 fraction bits. Damaged streams may overflow, hence unsigned sums. */
static void inverse_dct_8(const int16_t *in, int stride, int shift, int16_t out[8]) {
  int16_t v[8];
  for (int i = 0; i < 8; i++) v[i] = in[i * stride];
  uint32_t round = 1u << (shift - 1);
  uint32_t even = (int16_t)(v[0] + v[4]), odd = (int16_t)(v[0] - v[4]);
  uint32_t sum = (even << 13) + round, difference = (odd << 13) + round;
  uint32_t far = (uint32_t)(v[2] * (4433 + 6270)) + (uint32_t)(v[6] * 4433);
  uint32_t near = (uint32_t)(v[2] * 4433) + (uint32_t)(v[6] * (4433 - 15137));
  uint32_t parts[4] = {sum + far, difference + near, difference - near, sum - far};

  int16_t a = (int16_t)(v[7] + v[3]), b = (int16_t)(v[5] + v[1]);
  uint32_t z3 = (uint32_t)(a * (9633 - 16069)) + (uint32_t)(b * 9633);
  uint32_t z4 = (uint32_t)(a * 9633) + (uint32_t)(b * (9633 - 3196));
  uint32_t odds[4] = {
      (uint32_t)(v[7] * -7373) + (uint32_t)(v[1] * (12299 - 7373)) + z4,
      (uint32_t)(v[5] * -20995) + (uint32_t)(v[3] * (25172 - 20995)) + z3,
      (uint32_t)(v[5] * (16819 - 20995)) + (uint32_t)(v[3] * -20995) + z4,
      (uint32_t)(v[7] * (2446 - 7373)) + (uint32_t)(v[1] * -7373) + z3,
  };
  for (int i = 0; i < 4; i++) {
    out[i] = saturate((int32_t)(parts[i] + odds[i]) >> shift);
    out[7 - i] = saturate((int32_t)(parts[i] - odds[i]) >> shift);
  }
}

enum { COLUMN_SHIFT = 11, ROW_SHIFT = 18 }; /* 13 - PASS1_BITS and 13 + PASS1_BITS + 3 */

static void inverse_dct_block(const int16_t *coefficients, const uint16_t *table,
                              int16_t *columns) {
  int16_t scaled[64], passed[64];
  for (int i = 0; i < 64; i++)
    scaled[i] = (int16_t)((uint32_t)coefficients[i] * (uint32_t)(int16_t)table[i]);
  for (int x = 0; x < 8; x++) inverse_dct_8(scaled + x, 8, COLUMN_SHIFT, passed + 8 * x);
  for (int y = 0; y < 8; y++) {
    int16_t row[8];
    inverse_dct_8(passed + y, 8, ROW_SHIFT, row);
    for (int x = 0; x < 8; x++) {
      int level = row[x] < -128 ? -128 : row[x] > 127 ? 127 : row[x];
      columns[LANES * x + y] = (int16_t)(level * (1 << SAMPLE_BITS));
    }
  }
}

static void inverse_dct(const int16_t *first, const int16_t *second, const uint16_t *first_table,
                        const uint16_t *second_table, int16_t *columns) {
  inverse_dct_block(first, first_table, columns);
  inverse_dct_block(second, second_table, columns + 8);
}

/* ---- resizing and color ---- */

static void resize_columns(const axis *horizontal, const int16_t *columns, int origin,
                           int16_t *const *upper, int16_t *const *lower) {
  int taps = horizontal->taps;
  for (int x = 0; x < horizontal->outputs; x++) {
    int16_t sum[LANES] = {0};
    for (int t = 0; t < taps; t++) {
      const int16_t *column = columns + LANES * (horizontal->first[x] - origin + t);
      int16_t weight = (int16_t)horizontal->weights[x * taps + t];
      for (int i = 0; i < LANES; i++) sum[i] = (int16_t)(sum[i] + multiply(column[i], weight));
    }
    for (int i = 0; i < 8; i++) {
      upper[i][x] = sum[i];
      lower[i][x] = sum[8 + i];
    }
  }
}

static int16_t weighted(const row_sources *s, int x) {
  int16_t sum = 0;
  for (int t = 0; t < s->taps; t++)
    sum = (int16_t)(sum + multiply(s->rows[t][x], (int16_t)s->weights[t]));
  return sum;
}

static uint8_t level(int sample) {
  int value = (sample >> SAMPLE_BITS) + 128;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void output_row(const row_sources *sources, int components, int outputs, uint8_t *output) {
  for (int x = 0; x < outputs; x++, output += 3) {
    int y = weighted(&sources[0], x) + (1 << (SAMPLE_BITS - 1));
    if (components == 1) {
      output[0] = output[1] = output[2] = level(y);
      continue;
    }
    /* JFIF's factors 1.402, 0.344136, 0.714136 and 1.772, as 1 + 0.402 and 2 - 0.228. */
    int16_t cb = weighted(&sources[1], x), cr = weighted(&sources[2], x);
    output[0] = level(y + cr + multiply(cr, RED_FACTOR));
    output[1] = level(y - multiply(cb, GREEN_CB_FACTOR) - multiply(cr, GREEN_CR_FACTOR));
    output[2] = level(y + 2 * cb - multiply(cb, BLUE_FACTOR));
  }
}

const kernels portable_kernels = {unpack, inverse_dct, resize_columns, output_row};
