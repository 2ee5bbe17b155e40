/* The layout of a packed image, and the checks of everything in it but the blocks' codes.
 *
 * All numbers are little-endian. See docs/packed.md.
 */
#ifndef ECA_PACKED_LAYOUT_H
#define ECA_PACKED_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed coefficients are read in place, which takes a little-endian machine"
#endif

enum {
  FORMAT_VERSION = 1,
  FIXED_BYTES = 16, /* of the header before the quantization tables */
  CHECKSUM_AT = 12, /* of the header; it leaves itself out */
  TABLE_BYTES = 128,
  ENTRY_BYTES = 8,     /* of a group: where it ends, and its checksum */
  GROUP_MCUS = 8,      /* of one row, but for the last group of a row */
  BLOCK_LIMIT = 137,   /* maximum bytes of a block */
  PADDING_BYTES = 144, /* zeros at the end: what may be read after the start of a block */
  MCU_BLOCKS = 6,
};

static const uint8_t MAGIC[4] = {'P', 'K', 'C', 'O'};

/* A block begins with its kind: the number of mask bytes in bits 0 to 3, whether the difference of
 * its DC coefficient takes two bytes in bit 4, and in bits 5 to 7 how its other values are stored:
 * the first WIDE_VALUES[k] in a byte each, the others in half a byte each; or all in two bytes. */
enum { KIND_WIDE_DC = 1 << 4, KIND_VALUES_SHIFT = 5, VALUES_OF_TWO_BYTES = 7 };
static const uint8_t WIDE_VALUES[7] = {0, 2, 5, 8, 12, 20, 63};

/* Where the coefficients of a block stand in natural order; the last entry is for a mask's highest
 * bit, which must not be set. */
static const uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

typedef struct {
  int width, height; /* in pixels */
  int components;    /* 1: gray, 3: YCbCr */
  int h, v;          /* luma samples per chroma sample in each direction; 1 if gray */
  int mcus_wide, mcus_high;
  int groups_wide, groups;
} layout;

typedef struct {
  layout shape;
  const uint8_t *data; /* of the header */
  size_t first;        /* where the first group begins */
  size_t end;          /* where the last one ends */
  uint16_t quantization[3][64]; /* natural order */
} packed_image;

/* Sets what follows from the size and the sampling; false if they are out of range. */
bool layout_init(layout *l, int width, int height, int components, int h, int v);

/* Returns the bytes before the first group. */
size_t header_bytes(const layout *l);

/* Checks the header; returns a status of crop_decode.h. */
int64_t packed_open(packed_image *image, const uint8_t *data, size_t bytes);

/* Finds group `index`; false if its bounds or its checksum are wrong. */
bool packed_group(const packed_image *image, int index, const uint8_t **begin,
                  const uint8_t **end);

/* Computes the checksum of a header that ends at `first`. */
uint32_t header_checksum(const uint8_t *data, size_t first);

/* Continues the CRC-32C (Castagnoli, as in iSCSI) of the bytes before; 0 at the start. */
uint32_t crc32c(uint32_t before, const uint8_t *data, size_t bytes);

static inline uint16_t read_u16(const uint8_t *p) {
  uint16_t value;
  memcpy(&value, p, sizeof value);
  return value;
}

static inline uint32_t read_u32(const uint8_t *p) {
  uint32_t value;
  memcpy(&value, p, sizeof value);
  return value;
}

#endif
