/* The exported functions: argument checks and the resizing of raw pixels. */
#include "crop_decode.h"

#include <stdlib.h>
#include <string.h>

#include "jpeg_rows.h"
#include "resample.h"

enum { MODE_JPEG = 0, MODE_RAW = 1 };

static bool is_side(int64_t n) { return 1 <= n && n <= CROP_LARGEST_SIDE; }

static int64_t resize_raw(const picture_request *q) {
  if (!is_side(q->height) || !is_side(q->width) ||
      !is_inside(q->crop.top, q->crop.height, q->height) ||
      !is_inside(q->crop.left, q->crop.width, q->width))
    return CROP_BAD_ARGUMENT;
  int height = (int)q->height, width = (int)q->width;
  if (q->data_bytes != (size_t)height * width * 3) return CROP_SIZE_MISMATCH;

  span vertical = span_of(q->crop.top, q->crop.height, height, q->out_height, q->how);
  span horizontal = span_of(q->crop.left, q->crop.width, width, q->out_width, q->how);
  resampler r;
  if (!resampler_init(&r, &vertical, &horizontal, q->how & CROP_FLIP)) return CROP_NO_MEMORY;
  const uint8_t **rows = malloc(r.longest_cell * sizeof *rows);
  for (int y = 0; rows && y < q->out_height; y++) {
    for (int i = 0; i < r.rows[y].count; i++)
      rows[i] = q->data + ((size_t)(r.rows[y].first + i) * width + r.left) * 3;
    resampler_row(&r, y, rows, q->output + (size_t)y * r.outputs * 3);
  }
  int64_t status = rows ? CROP_OK : CROP_NO_MEMORY;
  free(rows);
  resampler_free(&r);
  return status;
}

int64_t crop_decode_image(int64_t mode, int64_t data, int64_t data_bytes, int64_t picture_height,
                          int64_t picture_width, double top, double left, double height,
                          double width, int64_t how, int64_t output, int64_t out_height,
                          int64_t out_width, double reduce_from, int64_t message) {
  if (!output || !is_side(out_height) || !is_side(out_width)) return CROP_BAD_ARGUMENT;
  picture_request request = {
      .data = (const uint8_t *)data,
      .data_bytes = (size_t)data_bytes,
      .height = picture_height,
      .width = picture_width,
      .crop = {top, left, height, width},
      .how = (int)how,
      .output = (uint8_t *)output,
      .out_height = (int)out_height,
      .out_width = (int)out_width,
      .reduce_from = how & CROP_BILINEAR ? 0 : reduce_from,
      .message = (char *)message,
  };
  int64_t status = CROP_BAD_ARGUMENT;
  if (data && data_bytes > 0) {
    if (mode == MODE_JPEG) status = decode_jpeg(&request);
    if (mode == MODE_RAW) status = resize_raw(&request);
  }
  if (status != CROP_OK) memset(request.output, 0, (size_t)out_height * out_width * 3);
  return status;
}

int64_t crop_decode_version(void) { return CROP_VERSION; }

int64_t crop_decode_portable(int64_t portable) {
  resampler_portable = portable != 0;
  return portable;
}
