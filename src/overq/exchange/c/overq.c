/* overq.c: see overq.h. Every number of a file is checked before it is used as an index. */
#include "overq.h"

#include <math.h>
#include <string.h>

#define HEADER 64u
#define LAYER 76u

static uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32; }

static double f64(const uint8_t *p) {
    uint64_t raw = u64(p);
    double value;
    memcpy(&value, &raw, sizeof value);
    return value;
}

float overq_float(const uint8_t *section, uint32_t i) {
    uint32_t raw = u32(section + 4 * (size_t)i);
    float value;
    memcpy(&value, &raw, sizeof value);
    return value;
}

uint32_t overq_index(const uint8_t *section, uint32_t i) { return u32(section + 4 * (size_t)i); }

static uint32_t crc32(const uint8_t *p, uint64_t n) {
    uint32_t crc = 0xffffffffu;
    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

int overq_open(overq_file *file, const void *bytes, uint64_t size) {
    const uint8_t *p = bytes;
    if (size < HEADER || memcmp(p, "OVERQ1\r\n", 8) != 0) return OVERQ_FOREIGN;
    if (u32(p + 8) != 2) return OVERQ_VERSION;
    if (u64(p + 16) != size || u32(p + 12) > (size - HEADER) / LAYER) return OVERQ_DAMAGED;
    if (crc32(p + HEADER, size - HEADER) != u32(p + 36)) return OVERQ_DAMAGED;
    file->bytes = p;
    file->size = size;
    file->layers = u32(p + 12);
    return OVERQ_OK;
}

/* The next part of a layer's block: `count` things of `bits` bits. */
static int part(const overq_file *file, uint64_t *place, uint64_t count, uint32_t bits, const uint8_t **found) {
    uint64_t bytes = (count * bits + 7) / 8;
    if (bytes > file->size - *place) return OVERQ_DAMAGED;
    *found = file->bytes + *place;
    *place += bytes;
    return OVERQ_OK;
}

int overq_layer_at(const overq_file *file, uint32_t i, overq_layer *layer) {
    const uint8_t *p = file->bytes + HEADER + (size_t)i * LAYER, *name;
    uint64_t count, place;
    uint8_t parts;
    if (i >= file->layers) return OVERQ_DAMAGED;
    memset(layer, 0, sizeof *layer);
    layer->kind = p[0];
    layer->weight_bits = p[1];
    layer->format.bits = p[2];
    layer->format.cascade = p[3];
    layer->format.range_bits = p[4];
    layer->format.fraction_bits = p[5];
    layer->format.policy = p[6];
    layer->format.is_signed = p[7];
    layer->padding_mode = p[8];
    layer->format.evict = p[9];
    parts = p[10];
    layer->offset_bits = p[11];
    for (int k = 0; k < 2; k++) {
        layer->stride[k] = u16(p + 12 + 2 * k);
        layer->dilation[k] = u16(p + 16 + 2 * k);
        layer->before[k] = u16(p + 20 + 2 * k);
        layer->behind[k] = u16(p + 24 + 2 * k);
    }
    layer->rows = u16(p + 28);
    layer->columns = u16(p + 30);
    layer->name_bytes = u16(p + 32);
    layer->format.lanes = u32(p + 36);
    layer->groups = u32(p + 40);
    layer->outputs = u32(p + 44);
    layer->channels = u32(p + 48);
    layer->step = f64(p + 52);
    layer->stage_unit = f64(p + 60);
    place = u64(p + 68);
    if (layer->kind > OVERQ_CONV2D || layer->weight_bits < 1 || layer->weight_bits > 16 || layer->padding_mode > 3) return OVERQ_DAMAGED;
    if (layer->format.bits < 2 || layer->format.bits > 8 || layer->format.cascade > 16 || layer->format.policy > OVERQ_LARGEST ||
        layer->format.is_signed > 1 || layer->format.range_bits > layer->format.bits ||
        layer->format.fraction_bits > layer->format.bits || layer->format.evict > 3)
        return OVERQ_DAMAGED;
    if (!(layer->step > 0) || !isfinite(layer->step) || layer->groups == 0 || layer->outputs % layer->groups) return OVERQ_DAMAGED;
    count = (uint64_t)layer->outputs * layer->channels; /* no product of two u32 overflows; further factors are bounded first */
    if (count == 0 || count > UINT32_MAX || layer->rows == 0 || layer->columns == 0) return OVERQ_DAMAGED;
    count *= layer->rows;
    if (count > UINT32_MAX || (count *= layer->columns) > UINT32_MAX) return OVERQ_DAMAGED;
    if (parts > 15 || layer->offset_bits > 64 || (parts & 8 && layer->offset_bits == 0)) return OVERQ_DAMAGED;
    if (place < HEADER || place > file->size || part(file, &place, layer->name_bytes, 8, &name) ||
        part(file, &place, count, layer->weight_bits, &layer->weights) || part(file, &place, layer->outputs, 32, &layer->scale) ||
        (parts & 1 && part(file, &place, layer->outputs, 32, &layer->bias)) ||
        (parts & 2 && part(file, &place, layer->channels, 32, &layer->lane_order)) ||
        (parts & 4 && part(file, &place, layer->channels, 32, &layer->input_scale)) ||
        (parts & 8 && part(file, &place, layer->outputs, 24u + layer->offset_bits, &layer->stage)))
        return OVERQ_DAMAGED;
    layer->name = (const char *)name;
    return OVERQ_OK;
}

/* Number i of a stream of integers of `width` bits, two's complement. */
static int64_t bits_at(const uint8_t *stream, uint64_t i, uint32_t width) {
    uint64_t value = 0, bit = i * width;
    for (uint32_t k = 0; k < width; k++, bit++) value |= (uint64_t)(stream[bit >> 3] >> (bit & 7) & 1) << k;
    if (width < 64 && value >> (width - 1)) value |= ~(uint64_t)0 << width;
    return value >> 63 ? -1 - (int64_t)~value : (int64_t)value;
}

int32_t overq_weight(const overq_layer *layer, uint32_t o, uint32_t c, uint32_t row, uint32_t column) {
    uint64_t place = (((uint64_t)o * layer->channels + c) * layer->rows + row) * layer->columns + column;
    return (int32_t)bits_at(layer->weights, place, layer->weight_bits);
}

/* ---- The format: docs/format.md, section by section ---- */

static int32_t clip(int32_t value, int32_t low, int32_t high) { return value < low ? low : value > high ? high : value; }

/* value / 2^bits, rounded down */
static int32_t down(int32_t value, int bits) { return value >= 0 ? value >> bits : -((-value + (1 << bits) - 1) >> bits); }

static int32_t least(int bits, int is_signed) { return is_signed && bits ? -(1 << bits >> 1) : 0; }
static int32_t most(int bits, int is_signed) { return least(bits, is_signed) + (1 << bits) - 1; }

static int32_t low_of(int32_t value, int bits, int is_signed) {
    int32_t base = 1 << bits, from = is_signed ? -(base >> 1) : 0;
    int32_t off = (value - from) % base;
    return (off < 0 ? off + base : off) + from;
}

typedef struct {
    int32_t digit_min, digit_max, wide_min, wide_max, fine_min, fine_max, unit;
    int f, b, s;
} limits;

static limits limits_of(const overq_format *m) {
    limits k;
    k.b = m->bits, k.f = m->fraction_bits, k.s = m->is_signed, k.unit = 2 << k.f;
    k.digit_min = least(k.b, k.s), k.digit_max = most(k.b, k.s);
    k.wide_min = k.digit_min + (least(m->range_bits, k.s) * (1 << k.b)), k.wide_max = k.digit_max + most(m->range_bits, k.s) * (1 << k.b);
    k.fine_min = k.digit_min * (1 << k.f) + least(k.f, k.s), k.fine_max = k.digit_max * (1 << k.f) + most(k.f, k.s);
    return k;
}

int32_t overq_fixed(float x, double step, const overq_format *format) {
    limits k = limits_of(format);
    float t = floorf(x * (float)(k.unit / step)), low = (float)k.wide_min * (float)k.unit, high = (float)k.wide_max * (float)k.unit;
    return isnan(t) ? 0 : t < low ? (int32_t)low : t > high ? (int32_t)high : (int32_t)t;
}

static int32_t level(int32_t t, const limits *k) { return down(t + (1 << k->f), k->f + 1); }

static int32_t level_at(const int32_t *t, uint32_t lane, const limits *k) {
    return level(clip(t[lane], k->wide_min * k->unit, k->wide_max * k->unit), k);
}

static int is_outlier(int32_t n, const limits *k) { return n < k->digit_min || n > k->digit_max; }
static int32_t magnitude(int32_t n) { return n < 0 ? -n : n; }

/* Whether a lane gives way to the outlier before it: format.md, "giving way". */
static int gives_way(const int32_t *t, uint32_t n, uint32_t lane, const overq_format *m, const limits *k) {
    uint32_t start = m->lanes ? lane - lane % m->lanes : 0, end = m->lanes && m->lanes < n - start ? start + m->lanes : n, outlier = lane;
    int32_t value = level_at(t, lane, k), most, before;
    if (value == 0 || is_outlier(value, k) || magnitude(value) > m->evict) return 0;
    do {
        if (outlier == start || lane - outlier == m->cascade) return 0;
        before = level_at(t, --outlier, k);
        if (before == 0) return 0;
    } while (!is_outlier(before, k));
    most = clip(magnitude(before - clip(before, k->digit_min, k->digit_max)), 0, m->evict);
    if (magnitude(value) > most) return 0;
    for (uint32_t i = outlier + 1; i < lane; i++)
        if (magnitude(level_at(t, i, k)) <= most) return 0; /* that one does */
    for (uint32_t i = lane + 1; i < end && i - outlier <= m->cascade; i++) {
        int32_t behind = level_at(t, i, k);
        if (behind == 0) return 0; /* which serves it */
        if (is_outlier(behind, k)) break;
    }
    return 1;
}

/* One row as it is encoded: saturated, and 0 where a value gives way. */
typedef struct {
    const int32_t *t;
    uint32_t n;
    const overq_format *m;
    limits k;
} row_of;

static int32_t t_at(const row_of *row, uint32_t lane) {
    const limits *k = &row->k;
    if (row->m->evict && gives_way(row->t, row->n, lane, row->m, k)) return 0;
    return clip(row->t[lane], k->wide_min * k->unit, k->wide_max * k->unit);
}

static int32_t error_of(int32_t t, const limits *k) {
    int32_t off = t - clip(level(t, k), k->digit_min, k->digit_max) * k->unit;
    return off < 0 ? -off : off;
}

/* The lane that `zero` serves, and by which state; the zero itself if none. */
static uint32_t choose(const row_of *row, uint32_t zero, uint8_t *state) {
    const overq_format *m = row->m;
    const limits *k = &row->k;
    uint32_t edge = m->lanes ? zero - zero % m->lanes : 0, start = zero, outlier = zero, normal = zero;
    int32_t worst_outlier = -1, worst_normal = -1;
    while (start > edge && zero - start < m->cascade && level(t_at(row, start - 1), k) != 0) start--;
    for (uint32_t lane = start; lane < zero; lane++) {
        int32_t t = t_at(row, lane), error = m->policy == OVERQ_LARGEST ? error_of(t, k) : 0;
        if (is_outlier(level(t, k), k)) {
            if (error > worst_outlier) worst_outlier = error, outlier = lane;
        } else if (m->policy == OVERQ_LARGEST ? error > worst_normal : lane + 1 == zero) {
            worst_normal = error, normal = lane;
        }
    }
    *state = OVERQ_RANGE;
    if (m->range_bits && outlier != zero) return outlier;
    *state = OVERQ_PRECISION;
    return m->fraction_bits ? normal : zero;
}

void overq_encode(const int32_t *t, uint32_t n, const overq_format *format, int16_t *digits, uint8_t *states) {
    row_of row = {t, n, format, limits_of(format)};
    const limits *k = &row.k;
    for (uint32_t i = 0; i < n; i++) {
        digits[i] = (int16_t)clip(level(t_at(&row, i), k), k->digit_min, k->digit_max);
        states[i] = OVERQ_OWN;
    }
    for (uint32_t zero = 0; format->cascade && zero < n; zero++) {
        uint8_t state;
        uint32_t served, lane;
        int32_t value, low;
        int width;
        if (level(t_at(&row, zero), k) != 0 || (served = choose(&row, zero, &state)) == zero) continue;
        for (lane = zero; lane > served + 1; lane--) digits[lane] = digits[lane - 1], states[lane] = OVERQ_MOVED;
        width = state == OVERQ_RANGE ? k->b : k->f;
        value = t_at(&row, served);
        value = state == OVERQ_RANGE ? clip(level(value, k), k->wide_min, k->wide_max) : clip(down(value + 1, 1), k->fine_min, k->fine_max);
        low = low_of(value, width, k->s);
        digits[served] = (int16_t)(state == OVERQ_RANGE ? low : down(value - low, width));
        digits[served + 1] = (int16_t)(state == OVERQ_RANGE ? down(value - low, width) : low);
        states[served + 1] = state;
    }
}

/* What a lane adds with a weight of 1, in units of step / 2^f. */
static int32_t worth(int16_t digit, uint8_t state, const overq_format *m) {
    int shift = state == OVERQ_PRECISION ? 0 : state == OVERQ_RANGE ? m->fraction_bits + m->bits : m->fraction_bits;
    return digit * (int32_t)(1 << shift);
}

void overq_effective(const int16_t *digits, const uint8_t *states, uint32_t n, const overq_format *format, int32_t *effective) {
    for (uint32_t i = 0; i < n; i++) effective[i] = 0;
    for (uint32_t i = 0; i < n; i++) effective[i - (states[i] != OVERQ_OWN)] += worth(digits[i], states[i], format);
}

int64_t overq_dot(const int16_t *digits, const uint8_t *states, const int32_t *weights, uint32_t n, const overq_format *format) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (int64_t)worth(digits[i], states[i], format) * weights[i - (states[i] != OVERQ_OWN)];
    return sum;
}

int64_t overq_stage(const overq_layer *layer, uint32_t o, int64_t sum) {
    const uint8_t *shifts = layer->stage + 2 * (size_t)layer->outputs;
    int64_t offset = bits_at(shifts + layer->outputs, o, layer->offset_bits);
    int64_t value = sum * (int64_t)u16(layer->stage + 2 * (size_t)o) + offset;
    int shift = shifts[o];
    return value >= 0 ? value >> shift : ~(~value >> shift);
}
