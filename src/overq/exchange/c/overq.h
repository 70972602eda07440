/* overq.h: reads a packed overq file and computes in its formats. C99, no dependency but the C library's headers, no allocation.
 *
 *     overq_file file;
 *     if (overq_open(&file, bytes, size) != OVERQ_OK) ...
 *     for (uint32_t i = 0; i < file.layers; i++) { overq_layer layer; overq_layer_at(&file, i, &layer); ... }
 *
 * A layer's input, one channel vector of one pixel: t = overq_fixed(...), then overq_encode, then overq_dot for every output.
 * What the numbers mean: docs/format.md. The bytes of the file must stay where they are; they need no alignment.
 */
#ifndef OVERQ_H
#define OVERQ_H

#include <stddef.h>
#include <stdint.h>

enum { OVERQ_OK = 0, OVERQ_FOREIGN = 1, OVERQ_VERSION = 2, OVERQ_DAMAGED = 3 };
enum { OVERQ_LINEAR = 0, OVERQ_CONV1D = 1, OVERQ_CONV2D = 2 };
enum { OVERQ_FIRST = 0, OVERQ_LARGEST = 1 };
enum { OVERQ_OWN = 0, OVERQ_RANGE = 1, OVERQ_MOVED = 2, OVERQ_PRECISION = 3 };

typedef struct {
    const uint8_t *bytes;
    uint64_t size;
    uint32_t layers;
} overq_file;

/* How one channel vector lies on the lanes. lanes: of a tile, 0 for the whole vector. */
typedef struct {
    uint8_t bits, cascade, range_bits, fraction_bits, policy, is_signed, evict;
    uint32_t lanes;
} overq_format;

typedef struct {
    const char *name; /* name_bytes long, no zero behind it */
    uint32_t name_bytes;
    uint8_t kind, weight_bits, offset_bits, padding_mode; /* padding: 0 zeros, 1 reflect, 2 replicate, 3 circular */
    overq_format format;
    double step;
    uint32_t groups, outputs, channels, rows, columns; /* channels of one group; kernel rows and columns */
    uint32_t stride[2], dilation[2], before[2], behind[2];
    /* in the file, little endian; NULL where the layer has none: */
    const uint8_t *weights, *scale, *bias, *lane_order, *input_scale, *stage;
    double stage_unit;
} overq_layer;

/* Header, checksum and the table's bounds; 0 or what is wrong. */
int overq_open(overq_file *file, const void *bytes, uint64_t size);

/* One layer, i < file->layers. Every section of it lies in the file when this returns OVERQ_OK. */
int overq_layer_at(const overq_file *file, uint32_t i, overq_layer *layer);

/* Integer weight of output o, lane c, kernel row and column. It is worth overq_float(layer->scale, o) times that. */
int32_t overq_weight(const overq_layer *layer, uint32_t o, uint32_t c, uint32_t row, uint32_t column);

/* Number i of a section of floats, or of a lane order. */
float overq_float(const uint8_t *section, uint32_t i);
uint32_t overq_index(const uint8_t *section, uint32_t i);

/* t of a real input, which infinity saturates; NaN gives 0. */
int32_t overq_fixed(float x, double step, const overq_format *format);

/* One channel vector: digits and states of n lanes. */
void overq_encode(const int32_t *t, uint32_t n, const overq_format *format, int16_t *digits, uint8_t *states);

/* What the lanes spell for each channel, with fraction_bits fraction bits. */
void overq_effective(const int16_t *digits, const uint8_t *states, uint32_t n, const overq_format *format, int32_t *effective);

/* What the array computes: the sum over lanes of digit, shifted by its state, times the weight its state uses. */
int64_t overq_dot(const int16_t *digits, const uint8_t *states, const int32_t *weights, uint32_t n, const overq_format *format);

/* The output stage: (sum * multiplier + offset) >> shift of output o, rounded down. */
int64_t overq_stage(const overq_layer *layer, uint32_t o, int64_t sum);

#endif
