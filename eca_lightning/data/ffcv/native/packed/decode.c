/* Decodes a crop of a packed image at full resolution.
 *
 * Only the groups that the crop needs are read. Each component is resized at its own resolution;
 * libjpeg's interpolation of halved components is part of the weights, and colors are converted
 * for output pixels alone. */
#include <stdlib.h>

#include "../crop_decode.h"
#include "../filter.h"
#include "kernels.h"
#include "layout.h"
#include "packed.h"

enum { MODE_PACKED = 2 };

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

/* ---- the weights of the samples along one axis ---- */

typedef struct {
  axis weights;
  int limit;     /* maximum number of taps; where the weights of the next output begin */
  int low, high; /* the samples that are read */
} sample_axis;

static bool sample_axis_init(sample_axis *a, int outputs, int limit) {
  a->weights.outputs = outputs;
  a->weights.taps = 1;
  a->weights.first = malloc((size_t)outputs * sizeof *a->weights.first);
  a->weights.weights = malloc((size_t)outputs * limit * sizeof *a->weights.weights);
  a->limit = limit;
  a->low = INT32_MAX;
  return a->weights.first && a->weights.weights;
}

static void sample_axis_free(sample_axis *a) {
  free(a->weights.first);
  free(a->weights.weights);
}

/* Sets the sources of an output; `weight` is scratch space for `limit` numbers. */
static void set_output(sample_axis *a, int output, int first, const double *share, int count,
                       int16_t *weight) {
  quantize(share, count, 15, weight);
  while (count > 1 && weight[count - 1] == 0) count--;
  a->weights.first[output] = first;
  int32_t *target = a->weights.weights + (size_t)output * a->limit;
  for (int t = 0; t < count; t++) target[t] = weight[t] | (int32_t)((uint32_t)weight[t] << 16);
  for (int t = count; t < a->limit; t++) target[t] = 0;
  a->weights.taps = max(a->weights.taps, count);
  a->low = min(a->low, first);
  a->high = max(a->high, first + count);
}

/* Moves the weights together, to `taps` an output. */
static void compact(axis *a, int limit) {
  if (a->taps < limit)
    for (int i = 0; i < a->outputs; i++)
      memmove(a->weights + (size_t)i * a->taps, a->weights + (size_t)i * limit,
              (size_t)a->taps * sizeof *a->weights);
}

/* Turns shares of pixels into shares of the samples of a component of half the resolution; returns
 * their number. libjpeg gives a sample 3/4 of the two pixels that it covers, and 1/4 of the pixel
 * on either side of them, but repeats samples in rows of one or two. */
static int halve(const double *pixel_share, int count, int *first, int samples, bool smooth,
                 double *share) {
  int begin = max(*first / 2 - 1, 0), most = 0;
  for (int i = 0; i < count; i++) {
    int pixel = *first + i, near = pixel / 2, far = pixel % 2 ? near + 1 : near - 1;
    far = smooth ? min(max(far, 0), samples - 1) : near;
    while (most <= max(near, far) - begin) share[most++] = 0;
    share[near - begin] += 0.75 * pixel_share[i];
    share[far - begin] += 0.25 * pixel_share[i];
  }
  int skipped = 0;
  while (share[skipped] == 0) skipped++;
  memmove(share, share + skipped, (size_t)(most - skipped) * sizeof *share);
  *first = begin + skipped;
  return most - skipped;
}

/* Prepares the weights of luma and, if it is not NULL, of chroma, which has `samples` of its own;
 * they are half as many as luma's if `halved`. Returns false when memory runs out. */
static bool weigh(const span *s, sample_axis *luma, sample_axis *chroma, int samples, bool halved,
                  bool smooth, bool flip) {
  int limit = cell_limit(s), chroma_limit = halved ? limit / 2 + 3 : limit;
  if (!sample_axis_init(luma, s->outputs, limit) ||
      (chroma && !sample_axis_init(chroma, s->outputs, chroma_limit)))
    return false;
  double *share = malloc((size_t)(limit + chroma_limit) * sizeof *share);
  int16_t *weight = malloc((size_t)max(limit, chroma_limit) * sizeof *weight);
  bool ok = share && weight;
  for (int i = 0; ok && i < s->outputs; i++) {
    int output = flip ? s->outputs - 1 - i : i;
    int first, count = cell_shares(s, i, share, &first);
    set_output(luma, output, first, share, count, weight);
    if (!chroma) continue;
    double *own = share;
    if (halved) {
      own = share + limit;
      count = halve(share, count, &first, samples, smooth, own);
    }
    set_output(chroma, output, first, own, count, weight);
  }
  free(share);
  free(weight);
  compact(&luma->weights, luma->limit);
  if (chroma) compact(&chroma->weights, chroma->limit);
  return ok;
}

/* ---- the components ---- */

/* Luma, or both chroma components, which have the same resolution and are decoded together. */
typedef struct {
  sample_axis horizontal, vertical;
  int h, v;         /* samples per chroma sample */
  int16_t *columns; /* of one row of MCUs, from column `origin` */
  int origin;
} plane;

/* The rows of a component that output rows may still need: row r is at r % capacity. */
typedef struct {
  int16_t *samples;
  int capacity;
} ring;

typedef struct {
  packed_image image;
  const kernels *kernels;
  plane planes[2];
  ring rings[3];
  size_t stride; /* of the rings, in samples */
  int mcu_left, mcu_right, mcu_top, mcu_bottom;
  const int16_t **rows; /* of the sources of one output row, taps of each component */
  uint8_t *output;
  int out_width, out_height, next_row;
} decoder;

static int16_t *ring_row(const decoder *d, int component, int row) {
  return d->rings[component].samples + (size_t)(row % d->rings[component].capacity) * d->stride;
}

/* Prepares everything for a crop; false when memory runs out. */
static bool start(decoder *d, const span *vertical, const span *horizontal, bool flip) {
  const layout *shape = &d->image.shape;
  int planes = shape->components == 3 ? 2 : 1, taps = 0;
  plane *luma = &d->planes[0], *chroma = planes == 2 ? &d->planes[1] : NULL;
  int wide = (shape->width + shape->h - 1) / shape->h;
  int high = (shape->height + shape->v - 1) / shape->v;
  bool smooth = shape->h == 1 || wide > 2;
  if (!weigh(horizontal, &luma->horizontal, chroma ? &chroma->horizontal : NULL, wide,
             shape->h == 2, smooth, flip) ||
      !weigh(vertical, &luma->vertical, chroma ? &chroma->vertical : NULL, high, shape->v == 2,
             smooth, false))
    return false;
  d->stride = (size_t)(d->out_width + ROW_MULTIPLE - 1) / ROW_MULTIPLE * ROW_MULTIPLE;
  d->mcu_left = d->mcu_top = INT16_MAX;
  for (int i = 0; i < planes; i++) {
    plane *p = &d->planes[i];
    p->h = i == 0 ? shape->h : 1;
    p->v = i == 0 ? shape->v : 1;
    d->mcu_left = min(d->mcu_left, p->horizontal.low / (8 * p->h));
    d->mcu_right = max(d->mcu_right, (p->horizontal.high - 1) / (8 * p->h) + 1);
    d->mcu_top = min(d->mcu_top, p->vertical.low / (8 * p->v));
    d->mcu_bottom = max(d->mcu_bottom, (p->vertical.high - 1) / (8 * p->v) + 1);
    taps = max(taps, p->vertical.weights.taps);
  }
  for (int i = 0; i < planes; i++) {
    plane *p = &d->planes[i];
    p->origin = d->mcu_left * 8 * p->h;
    /* Columns after the last are read with weights of zero. */
    size_t columns = (size_t)(d->mcu_right - d->mcu_left) * 8 * p->h + p->horizontal.weights.taps;
    p->columns = calloc(columns, LANES * sizeof *p->columns);
    if (!p->columns) return false;
  }
  for (int i = 0; i < shape->components; i++) {
    const plane *p = &d->planes[i > 0];
    /* An output row may wait for the other plane, whose interpolation reads two rows more. */
    d->rings[i].capacity = p->vertical.weights.taps + 8 * p->v + 6;
    d->rings[i].samples = calloc(d->rings[i].capacity * d->stride, sizeof *d->rings[i].samples);
    if (!d->rings[i].samples) return false;
  }
  d->rows = malloc((size_t)shape->components * taps * sizeof *d->rows);
  return d->rows != NULL;
}

static void finish(decoder *d) {
  for (int i = 0; i < 2; i++) {
    sample_axis_free(&d->planes[i].horizontal);
    sample_axis_free(&d->planes[i].vertical);
    free(d->planes[i].columns);
  }
  for (int i = 0; i < 3; i++) free(d->rings[i].samples);
  free(d->rows);
}

/* ---- rows of MCUs ---- */

static void transform_mcu(decoder *d, int16_t (*blocks)[64], int mcu) {
  const layout *shape = &d->image.shape;
  const uint16_t(*tables)[64] = (const uint16_t(*)[64])d->image.quantization;
  plane *luma = &d->planes[0], *chroma = &d->planes[1];
  int16_t *columns = luma->columns + LANES * (8 * shape->h * mcu - luma->origin);
  for (int i = 0; i < shape->h; i++)
    d->kernels->inverse_dct(blocks[i], blocks[shape->v == 2 ? shape->h + i : i], tables[0],
                            tables[0], columns + 8 * LANES * i);
  if (shape->components == 1) return;
  int own = shape->h * shape->v;
  d->kernels->inverse_dct(blocks[own], blocks[own + 1], tables[1], tables[2],
                          chroma->columns + LANES * (8 * mcu - chroma->origin));
}

/* Decodes the MCUs of a row that the crop needs; false if they are damaged. */
static bool decode_mcus(decoder *d, int mcu_row) {
  const layout *shape = &d->image.shape;
  int own = shape->h * shape->v, count = shape->components == 3 ? own + 2 : 1;
  int16_t blocks[MCU_BLOCKS][64];
  for (int g = d->mcu_left / GROUP_MCUS; g * GROUP_MCUS < d->mcu_right; g++) {
    const uint8_t *at, *end;
    if (!packed_group(&d->image, mcu_row * shape->groups_wide + g, &at, &end)) return false;
    int dc[3] = {0};
    int stop = min((g + 1) * GROUP_MCUS, d->mcu_right);
    for (int mcu = g * GROUP_MCUS; mcu < stop; mcu++) {
      for (int i = 0; i < count; i++) {
        if (at >= end) return false;
        at = d->kernels->unpack(at, &dc[i < own ? 0 : i - own + 1], blocks[i]);
        if (!at) return false;
      }
      if (mcu >= d->mcu_left) transform_mcu(d, blocks, mcu);
    }
    if (at > end) return false;
  }
  return true;
}

/* Resizes a decoded row of MCUs along its rows. */
static void resize_mcus(decoder *d, int mcu_row) {
  const layout *shape = &d->image.shape;
  int16_t *upper[8], *lower[8];
  int luma_row = mcu_row * 8 * shape->v;
  for (int i = 0; i < 8; i++) {
    upper[i] = ring_row(d, 0, luma_row + i);
    lower[i] = shape->v == 2 ? ring_row(d, 0, luma_row + 8 + i) : upper[i];
  }
  const plane *luma = &d->planes[0], *chroma = &d->planes[1];
  d->kernels->resize_columns(&luma->horizontal.weights, luma->columns, luma->origin, upper, lower);
  if (shape->components == 1) return;
  for (int i = 0; i < 8; i++) {
    upper[i] = ring_row(d, 1, mcu_row * 8 + i);
    lower[i] = ring_row(d, 2, mcu_row * 8 + i);
  }
  d->kernels->resize_columns(&chroma->horizontal.weights, chroma->columns, chroma->origin, upper,
                             lower);
}

/* Writes the output rows whose sources are there, once `mcu_rows` rows of MCUs are. */
static void write_rows(decoder *d, int mcu_rows) {
  const layout *shape = &d->image.shape;
  for (; d->next_row < d->out_height; d->next_row++) {
    row_sources sources[3];
    const int16_t **rows = d->rows;
    for (int i = 0; i < shape->components; i++) {
      const plane *p = &d->planes[i > 0];
      const axis *a = &p->vertical.weights;
      int first = a->first[d->next_row];
      if (mcu_rows < d->mcu_bottom && first + a->taps > mcu_rows * 8 * p->v) return;
      for (int t = 0; t < a->taps; t++) rows[t] = ring_row(d, i, first + t);
      sources[i] = (row_sources){rows, a->weights + (size_t)d->next_row * a->taps, a->taps};
      rows += a->taps;
    }
    d->kernels->output_row(sources, shape->components, d->out_width,
                           d->output + (size_t)d->next_row * d->out_width * 3);
  }
}

static int64_t decode(decoder *d, const span *vertical, const span *horizontal, bool flip) {
  int64_t status = start(d, vertical, horizontal, flip) ? CROP_OK : CROP_NO_MEMORY;
  for (int row = d->mcu_top; status == CROP_OK && row < d->mcu_bottom; row++) {
    if (decode_mcus(d, row)) {
      resize_mcus(d, row);
      write_rows(d, row + 1);
    } else {
      status = CROP_DAMAGED;
    }
  }
  finish(d);
  return status;
}

/* ---- the exported functions ---- */

static bool is_side(int64_t n) { return 1 <= n && n <= CROP_LARGEST_SIDE; }

static int64_t open_image(packed_image *image, int64_t data, int64_t bytes, int64_t height,
                          int64_t width) {
  if (!data || bytes <= 0) return CROP_BAD_ARGUMENT;
  int64_t status = packed_open(image, (const uint8_t *)data, (size_t)bytes);
  if (status != CROP_OK) return status;
  bool as_recorded = image->shape.height == height && image->shape.width == width;
  return height == 0 || as_recorded ? CROP_OK : CROP_SIZE_MISMATCH;
}

int64_t packed_decode_image(int64_t mode, int64_t data, int64_t data_bytes, int64_t picture_height,
                            int64_t picture_width, double top, double left, double height,
                            double width, int64_t how, int64_t output, int64_t out_height,
                            int64_t out_width, double reduce_from, int64_t message) {
  (void)reduce_from;
  (void)message;
  if (!output || !is_side(out_height) || !is_side(out_width)) return CROP_BAD_ARGUMENT;
  decoder d = {.kernels = best_kernels(),
               .output = (uint8_t *)output,
               .out_height = (int)out_height,
               .out_width = (int)out_width};
  int64_t status = CROP_BAD_ARGUMENT;
  if (mode == MODE_PACKED)
    status = open_image(&d.image, data, data_bytes, picture_height, picture_width);
  const layout *shape = &d.image.shape;
  if (status == CROP_OK &&
      !(is_inside(top, height, shape->height) && is_inside(left, width, shape->width)))
    status = CROP_BAD_ARGUMENT;
  if (status == CROP_OK) {
    span vertical = span_of(top, height, shape->height, d.out_height, (int)how);
    span horizontal = span_of(left, width, shape->width, d.out_width, (int)how);
    status = decode(&d, &vertical, &horizontal, how & CROP_FLIP);
  }
  if (status != CROP_OK) memset(d.output, 0, (size_t)out_height * out_width * 3);
  return status;
}

int64_t packed_check(int64_t data, int64_t data_bytes, int64_t picture_height,
                     int64_t picture_width) {
  packed_image image;
  int64_t status = open_image(&image, data, data_bytes, picture_height, picture_width);
  if (status != CROP_OK) return status;
  const layout *shape = &image.shape;
  int own = shape->h * shape->v, count = shape->components == 3 ? own + 2 : 1;
  int16_t block[64];
  for (int group = 0; group < shape->groups; group++) {
    const uint8_t *at, *end;
    if (!packed_group(&image, group, &at, &end)) return CROP_DAMAGED;
    int first = group % shape->groups_wide * GROUP_MCUS;
    int mcus = min(GROUP_MCUS, shape->mcus_wide - first);
    int dc[3] = {0};
    for (int i = 0; i < mcus * count; i++) {
      int component = i % count < own ? 0 : i % count - own + 1;
      if (at >= end || !(at = best_kernels()->unpack(at, &dc[component], block)))
        return CROP_DAMAGED;
    }
    if (at != end) return CROP_DAMAGED;
  }
  for (size_t i = image.end; i < (size_t)data_bytes; i++)
    if (image.data[i]) return CROP_DAMAGED;
  return CROP_OK;
}

int64_t packed_library_version(void) { return PACKED_LIBRARY_VERSION; }

int64_t packed_portable(int64_t portable) {
  kernels_portable = portable != 0;
  return portable;
}
