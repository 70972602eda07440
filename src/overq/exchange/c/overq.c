/* overq.c: see overq.h. Every number of a file is checked before it is used as an index. */
#include "overq.h"

#include <math.h>
#include <string.h>

#define HEADER 64u
#define LAYER 144u

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
    if (u32(p + 8) != 1) return OVERQ_VERSION;
    if (u64(p + 16) != size || u32(p + 12) > (size - HEADER) / LAYER) return OVERQ_DAMAGED;
    if (crc32(p + HEADER, size - HEADER) != u32(p + 36)) return OVERQ_DAMAGED;
    file->bytes = p;
    file->size = size;
    file->layers = u32(p + 12);
    return OVERQ_OK;
}

/* A section of `count` things of `bits` bits at a place that the table names; NULL for place 0. */
static int section(const overq_file *file, uint64_t place, uint64_t count, uint32_t bits, const uint8_t **found) {
    uint64_t bytes = (count * bits + 7) / 8;
    *found = NULL;
    if (place == 0) return OVERQ_OK;
    if (place < HEADER || place > file->size || bytes > file->size - place) return OVERQ_DAMAGED;
    *found = file->bytes + place;
    return OVERQ_OK;
}

int overq_layer_at(const overq_file *file, uint32_t i, overq_layer *layer) {
    const uint8_t *p = file->bytes + HEADER + (size_t)i * LAYER, *n = p + 12, *places = p + 80;
    uint64_t count;
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
    layer->format.lanes = u32(n);
    layer->groups = u32(n + 4);
    layer->outputs = u32(n + 8);
    layer->channels = u32(n + 12);
    layer->rows = u32(n + 16);
    layer->columns = u32(n + 20);
    for (int k = 0; k < 2; k++) {
        layer->stride[k] = u32(n + 24 + 4 * k);
        layer->dilation[k] = u32(n + 32 + 4 * k);
        layer->before[k] = u32(n + 40 + 4 * k);
        layer->behind[k] = u32(n + 48 + 4 * k);
    }
    layer->name_bytes = u32(n + 56);
    layer->step = f64(p + 72);
    layer->stage_unit = f64(p + 136);
    if (layer->kind > OVERQ_CONV2D || layer->weight_bits < 1 || layer->weight_bits > 16 || layer->padding_mode > 3) return OVERQ_DAMAGED;
    if (layer->format.bits < 2 || layer->format.bits > 8 || layer->format.cascade > 16 || layer->format.policy > OVERQ_LARGEST ||
        layer->format.is_signed > 1 || layer->format.range_bits > layer->format.bits || layer->format.fraction_bits > layer->format.bits)
        return OVERQ_DAMAGED;
    if (!(layer->step > 0) || !isfinite(layer->step) || layer->groups == 0 || layer->outputs % layer->groups) return OVERQ_DAMAGED;
    count = (uint64_t)layer->outputs * layer->channels; /* no product of two u32 overflows; further factors are bounded first */
    if (count == 0 || count > UINT32_MAX || layer->rows == 0 || layer->rows > 65535 || layer->columns == 0 || layer->columns > 65535)
        return OVERQ_DAMAGED;
    count *= layer->rows;
    if (count > UINT32_MAX || (count *= layer->columns) > UINT32_MAX) return OVERQ_DAMAGED;
    const uint8_t *name;
    if (section(file, u64(places), layer->name_bytes, 8, &name) || section(file, u64(places + 8), count, layer->weight_bits, &layer->weights) ||
        section(file, u64(places + 16), layer->outputs, 32, &layer->scale) || section(file, u64(places + 24), layer->outputs, 32, &layer->bias) ||
        section(file, u64(places + 32), layer->channels, 32, &layer->lane_order) ||
        section(file, u64(places + 40), layer->channels, 32, &layer->input_scale) ||
        section(file, u64(places + 48), layer->outputs, 128, &layer->stage))
        return OVERQ_DAMAGED;
    layer->name = (const char *)name;
    return name && layer->weights && layer->scale ? OVERQ_OK : OVERQ_DAMAGED;
}

int32_t overq_weight(const overq_layer *layer, uint32_t o, uint32_t c, uint32_t row, uint32_t column) {
    uint64_t place = (((uint64_t)o * layer->channels + c) * layer->rows + row) * layer->columns + column, bit = place * layer->weight_bits;
    uint32_t value = 0;
    for (uint32_t k = 0; k < layer->weight_bits; k++, bit++) value |= (uint32_t)(layer->weights[bit >> 3] >> (bit & 7) & 1) << k;
    return (int32_t)value - (value >> (layer->weight_bits - 1) ? (int32_t)1 << layer->weight_bits : 0);
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

static int32_t t_at(const int32_t *t, uint32_t lane, const limits *k) { return clip(t[lane], k->wide_min * k->unit, k->wide_max * k->unit); }

static int32_t error_of(int32_t t, const limits *k) {
    int32_t off = t - clip(level(t, k), k->digit_min, k->digit_max) * k->unit;
    return off < 0 ? -off : off;
}

/* The lane that `zero` serves, and by which state; the zero itself if none. */
static uint32_t choose(const int32_t *t, uint32_t zero, const overq_format *m, const limits *k, uint8_t *state) {
    uint32_t edge = m->lanes ? zero - zero % m->lanes : 0, start = zero, outlier = zero, normal = zero;
    int32_t worst_outlier = -1, worst_normal = -1;
    while (start > edge && zero - start < m->cascade && level(t_at(t, start - 1, k), k) != 0) start--;
    for (uint32_t lane = start; lane < zero; lane++) {
        int32_t n = level(t_at(t, lane, k), k), error = m->policy == OVERQ_LARGEST ? error_of(t_at(t, lane, k), k) : 0;
        if (n < k->digit_min || n > k->digit_max) {
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
    limits k = limits_of(format);
    for (uint32_t i = 0; i < n; i++) {
        digits[i] = (int16_t)clip(level(t_at(t, i, &k), &k), k.digit_min, k.digit_max);
        states[i] = OVERQ_OWN;
    }
    for (uint32_t zero = 0; format->cascade && zero < n; zero++) {
        uint8_t state;
        uint32_t served, lane;
        int32_t value, low;
        int width;
        if (level(t_at(t, zero, &k), &k) != 0 || (served = choose(t, zero, format, &k, &state)) == zero) continue;
        for (lane = zero; lane > served + 1; lane--) digits[lane] = digits[lane - 1], states[lane] = OVERQ_MOVED;
        width = state == OVERQ_RANGE ? k.b : k.f;
        value = state == OVERQ_RANGE ? clip(level(t_at(t, served, &k), &k), k.wide_min, k.wide_max)
                                     : clip(down(t_at(t, served, &k) + 1, 1), k.fine_min, k.fine_max);
        low = low_of(value, width, k.s);
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
    const uint8_t *p = layer->stage + 16 * (size_t)o;
    int64_t value = sum * (int64_t)u32(p + 8) + (int64_t)u64(p);
    int shift = (int)u32(p + 12);
    return value >= 0 ? value >> shift : ~(~value >> shift);
}
