/*
 * bytes.c - see bytes.h. What must hold: a number that the other side can't hold, be it only as
 * infinity, is refused, never bent; fewer digits are rounded to the nearest, ties to even, once;
 * NaN stay NaN.
 */
#include "bytes.h"

#include <math.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "elements are stored as little endian machines have them"
#endif

enum { LOOK = 64 * PF_BYTES_BLOCK }; /* elements between two looks at the cancel flag */

static const pf_byte_type types[] = {
    {"u8", 1, PF_I32, 0, UINT8_MAX, 0, 0},   {"i8", 1, PF_I32, INT8_MIN, INT8_MAX, 0, 0},
    {"u16", 2, PF_I32, 0, UINT16_MAX, 0, 0}, {"i16", 2, PF_I32, INT16_MIN, INT16_MAX, 0, 0},
    {"u32", 4, PF_I32, 0, UINT32_MAX, 0, 0}, {"i32", 4, PF_I32, INT32_MIN, INT32_MAX, 0, 0},
    {"u64", 8, PF_I32, 0, 0x1p64, 0, 0},     {"i64", 8, PF_I32, -0x1p63, 0x1p63, 0, 0},
    {"f16", 2, PF_F32, 0, 0, 5, 10},         {"bf16", 2, PF_F32, 0, 0, 8, 7},
    {"f32", 4, PF_F32, 0, 0, 8, 23},         {"f64", 8, PF_F32, 0, 0, 11, 52},
};

const pf_byte_type *pf_byte_type_find(const char *name) {
    for (int i = 0; i < PF_COUNT(types); i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

/* ---- floating point of any width ------------------------------------------------ */

/* The number of so many bits of exponent and fraction, exactly; a NaN keeps its first bits. */
static double widen(uint64_t bits, int exponent, int fraction) {
    uint64_t most = ((uint64_t)1 << exponent) - 1, part = bits & (((uint64_t)1 << fraction) - 1);
    uint64_t power = bits >> fraction & most, sign = bits >> (exponent + fraction) & 1;
    uint64_t bias = most >> 1;
    double value;
    if (power == 0 && exponent < 11) { /* too small for a leading 1 of its own */
        value = ldexp((double)part, 1 - (int)bias - fraction);
        return sign ? -value : value;
    }
    uint64_t wide = power == most ? 0x7FF : exponent < 11 ? power + 1023 - bias : power;
    uint64_t whole = sign << 63 | wide << 52 | part << (52 - fraction);
    memcpy(&value, &whole, sizeof value);
    return value;
}

/* part >> shift, to the nearest, ties to even. */
static uint64_t rounded(uint64_t part, int shift) {
    if (shift <= 0) return part;
    if (shift > 62) return 0;
    uint64_t kept = part >> shift, rest = part & (((uint64_t)1 << shift) - 1);
    uint64_t half = (uint64_t)1 << (shift - 1);
    return kept + (rest > half || (rest == half && kept & 1));
}

/* The other way. What is rounded up runs over into the exponent, as it has to. */
static uint64_t narrow(double value, int exponent, int fraction) {
    uint64_t bits, most = ((uint64_t)1 << exponent) - 1;
    memcpy(&bits, &value, sizeof bits);
    uint64_t sign = bits >> 63 << (exponent + fraction);
    uint64_t part = bits & (((uint64_t)1 << 52) - 1);
    int power = (int)(bits >> 52 & 0x7FF) - 1023 + (int)(most >> 1);
    if (isnan(value))
        return sign | most << fraction | (uint64_t)1 << (fraction - 1) | part >> (52 - fraction);
    if (isinf(value) || power >= (int)most) return sign | most << fraction;
    if (value == 0) return sign;
    part |= (uint64_t)1 << 52;
    if (power <= 0) return sign | rounded(part, 52 - fraction + 1 - power);
    return sign | ((((uint64_t)power - 1) << fraction) + rounded(part, 52 - fraction));
}

/* ---- elements ------------------------------------------------------------------- */

static uint64_t load(const unsigned char *in, size_t bytes, bool big) {
    uint64_t bits = 0;
    uint16_t two;
    if (bytes == sizeof two && !big) { /* weights of half the width are many */
        memcpy(&two, in, sizeof two);
        return two;
    }
    for (size_t i = 0; i < bytes; i++) bits |= (uint64_t)in[i] << 8 * (big ? bytes - 1 - i : i);
    return bits;
}

static void store(unsigned char *out, size_t bytes, bool big, uint64_t bits) {
    for (size_t i = 0; i < bytes; i++)
        out[i] = (unsigned char)(bits >> 8 * (big ? bytes - 1 - i : i));
}

static double value_of(const pf_byte_type *type, uint64_t bits) {
    if (type->exponent > 0) return widen(bits, type->exponent, type->fraction);
    if (type->low == 0) return (double)bits;
    PF_HOLDS(type->bytes > 0);
    int unused = 64 - 8 * (int)type->bytes; /* the sign runs through them */
    return (double)((int64_t)(bits << unused) >> unused);
}

/* As an i32 holds it, or an f32 without becoming infinite. */
static bool fits(const pf_byte_type *type, const pf_dtype_row *to, double value) {
    if (type->exponent == 0) return pf_dtype_fits(to, value, false);
    return !isinf((float)value) || isinf(value);
}

/* The types that the tensors have themselves. */
static bool is_own(const pf_byte_type *type, const pf_dtype_row *row) {
    return strcmp(type->name, row->name) == 0;
}

int64_t pf_bytes_decode(const pf_byte_type *type, bool big, const void *in, int64_t n, void *out,
                        double *bad) {
    const pf_dtype_row *to = pf_dtype_find(type->as);
    const unsigned char *from = in;
    double value[PF_BYTES_BLOCK];
    if (is_own(type, to) && !big) {
        memcpy(out, in, (size_t)n * to->bytes);
        return n;
    }
    for (int64_t i = 0; i < n; i++) {
        value[i] = value_of(type, load(from + (size_t)i * type->bytes, type->bytes, big));
        if (fits(type, to, value[i])) continue;
        *bad = value[i];
        return i;
    }
    to->store(out, 1, value, n);
    return n;
}

/* The element that is the value, or nearest to it; false: there is none. */
static bool bits_of(const pf_byte_type *type, double value, uint64_t *bits) {
    if (type->exponent > 0) {
        uint64_t infinite = (((uint64_t)1 << type->exponent) - 1) << type->fraction;
        *bits = narrow(value, type->exponent, type->fraction);
        bool reached = (*bits & ~((uint64_t)1 << (type->exponent + type->fraction))) == infinite;
        return !reached || isinf(value);
    }
    if (!(value >= type->low && value <= type->high && value == trunc(value))) return false;
    if (type->bytes == 8 && value == type->high) return false; /* 2^63 and 2^64 are just outside */
    *bits = value < 0 ? (uint64_t)(int64_t)value : (uint64_t)value;
    return true;
}

int64_t pf_bytes_encode(const pf_byte_type *type, bool big, const pf_dtype_row *from,
                        const void *in, int64_t n, void *out, double *bad) {
    unsigned char *to = out;
    double value[PF_BYTES_BLOCK];
    uint64_t bits;
    if (is_own(type, from) && !big) {
        memcpy(out, in, (size_t)n * from->bytes);
        return n;
    }
    from->load(value, in, 1, n);
    for (int64_t i = 0; i < n; i++) {
        if (!bits_of(type, value[i], &bits)) {
            *bad = value[i];
            return i;
        }
        store(to + (size_t)i * type->bytes, type->bytes, big, bits);
    }
    return n;
}

/* ---- public ---------------------------------------------------------------------- */

static int find_type(const char *name, const char *where, const pf_byte_type **type) {
    const char *names[PF_COUNT(types)];
    for (int i = 0; i < PF_COUNT(types); i++) names[i] = types[i].name;
    *type = pf_byte_type_find(name);
    if (*type) return PF_OK;
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_EINVAL, "%s: no type '%s'%s", where, name,
                   pf_names_told(told, sizeof told, name, names, PF_COUNT(types)));
}

static int check_size(const pf_byte_type *type, const char *where, int rank, const int64_t *shape,
                      size_t size) {
    size_t bytes = (size_t)pf_shape_numel(rank, shape) * type->bytes;
    if (bytes == size) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: %s of %s takes %zu bytes, not %zu", where,
                   pf_shape_text(rank, shape), type->name, bytes, size);
}

/* Of numbers that a new tensor takes; it is released where one does not fit. */
static int decode_all(pf_tensor **t, pf_engine *engine, const pf_byte_type *type, bool big,
                      const char *bytes) {
    size_t own = pf_dtype_size(type->as);
    char *out = pf_tensor_data(*t);
    double bad = 0;
    int status = pf_charge(engine, PF_WORK_OP + pf_work_of((double)pf_tensor_numel(*t), 0));
    for (int64_t at = 0, n = pf_tensor_numel(*t); at < n && status >= 0; at += PF_BYTES_BLOCK) {
        int64_t more = pf_min(n - at, PF_BYTES_BLOCK);
        if (at % LOOK == 0 && (status = pf_check_cancel(engine)) < 0) break;
        int64_t good = pf_bytes_decode(type, big, bytes + (size_t)at * type->bytes, more,
                                       out + (size_t)at * own, &bad);
        if (good < more)
            status = pf_fail(PF_EINVAL, "from bytes: element %s is %.17g, which %s cannot hold",
                             pf_place(at + good), bad, pf_dtype_name(type->as));
    }
    if (status < 0) pf_tensor_release(t);
    return status;
}

int pf_tensor_from_bytes(pf_tensor **t, pf_engine *engine, const char *type, bool big,
                         const void *bytes, size_t size, int rank, const int64_t *shape) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED(type);
    PF_NEED_ARRAY(bytes, size);
    PF_NEED_ARRAY(shape, rank);
    const pf_byte_type *as;
    PF_TRY(find_type(type, "from bytes", &as));
    PF_TRY(pf_shape_valid(rank, shape, PF_F32, "from bytes"));
    PF_TRY(check_size(as, "from bytes", rank, shape, size));
    PF_TRY(pf_tensor_make(t, engine, as->as, rank, shape));
    return decode_all(t, engine, as, big, bytes);
}

static int encode_all(const pf_tensor *t, const pf_byte_type *type, bool big, char *bytes) {
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    const char *in = (const char *)t->storage->data + (size_t)t->offset * row->bytes;
    double bad = 0;
    for (int64_t at = 0, n = pf_tensor_numel(t); at < n; at += PF_BYTES_BLOCK) {
        int64_t more = pf_min(n - at, PF_BYTES_BLOCK);
        if (at % LOOK == 0) PF_TRY(pf_check_lent());
        int64_t good = pf_bytes_encode(type, big, row, in + (size_t)at * row->bytes, more,
                                       bytes + (size_t)at * type->bytes, &bad);
        if (good < more)
            return pf_fail(PF_EINVAL, "to bytes: element %s of %s is %.9g, which %s cannot hold",
                           pf_place(at + good), pf_shape_of(t), bad, type->name);
    }
    return PF_OK;
}

int pf_tensor_to_bytes(const pf_tensor *t, const char *type, bool big, void *bytes, size_t size) {
    PF_NEED(t, type);
    PF_NEED_ARRAY(bytes, size);
    const pf_byte_type *as;
    PF_TRY(pf_tensor_check(t, t->dtype, "to bytes", "tensor"));
    PF_TRY(find_type(type, "to bytes", &as));
    PF_TRY(check_size(as, "to bytes", t->rank, t->shape, size));
    if (pf_tensor_contiguous(t)) return encode_all(t, as, big, bytes);
    pf_tensor *copy;
    PF_TRY(pf_tensor_make_lasting(&copy, t->heap, t->dtype, t->rank, t->shape));
    int status = pf_tensor_assign(copy, t);
    if (status >= 0) status = encode_all(copy, as, big, bytes);
    pf_tensor_release(&copy);
    return status;
}
