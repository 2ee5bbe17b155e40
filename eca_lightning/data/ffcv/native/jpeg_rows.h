/* Reads from a JPEG stream no more than a crop needs, straight into the resampler. */
#ifndef ECA_JPEG_ROWS_H
#define ECA_JPEG_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A rectangle of the picture, in pixels; it may begin and end inside a pixel. */
typedef struct {
  double top, left, height, width;
} box;

typedef struct {
  const uint8_t *data;
  size_t data_bytes;
  int64_t height, width; /* of the picture; 0 where a JPEG's are not recorded */
  box crop;
  bool flip;
  uint8_t *output;
  int out_height, out_width;
  double reduce_from; /* see crop_decode.h */
  char *message; /* NULL, or CROP_MESSAGE_BYTES for libjpeg's sentence */
} picture_request;

/* Returns a status of crop_decode.h. */
int64_t decode_jpeg(const picture_request *request);

#endif
