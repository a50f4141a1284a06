/*
 * npy_header.c - the header of a .npy file, a Python dictionary with the keys descr, fortran_order
 * and shape, as numpy writes it: no other Python is read.
 */
#include <stdio.h>
#include <string.h>

#include "npy.h"

typedef struct {
    const char *at, *end;
} text;

static void skip(text *in) {
    while (in->at < in->end && strchr(" \t\n\r", *in->at) && *in->at) in->at++;
}

/* The next sign, if it is this one. */
static bool take(text *in, char sign) {
    skip(in);
    if (in->at == in->end || *in->at != sign) return false;
    in->at++;
    return true;
}

static int wrong(const char *what) { return pf_fail(PF_EFORMAT, "the header %s", what); }

/* A string without escapes, cut to `room`. */
static int read_string(text *in, char *out, size_t room) {
    skip(in);
    char quote = in->at < in->end ? *in->at : 0;
    if (quote != '\'' && quote != '"') return wrong("is no dictionary as numpy writes it");
    const char *first = ++in->at;
    while (in->at < in->end && *in->at != quote && *in->at != '\\' && *in->at) in->at++;
    if (in->at == in->end || *in->at != quote) return wrong("has a string without an end");
    snprintf(out, room, "%.*s", (int)pf_min((int64_t)room - 1, in->at - first), first);
    in->at++;
    return PF_OK;
}

static bool take_word(text *in, const char *word) {
    size_t n = strlen(word);
    skip(in);
    if ((size_t)(in->end - in->at) < n || memcmp(in->at, word, n) != 0) return false;
    in->at += n;
    return true;
}

/* ---- values --------------------------------------------------------------------- */

/* "<f4": order, kind, bytes. */
static int read_descr(pf_npy *npy, text *in) {
    static const char *const kinds[] = {
        "ccomplex numbers", "Oobjects of Python",   "Stexts", "Utexts", "Mdates",
        "mtimes",           "Vbytes without a type"};
    char descr[24], name[32];
    skip(in);
    if (in->at < in->end && *in->at == '[')
        return wrong("is of a structured array, whose elements have fields; save them one by one");
    PF_TRY(read_string(in, descr, sizeof descr));
    bool ordered = descr[0] != 0 && strchr("<>|=", descr[0]);
    const char *kind = ordered ? descr + 1 : descr, *digits = *kind ? kind + 1 : kind;
    for (int i = 0; i < PF_COUNT(kinds); i++)
        if (*kind == kinds[i][0])
            return pf_fail(PF_EFORMAT, "holds %s (%s), which are no numbers of a tensor",
                           kinds[i] + 1, descr);
    int bytes = digits[0] >= '1' && digits[0] <= '9' && !digits[1] ? digits[0] - '0' : 0;
    snprintf(name, sizeof name, "%c%d", *kind == 'b' ? 'u' : *kind, 8 * bytes);
    npy->type = bytes > 0 && strchr("biuf", *kind) ? pf_byte_type_find(name) : NULL;
    npy->big = ordered && descr[0] == '>';
    if (npy->type && (*kind != 'b' || bytes == 1)) return PF_OK;
    return pf_fail(PF_EFORMAT, "holds elements of type '%s', which is none that is read", descr);
}

static int read_size(text *in, int64_t *size) {
    const char *first = in->at;
    *size = 0;
    for (; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++)
        if (__builtin_mul_overflow(*size, 10, size) ||
            __builtin_add_overflow(*size, *in->at - '0', size))
            return wrong("has a size that is too large");
    return in->at > first ? PF_OK : wrong("has a shape that is no list of sizes");
}

/* (), (3,), (2, 3) */
static int read_shape(pf_npy *npy, text *in) {
    bool comma = true;
    npy->rank = 0;
    if (!take(in, '(')) return wrong("has a shape that is no list of sizes");
    while (!take(in, ')')) {
        if (!comma) return wrong("has a shape that is no list of sizes");
        if (npy->rank == PF_MAX_RANK)
            return pf_fail(PF_EFORMAT, "the array has more than %d dimensions", PF_MAX_RANK);
        PF_TRY(read_size(in, &npy->shape[npy->rank++]));
        comma = take(in, ',');
    }
    return PF_OK;
}

static int read_order(pf_npy *npy, text *in) {
    npy->fortran = take_word(in, "True");
    if (npy->fortran || take_word(in, "False")) return PF_OK;
    return wrong("has a fortran_order that is neither True nor False");
}

/* ---- the dictionary ------------------------------------------------------------- */

int pf_npy_read_header(pf_npy *npy, const char *header, size_t n) {
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    int (*const read[])(pf_npy *, text *) = {read_descr, read_order, read_shape};
    text in = {header, header + n};
    bool seen[3] = {false}, comma = true;
    char key[24];
    *npy = (pf_npy){.rank = 0};
    if (!take(&in, '{')) return wrong("is no dictionary as numpy writes it");
    while (!take(&in, '}')) {
        int k = 0;
        if (!comma) return wrong("is no dictionary as numpy writes it");
        PF_TRY(read_string(&in, key, sizeof key));
        while (k < 3 && strcmp(key, keys[k]) != 0) k++;
        if (k == 3) return pf_fail(PF_EFORMAT, "the header has a key '%s'", key);
        if (seen[k]) return pf_fail(PF_EFORMAT, "the header has '%s' twice", key);
        if (!take(&in, ':')) return wrong("is no dictionary as numpy writes it");
        PF_TRY(read[k](npy, &in));
        seen[k] = true;
        comma = take(&in, ',');
    }
    skip(&in);
    if (in.at < in.end) return wrong("goes on behind its dictionary");
    for (int k = 0; k < 3; k++)
        if (!seen[k]) return pf_fail(PF_EFORMAT, "the header has no '%s'", keys[k]);
    return PF_OK;
}

int pf_npy_write_header(const pf_byte_type *type, int rank, const int64_t *shape, char *out,
                        size_t *bytes) {
    char sizes[PF_MAX_RANK * 22 + 4] = "";
    size_t n = 0;
    if (strcmp(type->name, "bf16") == 0)
        return pf_fail(PF_EINVAL, "numpy has no bf16; save f32 or f16");
    for (int d = 0; d < rank; d++)
        n += (size_t)snprintf(sizes + n, sizeof sizes - n, "%s%lld", d ? ", " : "",
                              (long long)shape[d]);
    memcpy(out, "\x93NUMPY\1\0", 8); /* NOLINT(bugprone-not-null-terminated-result): no text */
    n = 10 + (size_t)snprintf(out + 10, 480,
                              "{'descr': '%c%c%zu', 'fortran_order': False, 'shape': (%s%s), }",
                              type->bytes == 1 ? '|' : '<', type->name[0], type->bytes, sizes,
                              rank == 1 ? "," : "");
    *bytes = (size_t)pf_round_up((int64_t)n + 1, 64);
    memset(out + n, ' ', *bytes - n - 1);
    out[*bytes - 1] = '\n';
    out[8] = (char)(*bytes - 10);
    out[9] = (char)((*bytes - 10) >> 8);
    return PF_OK;
}
