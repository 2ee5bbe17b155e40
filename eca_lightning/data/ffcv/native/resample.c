/* Separable resampling of 8-bit RGB rows in fixed point.
 *
 * The vertical pass comes first, because it runs along rows as they are decoded. It keeps 7
 * fraction bits, so that there is one rounding to 8 bits, at the end. Integer arithmetic is
 * defined to the bit: every variant of a kernel gives the same pixels on every machine.
 */
#include "resample.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

int resampler_portable = 0;

enum {
  BLEND_BITS = 7,   /* fraction bits between the passes: 255 << 7 still fits 16 bits, signed */
  ROW_BITS = 15,    /* of vertical weights */
  COLUMN_BITS = 14, /* of horizontal weights, where a weight of exactly 1 occurs */
  FEW = 4,          /* maximum number of source rows that are summed in 16 bits */
  GROUP = 4,        /* output columns per step of the horizontal pass */
  PADDING = 64,     /* samples after a blended row that vector loads may read */
};

/* ---- filters ---- */

/* Sets `c` for output `i` of the axis. `share` is scratch space for cell_limit doubles. */
static void fill_cell(const span *s, int i, int bits, double *share, cell *c) {
  c->count = cell_shares(s, i, share, &c->first);
  quantize(share, c->count, bits, c->weight);
  while (c->count > 1 && c->weight[c->count - 1] == 0) c->count--;
}

/* Horizontal weights are stored as the AVX2 kernel reads them: for two neighboring output columns
 * and each pair of taps, (w0, w1) four times for the first column, then for the second. */
static int16_t *weight_at(const resampler *r, int column, int tap) {
  return r->weights + ((size_t)(column / 2) * r->pairs + tap / 2) * 16 + column % 2 * 8 + tap % 2;
}

static void fill_column(resampler *r, int column, const cell *c) {
  r->offsets[column] = 3 * (c->first - r->left);
  for (int tap = 0; tap < c->count; tap++)
    for (int copy = 0; copy < 4; copy++) weight_at(r, column, tap)[2 * copy] = c->weight[tap];
}

bool resampler_init(resampler *r, const span *vertical, const span *horizontal, bool flip) {
  memset(r, 0, sizeof *r);
  int tall = cell_limit(vertical), wide = cell_limit(horizontal);
  int columns = (horizontal->outputs + GROUP - 1) / GROUP * GROUP;
  r->left = horizontal->low;
  r->samples = 3 * (horizontal->high - horizontal->low);
  r->outputs = horizontal->outputs;
  r->pairs = (wide + 1) / 2;

  /* One allocation, in descending order of alignment. */
  size_t longest = tall > wide ? tall : wide;
  size_t share_bytes = (longest + 2) * sizeof(double);
  size_t cell_bytes = vertical->outputs * sizeof(cell);
  size_t offset_bytes = columns * sizeof(int32_t);
  size_t weight_bytes = (size_t)columns / 2 * r->pairs * 16 * sizeof(int16_t);
  size_t row_weight_bytes = ((size_t)vertical->outputs * tall + longest) * sizeof(int16_t);
  size_t blended_bytes = ((size_t)r->samples + 6 * r->pairs + PADDING) * sizeof(int16_t);
  char *next = calloc(1, share_bytes + cell_bytes + offset_bytes + weight_bytes +
                             row_weight_bytes + blended_bytes);
  if (!next) return false;
  r->memory = next;
  double *share = (double *)next;
  r->rows = (cell *)(next += share_bytes);
  r->offsets = (int32_t *)(next += cell_bytes);
  r->weights = (int16_t *)(next += offset_bytes);
  int16_t *row_weights = (int16_t *)(next += weight_bytes);
  r->blended = (int16_t *)(next += row_weight_bytes);

  for (int y = 0; y < vertical->outputs; y++) {
    r->rows[y].weight = row_weights + (size_t)y * tall;
    fill_cell(vertical, y, ROW_BITS, share, &r->rows[y]);
    if (r->rows[y].count > r->longest_cell) r->longest_cell = r->rows[y].count;
  }
  cell c = {.weight = row_weights + (size_t)vertical->outputs * tall};
  for (int x = 0; x < r->outputs; x++) {
    fill_cell(horizontal, x, COLUMN_BITS, share, &c);
    fill_column(r, flip ? r->outputs - 1 - x : x, &c);
  }
  return true;
}

void resampler_free(resampler *r) {
  free(r->memory);
  r->memory = NULL;
}

/* ---- portable kernels, which define the arithmetic ---- */

#define INLINE static inline __attribute__((always_inline))

enum { FINAL_BITS = BLEND_BITS + COLUMN_BITS };

static int16_t widen(uint8_t sample) { return (int16_t)(sample << BLEND_BITS); }

/* Computes the weighted sum of `count` source rows, a compile-time constant, from sample `i`. */
INLINE void blend_few(const resampler *r, const cell *c, const uint8_t *const *rows,
                      const int count, int i) {
  int16_t *restrict out = r->blended;
  const int samples = r->samples;
  for (; i < samples; i++) {
    int16_t sum = count == 1 ? widen(rows[0][i]) : 0;
    for (int j = 0; j < count && count > 1; j++)
      sum = (int16_t)(sum + multiply(widen(rows[j][i]), c->weight[j]));
    out[i] = sum;
  }
}

/* For many rows the rounding errors of the products would add up, so the sum has 32 bits. */
static void blend_many(const resampler *r, const cell *c, const uint8_t *const *rows) {
  enum { STRIP = 256, DROPPED = ROW_BITS - BLEND_BITS };
  for (int start = 0; start < r->samples; start += STRIP) {
    int32_t sum[STRIP];
    int width = r->samples - start < STRIP ? r->samples - start : STRIP;
    for (int i = 0; i < width; i++) sum[i] = 1 << (DROPPED - 1);
    for (int j = 0; j < c->count; j++)
      for (int i = 0; i < width; i++) sum[i] += rows[j][start + i] * c->weight[j];
    for (int i = 0; i < width; i++) r->blended[start + i] = (int16_t)(sum[i] >> DROPPED);
  }
}

/* Computes one output row as weighted sums of the pixels of r->blended. */
static void columns_portable(const resampler *r, uint8_t *out) {
  for (int x = 0; x < r->outputs; x++) {
    const int16_t *in = r->blended + r->offsets[x];
    int32_t red = 1 << (FINAL_BITS - 1), green = red, blue = red;
    for (int tap = 0; tap < 2 * r->pairs; tap++) {
      int weight = *weight_at(r, x, tap);
      red += weight * in[3 * tap];
      green += weight * in[3 * tap + 1];
      blue += weight * in[3 * tap + 2];
    }
    out[3 * x] = (uint8_t)(red >> FINAL_BITS);
    out[3 * x + 1] = (uint8_t)(green >> FINAL_BITS);
    out[3 * x + 2] = (uint8_t)(blue >> FINAL_BITS);
  }
}

static void row_portable(const resampler *r, const cell *c, const uint8_t *const *rows,
                         uint8_t *out) {
  switch (c->count) {
    case 1: blend_few(r, c, rows, 1, 0); break;
    case 2: blend_few(r, c, rows, 2, 0); break;
    case 3: blend_few(r, c, rows, 3, 0); break;
    case FEW: blend_few(r, c, rows, FEW, 0); break;
    default: blend_many(r, c, rows);
  }
  columns_portable(r, out);
}

/* ---- AVX2 kernels with the same results ---- */

#if defined(__x86_64__)

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE AVX2 INLINE

AVX2_INLINE __m256i widen_avx2(const uint8_t *samples) {
  __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)samples));
  return _mm256_slli_epi16(words, BLEND_BITS);
}

AVX2_INLINE void blend_avx2(const resampler *r, const cell *c, const uint8_t *const *rows,
                            const int count) {
  const uint8_t *row[FEW];
  __m256i weight[FEW];
  for (int j = 0; j < count; j++) {
    row[j] = rows[j];
    weight[j] = _mm256_set1_epi16(c->weight[j]);
  }
  int16_t *out = r->blended;
  const int samples = r->samples;
  int i = 0;
  for (; i + 16 <= samples; i += 16) {
    __m256i sum = widen_avx2(row[0] + i);
    if (count > 1) sum = _mm256_mulhrs_epi16(sum, weight[0]);
    for (int j = 1; j < count; j++)
      sum = _mm256_add_epi16(sum, _mm256_mulhrs_epi16(widen_avx2(row[j] + i), weight[j]));
    _mm256_storeu_si256((__m256i *)(out + i), sum);
  }
  blend_few(r, c, rows, count, i);
}

/* Two output columns, one per 128-bit lane: 32-bit sums of red, green, blue and a spare. */
AVX2_INLINE __m256i two_columns(const int16_t *blended, const int32_t *offsets,
                                const int16_t *weights, const int pairs) {
  /* r0 g0 b0 r1 g1 b1 to r0 r1 g0 g1 b0 b1, for the multiply-add of neighbors. */
  const __m256i neighbors = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
  const int16_t *first = blended + offsets[0], *second = blended + offsets[1];
  __m256i sum = _mm256_set1_epi32(1 << (FINAL_BITS - 1));
  for (int i = 0; i < pairs; i++) {
    __m256i in = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(first + 6 * i))),
        _mm_loadu_si128((const __m128i *)(second + 6 * i)), 1);
    __m256i weight = _mm256_loadu_si256((const __m256i *)(weights + 16 * i));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(in, neighbors), weight));
  }
  return _mm256_srai_epi32(sum, FINAL_BITS);
}

AVX2_INLINE void columns_avx2(const resampler *r, uint8_t *out, const int pairs) {
  const __m128i drop_spare = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const int16_t *blended = r->blended, *weights = r->weights;
  const int32_t *offsets = r->offsets;
  const int outputs = r->outputs;
  for (int x = 0; x < outputs; x += GROUP, offsets += GROUP, weights += 32 * pairs) {
    __m256i first = two_columns(blended, offsets, weights, pairs);
    __m256i second = two_columns(blended, offsets + 2, weights + 16 * pairs, pairs);
    __m256i words = _mm256_packs_epi32(first, second); /* columns 0, 2 | 1, 3 */
    __m256i bytes = _mm256_packus_epi16(words, words);
    __m128i pixels = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes),
                                        _mm256_extracti128_si256(bytes, 1));
    pixels = _mm_shuffle_epi8(pixels, drop_spare);
    if (x + 2 * GROUP <= outputs) {
      _mm_storeu_si128((__m128i *)(out + 3 * x), pixels); /* 4 bytes of the next group */
    } else {
      uint8_t last[16];
      _mm_storeu_si128((__m128i *)last, pixels);
      int left = outputs - x;
      memcpy(out + 3 * x, last, 3 * (size_t)(left < GROUP ? left : GROUP));
    }
  }
}

static AVX2 void row_avx2(const resampler *r, const cell *c, const uint8_t *const *rows,
                          uint8_t *out) {
  switch (c->count) {
    case 1: blend_avx2(r, c, rows, 1); break;
    case 2: blend_avx2(r, c, rows, 2); break;
    case 3: blend_avx2(r, c, rows, 3); break;
    case FEW: blend_avx2(r, c, rows, FEW); break;
    default: blend_many(r, c, rows);
  }
  switch (r->pairs) {
    case 1: columns_avx2(r, out, 1); break;
    case 2: columns_avx2(r, out, 2); break;
    default: columns_avx2(r, out, r->pairs);
  }
}

#endif

void resampler_row(const resampler *r, int y, const uint8_t *const *sources, uint8_t *output) {
#if defined(__x86_64__)
  if (!resampler_portable && __builtin_cpu_supports("avx2")) {
    row_avx2(r, &r->rows[y], sources, output);
    return;
  }
#endif
  row_portable(r, &r->rows[y], sources, output);
}
