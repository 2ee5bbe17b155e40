/* Lossless conversion between JPEG streams and packed images, through libjpeg's coefficients. */
#include <stdlib.h>

#include "../crop_decode.h"
#include "../jpeg_guard.h"
#include "kernels.h"
#include "layout.h"
#include "packed.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed"
#endif

/* ---- writing a packed image ---- */

static void write_u16(uint8_t *at, unsigned value) {
  at[0] = value & 0xFF;
  at[1] = value >> 8 & 0xFF;
}

static void write_u32(uint8_t *at, uint32_t value) {
  write_u16(at, value & 0xFFFF);
  write_u16(at + 2, value >> 16);
}

static bool fits_nibble(int value) { return -8 <= value && value <= 8; }
static bool fits_byte(int value) { return -128 <= value && value <= 127; }
static int nibble_code(int value) { return value < 0 ? value + 8 : value + 7; }

/* Packs a block; returns the first byte after it. */
static uint8_t *pack(uint8_t *at, const int16_t *coefficients, int *dc) {
  int16_t values[63];
  uint64_t mask = 0;
  int count = 0, wide = 0;
  bool bytes_suffice = true;
  for (int i = 1; i < 64; i++) {
    int16_t value = coefficients[ZIGZAG[i]];
    if (value == 0) continue;
    mask |= (uint64_t)1 << (i - 1);
    values[count++] = value;
    if (!fits_nibble(value)) wide = count;
    bytes_suffice = bytes_suffice && fits_byte(value);
  }
  int difference = coefficients[0] - *dc;
  *dc = coefficients[0];
  bool wide_dc = !fits_byte(difference);
  int code = 0, mask_bytes = 0;
  while (mask_bytes < 8 && mask >> (8 * mask_bytes)) mask_bytes++;
  while (bytes_suffice && WIDE_VALUES[code] < wide) code++;
  if (!bytes_suffice) code = VALUES_OF_TWO_BYTES;

  *at++ = (uint8_t)(mask_bytes | (wide_dc ? KIND_WIDE_DC : 0) | code << KIND_VALUES_SHIFT);
  *at++ = difference & 0xFF;
  if (wide_dc) *at++ = difference >> 8 & 0xFF;
  for (int i = 0; i < mask_bytes; i++) *at++ = mask >> (8 * i) & 0xFF;
  if (code == VALUES_OF_TWO_BYTES) {
    for (int i = 0; i < count; i++, at += 2) write_u16(at, (uint16_t)values[i]);
    return at;
  }
  wide = WIDE_VALUES[code] < count ? WIDE_VALUES[code] : count;
  for (int i = 0; i < wide; i++) *at++ = (uint8_t)values[i];
  for (int i = wide; i < count; i += 2) {
    int second = i + 1 < count ? nibble_code(values[i + 1]) : 0;
    *at++ = (uint8_t)(nibble_code(values[i]) | second << 4);
  }
  return at;
}

typedef struct {
  struct jpeg_decompress_struct info;
  jpeg_guard guard;
  uint8_t *packed;
} packer;

/* Describes the stream; false if its kind is not packed. */
static bool describe(const struct jpeg_decompress_struct *info, layout *shape) {
  const jpeg_component_info *c = info->comp_info;
  if (info->data_precision != 8) return false;
  if (info->num_components == 1 && info->jpeg_color_space == JCS_GRAYSCALE)
    return layout_init(shape, (int)info->image_width, (int)info->image_height, 1, 1, 1);
  if (info->num_components != 3 || info->jpeg_color_space != JCS_YCbCr) return false;
  for (int i = 1; i < 3; i++)
    if (c[i].h_samp_factor != 1 || c[i].v_samp_factor != 1) return false;
  return layout_init(shape, (int)info->image_width, (int)info->image_height, 3,
                     c[0].h_samp_factor, c[0].v_samp_factor);
}

static uint8_t *pack_mcu(packer *p, jvirt_barray_ptr *arrays, const layout *shape, int mcu_row,
                         int mcu, int dc[3], uint8_t *at) {
  for (int c = 0; c < shape->components; c++) {
    const jpeg_component_info *component = &p->info.comp_info[c];
    int h = c ? 1 : shape->h, v = c ? 1 : shape->v;
    for (int i = 0; i < h * v; i++) {
      unsigned row = mcu_row * v + i / h, column = mcu * h + i % h;
      /* Blocks beyond the edge belong to no pixel: they repeat the DC coefficient before. */
      int16_t beyond[64] = {(int16_t)dc[c]};
      const int16_t *block = beyond;
      if (row < component->height_in_blocks && column < component->width_in_blocks) {
        JBLOCKARRAY blocks = p->info.mem->access_virt_barray((j_common_ptr)&p->info, arrays[c],
                                                             row, 1, FALSE);
        block = blocks[0][column];
      }
      at = pack(at, block, &dc[c]);
    }
  }
  return at;
}

/* Returns the number of bytes of the packed image. */
static size_t pack_stream(packer *p, const uint8_t *jpeg, size_t bytes) {
  struct jpeg_decompress_struct *info = &p->info;
  layout shape;
  info->err = &p->guard.errors;
  info->client_data = &p->guard;
  jpeg_create_decompress(info);
  guard_limits(&p->guard, info);
  jpeg_mem_src(info, (unsigned char *)jpeg, bytes);
  jpeg_read_header(info, TRUE);
  if (info->arith_code || !describe(info, &shape)) give_up(&p->guard, PACKED_UNSUPPORTED);
  jvirt_barray_ptr *arrays = jpeg_read_coefficients(info);

  int mcu_blocks = shape.components == 3 ? shape.h * shape.v + 2 : 1;
  size_t first = header_bytes(&shape), mcus = (size_t)shape.mcus_wide * shape.mcus_high;
  size_t limit = first + mcus * mcu_blocks * BLOCK_LIMIT + PADDING_BYTES;
  /* Ends of groups are numbers of 32 bits. */
  if (limit > UINT32_MAX) give_up(&p->guard, PACKED_UNSUPPORTED);
  uint8_t *packed = p->packed = malloc(limit);
  if (!packed) give_up(&p->guard, CROP_NO_MEMORY);
  memcpy(packed, MAGIC, sizeof MAGIC);
  packed[4] = FORMAT_VERSION;
  packed[5] = (uint8_t)shape.components;
  packed[6] = (uint8_t)shape.h;
  packed[7] = (uint8_t)shape.v;
  write_u16(packed + 8, shape.width);
  write_u16(packed + 10, shape.height);
  for (int c = 0; c < shape.components; c++) {
    const JQUANT_TBL *table = info->comp_info[c].quant_table;
    if (!table) give_up(&p->guard, CROP_DAMAGED);
    uint8_t *at = packed + FIXED_BYTES + c * TABLE_BYTES;
    for (int i = 0; i < 64; i++) write_u16(at + 2 * i, table->quantval[i]);
  }
  uint8_t *at = packed + first, *entry = at - (size_t)shape.groups * ENTRY_BYTES;
  for (int row = 0; row < shape.mcus_high; row++)
    for (int mcu = 0; mcu < shape.mcus_wide; entry += ENTRY_BYTES) {
      uint8_t *group = at;
      int dc[3] = {0};
      do at = pack_mcu(p, arrays, &shape, row, mcu, dc, at);
      while (++mcu < shape.mcus_wide && mcu % GROUP_MCUS);
      write_u32(entry, (uint32_t)(at - packed));
      write_u32(entry + 4, crc32c(0, group, (size_t)(at - group)));
    }
  write_u32(packed + CHECKSUM_AT, header_checksum(packed, first));
  memset(at, 0, PADDING_BYTES);
  jpeg_finish_decompress(info);
  return (size_t)(at - packed) + PADDING_BYTES;
}

static void give_result(int64_t address, int64_t bytes, uint8_t *result, size_t length) {
  *(int64_t *)address = (int64_t)result;
  *(int64_t *)bytes = (int64_t)length;
}

int64_t packed_encode(int64_t jpeg, int64_t jpeg_bytes, int64_t address, int64_t bytes,
                      int64_t message) {
  if (!jpeg || jpeg_bytes <= 0 || !address || !bytes) return CROP_BAD_ARGUMENT;
  packer p;
  memset(&p, 0, sizeof p);
  guard_init(&p.guard, (char *)message);
  if (setjmp(p.guard.escape) == 0) {
    size_t length = pack_stream(&p, (const uint8_t *)jpeg, (size_t)jpeg_bytes);
    uint8_t *exact = realloc(p.packed, length);
    give_result(address, bytes, exact ? exact : p.packed, length);
  } else {
    free(p.packed);
  }
  jpeg_destroy_decompress(&p.info);
  return p.guard.status;
}

/* ---- writing a JPEG stream ---- */

typedef struct {
  struct jpeg_compress_struct info;
  jpeg_guard guard;
  FILE *file; /* in memory */
} unpacker;

static void set_components(unpacker *u, const packed_image *image) {
  struct jpeg_compress_struct *info = &u->info;
  const layout *shape = &image->shape;
  info->image_width = shape->width;
  info->image_height = shape->height;
  info->input_components = shape->components;
  info->in_color_space = shape->components == 3 ? JCS_YCbCr : JCS_GRAYSCALE;
  jpeg_set_defaults(info);
  info->optimize_coding = TRUE;
  for (int c = 0; c < shape->components; c++) {
    jpeg_component_info *component = &info->comp_info[c];
    component->h_samp_factor = c ? 1 : shape->h;
    component->v_samp_factor = c ? 1 : shape->v;
    /* A component shares the table of one before it that is equal. */
    int table = 0;
    while (memcmp(image->quantization[table], image->quantization[c], TABLE_BYTES)) table++;
    component->quant_tbl_no = table;
    JQUANT_TBL **target = &info->quant_tbl_ptrs[table];
    if (!*target) *target = jpeg_alloc_quant_table((j_common_ptr)info);
    for (int i = 0; i < 64; i++) (*target)->quantval[i] = image->quantization[table][i];
    (*target)->sent_table = FALSE;
  }
}

/* Fills the arrays of coefficients; a group's blocks beyond the edge are dropped. */
static void fill_arrays(unpacker *u, const packed_image *image, jvirt_barray_ptr *arrays) {
  const layout *shape = &image->shape;
  for (int group = 0; group < shape->groups; group++) {
    const uint8_t *at, *end;
    if (!packed_group(image, group, &at, &end)) give_up(&u->guard, CROP_DAMAGED);
    int mcu_row = group / shape->groups_wide;
    int mcu = group % shape->groups_wide * GROUP_MCUS, stop = mcu + GROUP_MCUS;
    int dc[3] = {0};
    for (; mcu < stop && mcu < shape->mcus_wide; mcu++)
      for (int c = 0; c < shape->components; c++) {
        int h = c ? 1 : shape->h, v = c ? 1 : shape->v;
        for (int i = 0; i < h * v; i++) {
          JBLOCKARRAY blocks = u->info.mem->access_virt_barray(
              (j_common_ptr)&u->info, arrays[c], mcu_row * v + i / h, 1, TRUE);
          if (at >= end || !(at = best_kernels()->unpack(at, &dc[c], blocks[0][mcu * h + i % h])))
            give_up(&u->guard, CROP_DAMAGED);
        }
      }
    if (at != end) give_up(&u->guard, CROP_DAMAGED);
  }
}

static void write_stream(unpacker *u, const packed_image *image) {
  struct jpeg_compress_struct *info = &u->info;
  const layout *shape = &image->shape;
  info->err = &u->guard.errors;
  info->client_data = &u->guard;
  jpeg_create_compress(info);
  jpeg_stdio_dest(info, u->file);
  set_components(u, image);
  jvirt_barray_ptr arrays[3];
  for (int c = 0; c < shape->components; c++) {
    int h = c ? 1 : shape->h, v = c ? 1 : shape->v;
    arrays[c] = info->mem->request_virt_barray((j_common_ptr)info, JPOOL_IMAGE, TRUE,
                                               shape->mcus_wide * h, shape->mcus_high * v, v);
  }
  info->mem->realize_virt_arrays((j_common_ptr)info);
  fill_arrays(u, image, arrays);
  jpeg_write_coefficients(info, arrays);
  jpeg_finish_compress(info);
}

int64_t packed_to_jpeg(int64_t data, int64_t data_bytes, int64_t address, int64_t bytes,
                       int64_t message) {
  if (!data || data_bytes <= 0 || !address || !bytes) return CROP_BAD_ARGUMENT;
  packed_image image;
  int64_t status = packed_open(&image, (const uint8_t *)data, (size_t)data_bytes);
  if (status != CROP_OK) return status;
  unpacker u;
  memset(&u, 0, sizeof u);
  guard_init(&u.guard, (char *)message);
  char *stream = NULL;
  size_t length = 0;
  u.file = open_memstream(&stream, &length);
  if (!u.file) return CROP_NO_MEMORY;
  if (setjmp(u.guard.escape) == 0) write_stream(&u, &image);
  jpeg_destroy_compress(&u.info);
  if (fclose(u.file) && u.guard.status == CROP_OK) u.guard.status = CROP_NO_MEMORY;
  if (u.guard.status == CROP_OK)
    give_result(address, bytes, (uint8_t *)stream, length);
  else
    free(stream);
  return u.guard.status;
}

void packed_free(int64_t address) { free((void *)address); }
