#include "jpeg_guard.h"

#include <stdbool.h>

#include <jerror.h>

#include "crop_decode.h"

enum {
  /* Limits for hostile progressive streams: a few bytes can request a pass over every block. */
  MOST_SCANS = 100,
  MOST_COEFFICIENT_BYTES = 512 << 20,
};

void give_up(jpeg_guard *guard, int64_t status) {
  guard->status = status;
  longjmp(guard->escape, 1);
}

static void on_error(j_common_ptr info) {
  jpeg_guard *guard = info->client_data;
  char sentence[JMSG_LENGTH_MAX];
  if (guard->message) {
    guard->errors.format_message(info, sentence);
    snprintf(guard->message, CROP_MESSAGE_BYTES, "%s", sentence);
  }
  int code = guard->errors.msg_code;
  bool memory = code == JERR_OUT_OF_MEMORY || code == JERR_NO_BACKING_STORE;
  give_up(guard, memory ? CROP_NO_MEMORY : CROP_DAMAGED);
}

/* A warning (level -1) means that libjpeg would continue with made-up pixels. */
static void on_message(j_common_ptr info, int level) {
  if (level < 0) on_error(info);
}

static void on_output(j_common_ptr info) { (void)info; }

static void on_progress(j_common_ptr info) {
  if (((j_decompress_ptr)info)->input_scan_number > MOST_SCANS)
    give_up(info->client_data, CROP_DAMAGED);
}

void guard_init(jpeg_guard *guard, char *message) {
  jpeg_std_error(&guard->errors);
  guard->errors.error_exit = on_error;
  guard->errors.emit_message = on_message;
  guard->errors.output_message = on_output;
  guard->message = message;
}

void guard_limits(jpeg_guard *guard, struct jpeg_decompress_struct *info) {
  info->mem->max_memory_to_use = MOST_COEFFICIENT_BYTES;
  guard->progress.progress_monitor = on_progress;
  info->progress = &guard->progress;
}
