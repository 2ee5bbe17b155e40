/* The kernels in AVX2, with the results of the portable ones. */
#include "kernels.h"
#include "layout.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define INLINE AVX2 static inline __attribute__((always_inline))

/* ---- blocks ---- */

enum { NOTHING = 0x80 }; /* as the index of a byte shuffle: zero */

/* For each byte of a mask, the place of each of its 8 coefficients among those that are there. */
static uint8_t expansion[256][8];

/* Zigzag order to natural order: where each byte of a half block lies in zigzag register r, which
 * holds coefficients 16 r + 1 to 16 r + 16. */
static uint8_t reordering[2][4][32];

/* Runs when the library is loaded, before any thread can call it. */
static __attribute__((constructor)) void fill_tables(void) {
  for (int mask = 0; mask < 256; mask++)
    for (int bit = 0, next = 0; bit < 8; bit++)
      expansion[mask][bit] = mask >> bit & 1 ? (uint8_t)next++ : NOTHING;
  memset(reordering, NOTHING, sizeof reordering);
  for (int i = 1; i < 64; i++)
    reordering[ZIGZAG[i] / 32][(i - 1) / 16][ZIGZAG[i] % 32] = (uint8_t)((i - 1) % 16);
}

INLINE __m256i load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE void store(void *to, __m256i value) { _mm256_storeu_si256((__m256i *)to, value); }

/* The values of 32 nibbles as bytes. */
INLINE __m256i nibble_values(const uint8_t *nibbles) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8));
  __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)nibbles));
  codes = _mm256_or_si256(codes, _mm256_slli_epi16(codes, 4));
  return _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
}

/* Bytes of coefficients in zigzag order at the places of a mask's 16 bits. */
INLINE __m128i expand(const int8_t **values, unsigned mask) {
  __m128i low = _mm_loadl_epi64((const __m128i *)*values);
  low = _mm_shuffle_epi8(low, _mm_loadl_epi64((const __m128i *)expansion[mask & 255]));
  *values += _mm_popcnt_u32(mask & 255);
  __m128i high = _mm_loadl_epi64((const __m128i *)*values);
  high = _mm_shuffle_epi8(high, _mm_loadl_epi64((const __m128i *)expansion[mask >> 8]));
  *values += _mm_popcnt_u32(mask >> 8);
  return _mm_unpacklo_epi64(low, high);
}

static AVX2 const uint8_t *unpack(const uint8_t *block, int *dc, int16_t *coefficients) {
  const uint8_t *start = block;
  int before = *dc;
  int kind = *block++, mask_bytes = kind & 15, code = kind >> KIND_VALUES_SHIFT;
  if (mask_bytes > 8) return NULL;
  int16_t difference = (int16_t)read_u16(block);
  *dc += kind & KIND_WIDE_DC ? difference : (int8_t)difference;
  block += kind & KIND_WIDE_DC ? 2 : 1;
  uint64_t mask;
  memcpy(&mask, block, sizeof mask);
  mask = _bzhi_u64(mask, 8 * (unsigned)mask_bytes);
  block += mask_bytes;
  if (mask >> 63) return NULL;

  int count = (int)_mm_popcnt_u64(mask);
  if (code == VALUES_OF_TWO_BYTES) {
    *dc = before;
    return portable_kernels.unpack(start, dc, coefficients);
  }
  int wide = WIDE_VALUES[code] < count ? WIDE_VALUES[code] : count;
  int8_t values[128];
  store(values, load(block));
  if (wide > 32) store(values + 32, load(block + 32));
  block += wide;
  for (int i = wide; i < count; i += 32, block += 16) store(values + i, nibble_values(block));
  block = block - (count - wide + 31) / 32 * 16 + (count - wide + 1) / 2;

  const int8_t *next = values;
  __m256i upper = _mm256_setzero_si256(), lower = upper;
  for (int r = 0; r < 4; r++, mask >>= 16) {
    __m256i zigzag = _mm256_broadcastsi128_si256(expand(&next, mask & 0xFFFF));
    upper = _mm256_or_si256(upper, _mm256_shuffle_epi8(zigzag, load(reordering[0][r])));
    lower = _mm256_or_si256(lower, _mm256_shuffle_epi8(zigzag, load(reordering[1][r])));
  }
  __m256i first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(upper));
  store(coefficients, _mm256_insert_epi16(first, (int16_t)*dc, 0));
  store(coefficients + 16, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(upper, 1)));
  store(coefficients + 32, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(lower)));
  store(coefficients + 48, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(lower, 1)));
  return block;
}

/* ---- inverse DCT ---- */

/* The products of neighboring 16-bit numbers with two factors, and their sum. */
INLINE __m256i dot(__m256i pairs, int first, int second) {
  return _mm256_madd_epi16(pairs, _mm256_set1_epi32((int)((uint32_t)(uint16_t)first | (uint32_t)second << 16)));
}

INLINE __m256i interleave(__m256i a, __m256i b, const int high) {
  return high ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b);
}

/* Half of the lanes of inverse_dct_8 in portable.c. */
INLINE void half_pass(const __m256i v[8], const int high, const int shift, __m256i out[8]) {
  const __m256i zero = _mm256_setzero_si256(), round = _mm256_set1_epi32(1 << (shift - 1));
  __m256i even = interleave(zero, _mm256_add_epi16(v[0], v[4]), high);
  __m256i odd = interleave(zero, _mm256_sub_epi16(v[0], v[4]), high);
  __m256i sum = _mm256_add_epi32(_mm256_srai_epi32(even, 3), round);
  __m256i difference = _mm256_add_epi32(_mm256_srai_epi32(odd, 3), round);
  __m256i pair26 = interleave(v[2], v[6], high);
  __m256i far = dot(pair26, 4433 + 6270, 4433), near = dot(pair26, 4433, 4433 - 15137);
  __m256i parts[4] = {_mm256_add_epi32(sum, far), _mm256_add_epi32(difference, near),
                      _mm256_sub_epi32(difference, near), _mm256_sub_epi32(sum, far)};

  __m256i pair_z = interleave(_mm256_add_epi16(v[7], v[3]), _mm256_add_epi16(v[5], v[1]), high);
  __m256i z3 = dot(pair_z, 9633 - 16069, 9633), z4 = dot(pair_z, 9633, 9633 - 3196);
  __m256i pair71 = interleave(v[7], v[1], high), pair53 = interleave(v[5], v[3], high);
  __m256i odds[4] = {_mm256_add_epi32(dot(pair71, -7373, 12299 - 7373), z4),
                     _mm256_add_epi32(dot(pair53, -20995, 25172 - 20995), z3),
                     _mm256_add_epi32(dot(pair53, 16819 - 20995, -20995), z4),
                     _mm256_add_epi32(dot(pair71, 2446 - 7373, -7373), z3)};
  for (int i = 0; i < 4; i++) {
    out[i] = _mm256_srai_epi32(_mm256_add_epi32(parts[i], odds[i]), shift);
    out[7 - i] = _mm256_srai_epi32(_mm256_sub_epi32(parts[i], odds[i]), shift);
  }
}

INLINE void pass(__m256i v[8], const int shift) {
  __m256i low[8], high[8];
  half_pass(v, 0, shift, low);
  half_pass(v, 1, shift, high);
  for (int i = 0; i < 8; i++) v[i] = _mm256_packs_epi32(low[i], high[i]);
}

/* Transposes 8 x 8 numbers in each 128-bit lane. */
INLINE void transpose(__m256i v[8]) {
  for (int round = 0; round < 3; round++) {
    __m256i mixed[8];
    for (int i = 0; i < 4; i++) {
      mixed[2 * i] = _mm256_unpacklo_epi16(v[i], v[i + 4]);
      mixed[2 * i + 1] = _mm256_unpackhi_epi16(v[i], v[i + 4]);
    }
    memcpy(v, mixed, sizeof mixed);
  }
}

INLINE __m256i two_rows(const void *first, const void *second) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)first)),
                                 _mm_loadu_si128((const __m128i *)second), 1);
}

static AVX2 void inverse_dct(const int16_t *first, const int16_t *second,
                             const uint16_t *first_table, const uint16_t *second_table,
                             int16_t *columns) {
  enum { COLUMN_SHIFT = 11, ROW_SHIFT = 18 };
  __m256i v[8], any = _mm256_setzero_si256();
  for (int i = 0; i < 8; i++) {
    v[i] = _mm256_mullo_epi16(two_rows(first + 8 * i, second + 8 * i),
                              two_rows(first_table + 8 * i, second_table + 8 * i));
    if (i > 0) any = _mm256_or_si256(any, v[i]);
  }
  if (_mm256_testz_si256(any, any)) { /* the pass makes 4 times the number of a single row */
    __m256i twice = _mm256_adds_epi16(v[0], v[0]);
    for (int i = 0; i < 8; i++) v[i] = _mm256_adds_epi16(twice, twice);
  } else {
    pass(v, COLUMN_SHIFT);
  }
  transpose(v);
  pass(v, ROW_SHIFT);
  const __m256i lowest = _mm256_set1_epi16(-128), highest = _mm256_set1_epi16(127);
  for (int i = 0; i < 8; i++) {
    __m256i level = _mm256_min_epi16(_mm256_max_epi16(v[i], lowest), highest);
    store(columns + LANES * i, _mm256_slli_epi16(level, SAMPLE_BITS));
  }
}

/* ---- resizing and color ---- */

INLINE void resize_taps(const axis *horizontal, const int16_t *columns, int origin,
                        int16_t *const *upper, int16_t *const *lower, const int taps) {
  int last = horizontal->outputs - 1;
  for (int x = 0; x <= last; x += 8) {
    __m256i v[8];
    for (int i = 0; i < 8; i++) {
      int output = x + i < last ? x + i : last;
      const int16_t *column = columns + LANES * (horizontal->first[output] - origin);
      const int32_t *weight = horizontal->weights + output * taps;
      v[i] = _mm256_mulhrs_epi16(load(column), _mm256_set1_epi32(weight[0]));
      for (int t = 1; t < taps; t++) {
        __m256i part = _mm256_mulhrs_epi16(load(column + LANES * t), _mm256_set1_epi32(weight[t]));
        v[i] = _mm256_add_epi16(v[i], part);
      }
    }
    transpose(v);
    for (int i = 0; i < 8; i++) {
      _mm_storeu_si128((__m128i *)(upper[i] + x), _mm256_castsi256_si128(v[i]));
      _mm_storeu_si128((__m128i *)(lower[i] + x), _mm256_extracti128_si256(v[i], 1));
    }
  }
}

static AVX2 void resize_columns(const axis *horizontal, const int16_t *columns, int origin,
                                int16_t *const *upper, int16_t *const *lower) {
  switch (horizontal->taps) {
    case 1: resize_taps(horizontal, columns, origin, upper, lower, 1); break;
    case 2: resize_taps(horizontal, columns, origin, upper, lower, 2); break;
    case 3: resize_taps(horizontal, columns, origin, upper, lower, 3); break;
    case 4: resize_taps(horizontal, columns, origin, upper, lower, 4); break;
    default: resize_taps(horizontal, columns, origin, upper, lower, horizontal->taps);
  }
}

INLINE __m256i weighted(const row_sources *s, int x) {
  __m256i sum = _mm256_mulhrs_epi16(load(s->rows[0] + x), _mm256_set1_epi32(s->weights[0]));
  for (int t = 1; t < s->taps; t++) {
    __m256i part = _mm256_mulhrs_epi16(load(s->rows[t] + x), _mm256_set1_epi32(s->weights[t]));
    sum = _mm256_add_epi16(sum, part);
  }
  return sum;
}

/* Red, green and blue of 16 pixels, minus 128, not yet limited to 8 bits. */
INLINE void colors(const row_sources *sources, const int components, int x, __m256i rgb[3]) {
  __m256i y = _mm256_add_epi16(weighted(&sources[0], x), _mm256_set1_epi16(1 << (SAMPLE_BITS - 1)));
  rgb[0] = rgb[1] = rgb[2] = y;
  if (components == 3) {
    __m256i cb = weighted(&sources[1], x), cr = weighted(&sources[2], x);
    __m256i red = _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(RED_FACTOR));
    __m256i green = _mm256_add_epi16(_mm256_mulhrs_epi16(cb, _mm256_set1_epi16(GREEN_CB_FACTOR)),
                                     _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(GREEN_CR_FACTOR)));
    __m256i blue = _mm256_sub_epi16(cb, _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(BLUE_FACTOR)));
    rgb[0] = _mm256_adds_epi16(y, _mm256_add_epi16(cr, red));
    rgb[1] = _mm256_subs_epi16(y, green);
    rgb[2] = _mm256_adds_epi16(_mm256_adds_epi16(y, cb), blue);
  }
  for (int i = 0; i < 3; i++) rgb[i] = _mm256_srai_epi16(rgb[i], SAMPLE_BITS);
}

/* Writes four pixels, given with a zero byte after each, and 4 bytes more. */
INLINE void store_pixels(uint8_t *output, __m128i pixels) {
  const __m128i drop = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  _mm_storeu_si128((__m128i *)output, _mm_shuffle_epi8(pixels, drop));
}

/* Computes 32 pixels, and writes 4 bytes more. */
INLINE void output_pixels(const row_sources *sources, const int components, int x,
                          uint8_t *output) {
  __m256i left[3], right[3], level[3];
  colors(sources, components, x, left);
  colors(sources, components, x + 16, right);
  for (int i = 0; i < 3; i++) /* in each lane 8 pixels of the left and 8 of the right */
    level[i] = _mm256_xor_si256(_mm256_packs_epi16(left[i], right[i]), _mm256_set1_epi8(-128));
  const __m256i zero = _mm256_setzero_si256();
  for (int half = 0; half < 2; half++) {
    __m256i red_green = half ? _mm256_unpackhi_epi8(level[0], level[1])
                             : _mm256_unpacklo_epi8(level[0], level[1]);
    __m256i blue = half ? _mm256_unpackhi_epi8(level[2], zero) : _mm256_unpacklo_epi8(level[2], zero);
    __m256i first = _mm256_unpacklo_epi16(red_green, blue);
    __m256i second = _mm256_unpackhi_epi16(red_green, blue);
    for (int lane = 0; lane < 2; lane++) {
      uint8_t *at = output + 48 * half + 24 * lane;
      store_pixels(at, lane ? _mm256_extracti128_si256(first, 1) : _mm256_castsi256_si128(first));
      store_pixels(at + 12, lane ? _mm256_extracti128_si256(second, 1) : _mm256_castsi256_si128(second));
    }
  }
}

INLINE void output_all(const row_sources *sources, const int components, int outputs,
                       uint8_t *output) {
  int x = 0;
  for (; 3 * (x + ROW_MULTIPLE) + 4 <= 3 * outputs; x += ROW_MULTIPLE)
    output_pixels(sources, components, x, output + 3 * x);
  for (; x < outputs; x += ROW_MULTIPLE) {
    uint8_t last[3 * ROW_MULTIPLE + 4];
    output_pixels(sources, components, x, last);
    int count = outputs - x < ROW_MULTIPLE ? outputs - x : ROW_MULTIPLE;
    memcpy(output + 3 * x, last, 3 * (size_t)count);
  }
}

static AVX2 void output_row(const row_sources *sources, int components, int outputs,
                            uint8_t *output) {
  if (components == 1)
    output_all(sources, 1, outputs, output);
  else
    output_all(sources, 3, outputs, output);
}

static const kernels avx2_kernels = {unpack, inverse_dct, resize_columns, output_row};

#endif

const kernels *best_kernels(void) {
#if defined(__x86_64__)
  if (!kernels_portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
    return &avx2_kernels;
#endif
  return &portable_kernels;
}
