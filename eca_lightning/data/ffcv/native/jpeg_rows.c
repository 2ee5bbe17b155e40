/* Decodes a crop of a JPEG stream with libjpeg-turbo, row by row into the resampler.
 *
 * The costs of a JPEG are, in descending order, Huffman decoding, the inverse DCT and color
 * conversion. The first cannot be skipped before the crop's last row; the others are limited to the
 * crop's columns and rows (jpeg_crop_scanline, jpeg_skip_scanlines), and to half the resolution or
 * less where the crop is larger than the output by a factor that the caller sets.
 */
#include "jpeg_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "crop_decode.h"
#include "jpeg_guard.h"
#include "resample.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: libjpeg has no jpeg_crop_scanline"
#endif
_Static_assert(sizeof(JSAMPLE) == 1, "a libjpeg-turbo of 8-bit samples is needed");

enum {
  CHUNK = 8, /* rows read per call */
  /* Smooth chroma upsampling reads a neighbor, which is missing at the ends of a cropped row;
   * libjpeg-turbo does not use it in rows of fewer than three chroma samples. */
  MARGIN = 4,
};

typedef struct {
  struct jpeg_decompress_struct info;
  jpeg_guard guard;
  const picture_request *request;
  resampler resampler;
  uint8_t *ring;           /* the decoded rows that an output row may still need */
  const uint8_t **sources; /* of one output row */
} decoder;

static void open_stream(decoder *d) {
  struct jpeg_decompress_struct *info = &d->info;
  info->err = &d->guard.errors;
  info->client_data = &d->guard;
  jpeg_create_decompress(info);
  guard_limits(&d->guard, info);
  jpeg_mem_src(info, (unsigned char *)d->request->data, d->request->data_bytes);
  jpeg_read_header(info, TRUE);
}

/* ---- geometry ---- */

static void check_size(decoder *d) {
  const picture_request *q = d->request;
  int64_t height = d->info.image_height, width = d->info.image_width;
  if (q->height && (q->height != height || q->width != width))
    give_up(&d->guard, CROP_SIZE_MISMATCH);
  if (!is_inside(q->crop.top, q->crop.height, height) ||
      !is_inside(q->crop.left, q->crop.width, width))
    give_up(&d->guard, CROP_BAD_ARGUMENT);
}

/* Returns the resolution at which to decode, in eighths; see crop_decode_image. */
static int choose_scale(const picture_request *q) {
  double larger = fmin(q->crop.height / q->out_height, q->crop.width / q->out_width);
  int eighths = 8;
  while (eighths > 1 && q->reduce_from >= 2 && larger * eighths >= 8 * q->reduce_from)
    eighths /= 2;
  return eighths;
}

/* Starts decoding; sets the spans of the crop in pixels of the scaled image. */
static void start(decoder *d, span *vertical, span *horizontal) {
  const picture_request *q = d->request;
  struct jpeg_decompress_struct *info = &d->info;
  int eighths = choose_scale(q);
  bool four = info->jpeg_color_space == JCS_CMYK || info->jpeg_color_space == JCS_YCCK;
  info->scale_num = eighths;
  info->scale_denom = 8;
  info->out_color_space = four ? JCS_CMYK : JCS_RGB;
  /* Smoothing makes up detail of incomplete progressive streams, and reads beyond cropped rows. */
  info->do_block_smoothing = FALSE;
  jpeg_start_decompress(info);
  double scale = eighths / 8.0;
  *vertical = span_of(q->crop.top * scale, q->crop.height * scale, info->output_height,
                      q->out_height, q->how);
  *horizontal = span_of(q->crop.left * scale, q->crop.width * scale, info->output_width,
                        q->out_width, q->how);
}

/* Restricts decoding to the columns of the span; returns the first decoded column. */
static int crop_columns(struct jpeg_decompress_struct *info, const span *horizontal) {
  int first = horizontal->low > MARGIN ? horizontal->low - MARGIN : 0;
  int end = (int)info->output_width - horizontal->high > MARGIN ? horizontal->high + MARGIN
                                                               : (int)info->output_width;
  JDIMENSION offset = first, width = end - first;
  if (width == info->output_width) return 0;
  jpeg_crop_scanline(info, &offset, &width);
  return offset;
}

/* ---- rows ---- */

/* Converts CMYK to RGB in place, as PIL does. Every JPEG of four components is assumed to be
 * inverted, as Adobe writes them and PIL reads them. */
static void inks_to_rgb(uint8_t *row, int pixels) {
  for (int i = 0; i < pixels; i++) {
    int black = row[4 * i + 3];
    for (int c = 0; c < 3; c++) {
      int product = row[4 * i + c] * black + 128;
      row[3 * i + c] = (uint8_t)((product + (product >> 8)) >> 8); /* product / 255, rounded */
    }
  }
}

static void decode_rows(decoder *d, const span *vertical, int first_column) {
  struct jpeg_decompress_struct *info = &d->info;
  resampler *r = &d->resampler;
  int capacity = r->longest_cell + CHUNK - 1;
  size_t stride = (size_t)info->output_width * info->output_components;
  size_t begin = 3 * (size_t)(r->left - first_column);
  d->ring = malloc(capacity * stride);
  d->sources = malloc(r->longest_cell * sizeof *d->sources);
  if (!d->ring || !d->sources) give_up(&d->guard, CROP_NO_MEMORY);

  if (vertical->low > 0) jpeg_skip_scanlines(info, vertical->low);
  int decoded = vertical->low;
  for (int y = 0; y < vertical->outputs; y++) {
    const cell *c = &r->rows[y];
    while (decoded < c->first + c->count) {
      JSAMPROW rows[CHUNK];
      int wanted = vertical->high - decoded < CHUNK ? vertical->high - decoded : CHUNK;
      for (int i = 0; i < wanted; i++) rows[i] = d->ring + (decoded + i) % capacity * stride;
      int count = (int)jpeg_read_scanlines(info, rows, wanted);
      if (count < 1) give_up(&d->guard, CROP_DAMAGED);
      if (info->out_color_space == JCS_CMYK)
        for (int i = 0; i < count; i++) inks_to_rgb(rows[i], (int)info->output_width);
      decoded += count;
    }
    for (int i = 0; i < c->count; i++)
      d->sources[i] = d->ring + (c->first + i) % capacity * stride + begin;
    resampler_row(r, y, d->sources, d->request->output + (size_t)y * r->outputs * 3);
  }
}

static void decode(decoder *d) {
  span vertical, horizontal;
  open_stream(d);
  check_size(d);
  start(d, &vertical, &horizontal);
  int first_column = crop_columns(&d->info, &horizontal);
  if (!resampler_init(&d->resampler, &vertical, &horizontal, d->request->how & CROP_FLIP))
    give_up(&d->guard, CROP_NO_MEMORY);
  decode_rows(d, &vertical, first_column);
}

int64_t decode_jpeg(const picture_request *request) {
  decoder d;
  memset(&d, 0, sizeof d);
  d.request = request;
  guard_init(&d.guard, request->message);
  /* A new decompressor for each stream: a reused one would apply its tables to a stream that
   * lacks them, and the pixels of a damaged sample would depend on the sample before. */
  if (setjmp(d.guard.escape) == 0) decode(&d);
  jpeg_destroy_decompress(&d.info);
  resampler_free(&d.resampler);
  free(d.ring);
  free(d.sources);
  return d.guard.status;
}
