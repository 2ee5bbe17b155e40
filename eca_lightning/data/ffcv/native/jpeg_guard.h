/* What keeps libjpeg from exiting, printing, and making up pixels. */
#ifndef ECA_JPEG_GUARD_H
#define ECA_JPEG_GUARD_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

/* Before a call of libjpeg, `if (setjmp(guard.escape))` is where its errors and warnings lead. */
typedef struct {
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  int64_t status; /* of crop_decode.h */
  char *message;  /* NULL, or CROP_MESSAGE_BYTES for libjpeg's error message */
} jpeg_guard;

/* Prepares the guard; a decompressor or compressor gets `&guard->errors` as its `err` before it is
 * created, and `guard` as its `client_data`. */
void guard_init(jpeg_guard *guard, char *message);

/* Limits memory and the number of scans of a decompressor that was just created. */
void guard_limits(jpeg_guard *guard, struct jpeg_decompress_struct *info);

/* Sets the status and leaves for the escape. */
void give_up(jpeg_guard *guard, int64_t status) __attribute__((noreturn));

#endif
