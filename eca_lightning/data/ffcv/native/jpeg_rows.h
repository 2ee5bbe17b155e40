/* Decodes only the part of a JPEG stream that a crop needs, directly into the resampler. */
#ifndef ECA_JPEG_ROWS_H
#define ECA_JPEG_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A rectangle of the image, in pixels; its edges may lie inside pixels. */
typedef struct {
  double top, left, height, width;
} box;

typedef struct {
  const uint8_t *data;
  size_t data_bytes;
  int64_t height, width; /* of the image; 0 if those of a JPEG are not recorded */
  box crop;
  int how; /* bits of filter.h */
  uint8_t *output;
  int out_height, out_width;
  double reduce_from; /* see crop_decode.h */
  char *message; /* NULL, or CROP_MESSAGE_BYTES for libjpeg's error message */
} picture_request;

/* Returns a status of crop_decode.h. */
int64_t decode_jpeg(const picture_request *request);

#endif
