/* Means of areas when reducing, and the triangles of antialiased bilinear interpolation. */
#include "filter.h"

#include <math.h>

/* Overlaps smaller than this are rounding errors. */
static const double SLIVER = 1e-9;

/* The numbers here are far inside the range of int. */
static inline int floor_of(double value) {
  int whole = (int)value;
  return whole - (whole > value);
}

static inline int ceil_of(double value) { return -floor_of(-value); }

static inline int clamp(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

bool is_inside(double start, double length, int64_t pixels) {
  return start >= 0 && length > 0 && start + length <= (double)pixels + 1e-6;
}

span span_of(double start, double length, int pixels, int outputs, int how) {
  int low = clamp(floor_of(start + SLIVER), 0, pixels - 1);
  int high = clamp(ceil_of(start + length - SLIVER), low + 1, pixels);
  double step = length / outputs;
  if (how & CROP_WHOLE_IMAGE) { /* no weight reaches farther */
    int reach = ceil_of(step) + 1;
    low = clamp(low - reach, 0, low);
    high = clamp(high + reach, high, pixels);
  }
  return (span){start, step, low, high, outputs, (how & CROP_BILINEAR) != 0};
}

int cell_limit(const span *s) {
  int most = s->step <= 1 ? 2 : s->bilinear ? ceil_of(2 * s->step) + 1 : ceil_of(s->step) + 1;
  int width = s->high - s->low;
  return most < width ? most : width;
}

/* The means of areas of cell_shares. */
static int area_shares(const span *s, int i, double *share, int *first) {
  double from = s->start + i * s->step, to = s->start + (i + 1) * s->step;
  int low = clamp(floor_of(from + SLIVER), s->low, s->high - 1);
  int high = clamp(ceil_of(to - SLIVER), low + 1, s->high);
  int limit = cell_limit(s);
  int count = high - low < limit ? high - low : limit;
  for (int j = 0; j < count; j++) {
    double begin = low + j > from ? low + j : from, end = low + j + 1 < to ? low + j + 1 : to;
    share[j] = end > begin ? end - begin : 0;
  }
  if (count == 1) share[0] = 1;
  *first = low;
  return count;
}

/* The triangles of cell_shares, as wide as two cells, and no less than two pixels. */
static int triangle_shares(const span *s, int i, double *share, int *first) {
  double half = s->step > 1 ? s->step : 1, center = s->start + (i + 0.5) * s->step;
  int low = clamp(floor_of(center - half + 0.5 + SLIVER), s->low, s->high - 1);
  int high = clamp(ceil_of(center + half - 0.5 - SLIVER), low + 1, s->high);
  int limit = cell_limit(s);
  int count = high - low < limit ? high - low : limit;
  for (int j = 0; j < count; j++) {
    double distance = fabs(low + j + 0.5 - center) / half;
    share[j] = distance < 1 ? 1 - distance : 0;
  }
  if (count == 1) share[0] = 1;
  *first = low;
  return count;
}

int cell_shares(const span *s, int i, double *share, int *first) {
  bool areas = s->step >= 1 && !s->bilinear;
  return areas ? area_shares(s, i, share, first) : triangle_shares(s, i, share, first);
}

void quantize(const double *share, int count, int bits, int16_t *weight) {
  double total = 0, running = 0;
  for (int i = 0; i < count; i++) total += share[i];
  double scale = (1 << bits) / total;
  long before = 0;
  for (int i = 0; i < count; i++) {
    running += share[i];
    long now = lrint(running * scale);
    long difference = now - before;
    weight[i] = (int16_t)(difference > INT16_MAX ? INT16_MAX : difference);
    before = now;
  }
}
