/*
 * safetensors_dtype.c - dtypes as files have them: ours, and others with a function that converts
 * them to ours, or says at which element it can't.
 */
#include <math.h>
#include <string.h>

#include "safetensors.h"

static int64_t from_f64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        double value = ((const double *)in)[i];
        float small = (float)value;
        if (isinf(small) && !isinf(value)) return i; /* would become infinite in silence */
        ((float *)out)[i] = small;
    }
    return n;
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 31, fraction = half & 0x3FF;
    if (exponent == 31) return from_bits(sign | 0x7F800000 | fraction << 13); /* inf, nan */
    if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -value : value;
}

static int64_t from_f16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((float *)out)[i] = half_to_float(((const uint16_t *)in)[i]);
    return n;
}

static int64_t from_bf16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        ((float *)out)[i] = from_bits((uint32_t)((const uint16_t *)in)[i] << 16);
    }
    return n;
}

static int64_t from_i64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t value = ((const int64_t *)in)[i];
        if (value < INT32_MIN || value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_u64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t value = ((const uint64_t *)in)[i];
        if (value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_u32(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t value = ((const uint32_t *)in)[i];
        if (value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_i16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int16_t *)in)[i];
    return n;
}

static int64_t from_u16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const uint16_t *)in)[i];
    return n;
}

static int64_t from_i8(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int8_t *)in)[i];
    return n;
}

static int64_t from_u8(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const uint8_t *)in)[i];
    return n;
}

/* Those that tensors don't have; the tensors' own are rows of dtype.c. */
static const pf_st_dtype foreign[] = {
    {"F64", 8, true, PF_F32, from_f64},   {"F16", 2, true, PF_F32, from_f16},
    {"BF16", 2, true, PF_F32, from_bf16}, {"I64", 8, true, PF_I32, from_i64},
    {"U64", 8, true, PF_I32, from_u64},   {"U32", 4, true, PF_I32, from_u32},
    {"I16", 2, true, PF_I32, from_i16},   {"U16", 2, true, PF_I32, from_u16},
    {"I8", 1, true, PF_I32, from_i8},     {"U8", 1, true, PF_I32, from_u8},
    {"BOOL", 1, true, PF_I32, from_u8},   {"F8_E4M3", 1, false, PF_F32, NULL},
    {"F8_E5M2", 1, false, PF_F32, NULL},  {"C64", 8, false, PF_F32, NULL},
};

/* false: no dtype has this name in files. */
bool pf_st_dtype_find(const char *name, pf_st_dtype *type) {
    const pf_dtype_row *row;
    for (int i = 0; (row = pf_dtype_find((pf_dtype)i)) != NULL; i++) {
        *type = (pf_st_dtype){row->file_name, row->bytes, true, (pf_dtype)i, NULL};
        if (!strcmp(type->name, name)) return true;
    }
    for (int i = 0; i < PF_COUNT(foreign); i++) {
        *type = foreign[i];
        if (!strcmp(type->name, name)) return true;
    }
    return false;
}

int pf_st_dtype_loads_as(const pf_st_entry *entry, pf_dtype *dtype) {
    *dtype = entry->dtype.as;
    if (entry->dtype.loads) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "safetensors: '%s' has dtype %s, which can't be loaded; convert it "
                   "to F32 first",
                   entry->name, entry->dtype.name);
}
