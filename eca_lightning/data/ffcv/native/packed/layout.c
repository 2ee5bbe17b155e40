#include "layout.h"

#include "../crop_decode.h"
#include "kernels.h"

bool layout_init(layout *l, int width, int height, int components, int h, int v) {
  bool gray = components == 1 && h == 1 && v == 1;
  bool color = components == 3 && 1 <= h && h <= 2 && 1 <= v && v <= 2;
  if (width < 1 || width > CROP_LARGEST_SIDE || height < 1 || height > CROP_LARGEST_SIDE ||
      !(gray || color))
    return false;
  l->width = width;
  l->height = height;
  l->components = components;
  l->h = h;
  l->v = v;
  l->mcus_wide = (width + 8 * h - 1) / (8 * h);
  l->mcus_high = (height + 8 * v - 1) / (8 * v);
  l->groups_wide = (l->mcus_wide + GROUP_MCUS - 1) / GROUP_MCUS;
  l->groups = l->groups_wide * l->mcus_high;
  return true;
}

size_t header_bytes(const layout *l) {
  return FIXED_BYTES + (size_t)l->components * TABLE_BYTES + (size_t)l->groups * ENTRY_BYTES;
}

static const uint8_t *entry(const packed_image *image, int index) {
  return image->data + image->first - (size_t)(image->shape.groups - index) * ENTRY_BYTES;
}

uint32_t header_checksum(const uint8_t *data, size_t first) {
  uint32_t crc = crc32c(0, data, CHECKSUM_AT);
  return crc32c(crc, data + FIXED_BYTES, first - FIXED_BYTES);
}

int64_t packed_open(packed_image *image, const uint8_t *data, size_t bytes) {
  if (bytes < FIXED_BYTES + PADDING_BYTES || memcmp(data, MAGIC, sizeof MAGIC) ||
      data[4] != FORMAT_VERSION)
    return CROP_DAMAGED;
  layout *shape = &image->shape;
  if (!layout_init(shape, read_u16(data + 8), read_u16(data + 10), data[5], data[6], data[7]))
    return CROP_DAMAGED;
  image->data = data;
  image->first = header_bytes(shape);
  image->end = bytes - PADDING_BYTES;
  if (image->first > image->end ||
      header_checksum(data, image->first) != read_u32(data + CHECKSUM_AT) ||
      read_u32(entry(image, shape->groups - 1)) != image->end)
    return CROP_DAMAGED;
  memcpy(image->quantization, data + FIXED_BYTES, (size_t)shape->components * TABLE_BYTES);
  return CROP_OK;
}

bool packed_group(const packed_image *image, int index, const uint8_t **begin,
                  const uint8_t **end) {
  const uint8_t *at = entry(image, index);
  size_t from = index ? read_u32(at - ENTRY_BYTES) : image->first, to = read_u32(at);
  if (from < image->first || to < from || to > image->end) return false;
  *begin = image->data + from;
  *end = image->data + to;
  return crc32c(0, *begin, to - from) == read_u32(at + 4);
}

/* ---- CRC-32C ---- */

static uint32_t crc_table[256];

/* Runs when the library is loaded, before any thread can call it. */
static __attribute__((constructor)) void fill_crc_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    crc_table[byte] = crc;
  }
}

static uint32_t crc_portable(uint32_t crc, const uint8_t *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) crc = crc >> 8 ^ crc_table[(crc ^ data[i]) & 0xFF];
  return crc;
}

#if defined(__x86_64__)
static __attribute__((target("sse4.2"))) uint32_t crc_sse42(uint32_t crc, const uint8_t *data,
                                                            size_t bytes) {
  uint64_t wide = crc, word;
  for (; bytes >= sizeof word; bytes -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    wide = __builtin_ia32_crc32di(wide, word);
  }
  return crc_portable((uint32_t)wide, data, bytes);
}
#endif

uint32_t crc32c(uint32_t before, const uint8_t *data, size_t bytes) {
  uint32_t crc = ~before;
#if defined(__x86_64__)
  if (!kernels_portable && __builtin_cpu_supports("sse4.2")) return ~crc_sse42(crc, data, bytes);
#endif
  return ~crc_portable(crc, data, bytes);
}
