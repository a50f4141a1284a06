/*
 * op_fuzz.c - bytes as calls of ops: which, with tensors of any shape and dtype (rank 0 and size 0
 * among them, and views), any attributes, with a tape and without. An error or results; what was
 * recorded walks back, and the engine holds nothing afterwards.
 */
#include <math.h>
#include <stdlib.h>

#include "fuzz_file.h"
#include "performer_attention.h"

enum { INPUTS = 24, ATTRS = 16, RESULTS = 4, WORK = 1 << 20 };

/* The rest of an input; 0 behind its end. */
typedef struct {
    const uint8_t *at, *end;
} reader;

static unsigned take(reader *r) { return r->at < r->end ? *r->at++ : 0; }

enum { OPS = 256 }; /* the first byte of an input says which */

static struct {
    long good;     /* calls */
    char why[200]; /* the last one wasn't */
} tried[OPS];

/* Each op, with inputs that fit it and the defaults. One that takes not even these is not tried at
 * all: it has to have a row in fits. */
void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    uint8_t made[2 + 2 + 64];
    int n = pf_op_count(fuzz_engine()), missing = 0;
    for (int i = 0; i < n; i++) {
        pf_op_info info = {.size = sizeof info};
        memset(made, 0, sizeof made);
        made[0] = (uint8_t)i;
        made[1] = 0xff; /* with all inputs, and a tape */
        made[2] = (uint8_t)(i % 5);
        LLVMFuzzerTestOneInput(made, sizeof made);
        give(made, sizeof made);
        if (i < OPS && tried[i].good > 0) continue;
        missing++;
        pf_op_at(fuzz_engine(), i, &info);
        fprintf(stderr, "op_fuzz: no call of %s is good: %s\n", info.name,
                i < OPS ? tried[i].why : "there are more ops than a byte tells");
    }
    if (missing > 0) exit(1);
}

/* ---- what fits ---- */

/* Inputs that ops take which are not of one shape: f or i for the dtype and the sizes, a digit
 * each, - for none, r for 0, 1, 2 ..., e for as many edges, p for a pattern; and of the first
 * attribute, where one is required, the number or the list. */
typedef struct {
    const char *op, *inputs, *attr;
} fit;

#define ROWS "f2234 f2234 f2234 i23 i23 f2 i23"

static const fit fits[] = {
    {"concat", "f23 f23 f23", ""},
    {"matmul", "f23 f34", ""},
    {"where", "i23 f23 f13", ""},
    {"cast", "f23", "1"},
    {"logical_and", "i23 i23", ""},
    {"logical_or", "i23 i13", ""},
    {"logical_xor", "i23 i23", ""},
    {"logical_not", "i23", ""},
    {"any", "i23", ""},
    {"all", "i23", ""},
    {"linear", "f23 f43 f4", ""},
    {"reshape", "f23", "32"},
    {"permute", "f23", "10"},
    {"layernorm", "f23 f3 f3", ""},
    {"rmsnorm", "f23 f3", ""},
    {"add_rmsnorm", "f23 f23 f3", ""},
    {"add_layernorm", "f23 f23 f3 f3", ""},
    {"embedding", "f43 i22", ""},
    {"topk", "f23", "2"},
    {"gather", "f23 i23", "1"},
    {"index_select", "f43 i3", "0"},
    {"scatter_add", "f33 i23 f23", "0"},
    {"masked_select", "f43 i4", ""},
    {"flip", "f23", "1"},
    {"unsqueeze", "f23", "1"},
    {"expand", "f13", "23"},
    {"stack", "f23 f23", ""},
    {"tile", "f23", "21"},
    {"one_hot", "i23", "4"},
    {"ngrams", "i23 i23 - i23", ""},
    {"cross_entropy", "f34 i3", ""},
    {"linear_cross_entropy", "f23 f43 i2 f4", ""},
    {"rotary", "f1234 i13", ""},
    {"short_conv", "f234 f34 i23 i23", ""},
    {"split_heads", "f236", "2"},
    {"favor", ROWS " - - - - - f44", ""},
    {"linear_attention", ROWS, ""},
    {"exact_attention", ROWS, ""},
    {"listed_attention", ROWS " - - p", ""},
    {"identity_attention", ROWS, ""},
    {"edge_attention", ROWS " - - e5 f5", ""},
    {"edges", "r3 r3", "4"},
    {"features", "f1234 f44", ""},
    {"log_partition", "f2234 f2234 i23 f44", ""},
    {"lsh_buckets", "f2234 f2142 i23", ""},
    {"nearest_cluster", "f2234 f224 i23", ""},
    {"pattern_matrix", "p i3", "3"},
    {"pattern_count", "p i3", "3"},
};

static const fit *fit_of(const char *op) {
    for (size_t i = 0; i < sizeof fits / sizeof *fits; i++)
        if (!strcmp(fits[i].op, op)) return &fits[i];
    return NULL;
}

/* Word `place` of the inputs, or NULL. */
static const char *word_of(const fit *f, int place) {
    const char *at = f ? f->inputs : NULL;
    for (; at && place > 0; place--) {
        at = strchr(at, ' ');
        if (at) at++;
    }
    return at;
}

static int words_of(const fit *f) {
    int n = 1;
    for (const char *at = f->inputs; (at = strchr(at, ' ')); at++) n++;
    return n;
}

/* ---- inputs ---- */

/* Shapes that fit one another, more often than chance has it. */
static int shape_of(reader *r, unsigned family, int64_t shape[PF_MAX_RANK]) {
    static const int64_t known[][4] = {{2, 2, 3, 4}, {2, 3, 4, 0}, {3, 4, 0, 0},
                                       {4, 4, 0, 0}, {4, 0, 0, 0}, {2, 3, 0, 0}};
    static const int64_t sizes[] = {1, 2, 3, 4, 0, 5, 8, 17};
    unsigned how = take(r);
    int rank = 0;
    if (how < 200) {
        const int64_t *one = known[(family + how / 16) % 6];
        for (; rank < 4 && one[rank]; rank++) shape[rank] = one[rank];
        if (how % 16 == 15 && rank > 0) shape[how / 16 % (unsigned)rank] = 0;
        return rank;
    }
    for (rank = 0; rank < (int)(how % 9) && rank < PF_MAX_RANK; rank++)
        shape[rank] = sizes[take(r) % 8];
    return rank;
}

static pf_tensor *fill(pf_engine *e, unsigned how, int rank, const int64_t *shape) {
    static const double values[] = {1, 0, -1, 2, 1e30, -1e30, 0.5, 3};
    pf_tensor *t = NULL;
    if (how % 4 < 2)
        pf_tensor_rand(&t, e, rank, shape, true);
    else if (how % 4 == 2)
        pf_tensor_full(&t, e, PF_I32, rank, shape, values[how / 4 % 4]);
    else
        pf_tensor_full(&t, e, how & 64 ? PF_I32 : PF_F32, rank, shape, values[how / 4 % 8]);
    return t;
}

/* The same with its dimensions the other way round: a view that is not contiguous. */
static void turn(pf_engine *e, pf_tensor **t) {
    int op = pf_op_find(e, "permute");
    pf_attr attrs[ATTRS];
    pf_tensor *view = NULL;
    if (op < 0 || pf_op_defaults(e, op, attrs) < 0) return;
    attrs[0].n = pf_tensor_rank(*t);
    for (int d = 0; d < attrs[0].n; d++) attrs[0].list[d] = attrs[0].n - 1 - d;
    if (pf_op_apply(e, op, t, 1, attrs, &view) < 0) return;
    pf_tensor_release(t);
    *t = view;
}

/* Numbers that count up; as edges, sorted rows of to, from and number. */
static pf_tensor *counting(pf_engine *e, const char *word) {
    const bool edges = word[0] == 'e';
    const int64_t n = word[1] - '0', shape[] = {n, 3};
    pf_tensor *t = NULL;
    if (pf_tensor_full(&t, e, PF_I32, edges ? 2 : 1, shape, 0) < 0) return NULL;
    int32_t *to = pf_tensor_data(t);
    for (int32_t i = 0; i < n; i++) {
        if (edges)
            to[3 * i] = i / 3, to[3 * i + 1] = i % 3, to[3 * i + 2] = i;
        else
            to[i] = i;
    }
    return t;
}

static pf_tensor *pattern(pf_engine *e, unsigned how) {
    static const char *const rules[] = {"sliding", "strided", "fixed", "bigbird", "lsh", "routing"};
    pf_tensor *t = NULL;
    if (pf_pattern_tensor(&t, e, rules[how % 6], NULL, NULL) < 0) return NULL;
    return t;
}

/* What words alone make, with one number another now and then. */
static pf_tensor *made_of(pf_engine *e, reader *r, unsigned how, const char *word) {
    pf_tensor *t = word[0] == 'p' ? pattern(e, how) : counting(e, word);
    int32_t *numbers = t ? pf_tensor_data(t) : NULL;
    int64_t n = t ? pf_tensor_numel(t) : 0;
    if (take(r) > 200 && n > 0) numbers[take(r) % n] = (int32_t)take(r) - 8;
    return t;
}

/* As a word says, or with one size another. */
static pf_tensor *fitting(pf_engine *e, reader *r, unsigned how, const char *word) {
    int64_t shape[PF_MAX_RANK];
    int rank = 0;
    if (strchr("rep", word[0])) return made_of(e, r, how, word);
    for (; word[1 + rank] >= '0' && word[1 + rank] <= '9'; rank++)
        shape[rank] = word[1 + rank] - '0';
    if (take(r) > 200) shape[how % (unsigned)rank] = take(r) % 9;
    return fill(e, word[0] == 'f' ? how % 2 : 2 + how / 4 * 4, rank, shape);
}

static pf_tensor *tensor_of(pf_engine *e, reader *r, unsigned family, const char *word) {
    int64_t shape[PF_MAX_RANK];
    bool fits_well = word && *word != '-' && take(r) < 224;
    int rank = fits_well ? 0 : shape_of(r, family, shape);
    unsigned how = take(r);
    pf_tensor *t = fits_well ? fitting(e, r, how, word) : fill(e, how, rank, shape);
    if (t && how > 240) turn(e, &t);
    if (t && how < 128 && pf_tensor_dtype(t) == PF_F32) pf_tensor_require_grad(t, true);
    return t;
}

/* ---- attributes ---- */

static void required(pf_attr *attr, const char *text) {
    attr->n = (int)strlen(text);
    for (int k = 0; k < attr->n; k++) attr->list[k] = attr->i = text[k] - '0';
}

static void attribute(reader *r, pf_attr *attr) {
    static const int64_t whole[] = {0, 1,         2,         3,         -1,    -2,        4,   7,
                                    8, INT32_MAX, INT64_MAX, INT64_MIN, -1000, 1LL << 52, 255, 64};
    static const double numbers[] = {0, 1, -1, 0.5, 1e-30, 1e30, 2, NAN};
    unsigned which = take(r);
    if (which < 128) return; /* the default */
    attr->i = whole[which % 16];
    attr->f = which % 16 == 15 ? INFINITY : numbers[which % 8];
    attr->n = (int)(take(r) % (PF_MAX_RANK + 1));
    for (int k = 0; k < attr->n; k++) attr->list[k] = whole[take(r) % 16];
}

/* ---- a call ---- */

/* The first result with numbers, walked back. */
static void walk_back(pf_engine *e, pf_tape *tape, pf_tensor *const *out, int n) {
    pf_tensor *seed = NULL;
    for (int o = 0; o < n; o++) {
        if (!out[o] || pf_tensor_dtype(out[o]) != PF_F32) continue;
        int64_t shape[PF_MAX_RANK];
        int rank = pf_tensor_rank(out[o]);
        for (int d = 0; d < rank; d++) shape[d] = pf_tensor_size(out[o], d);
        if (pf_tensor_full(&seed, e, PF_F32, rank, shape, 1) >= 0)
            pf_tape_backward(tape, out[o], seed);
        pf_tensor_release(&seed);
        return;
    }
}

static void call(pf_engine *e, reader *r, const pf_op_info *info, int op) {
    pf_tensor *in[INPUTS] = {0}, *out[RESULTS] = {0};
    pf_attr attrs[ATTRS];
    pf_tape *tape = NULL;
    unsigned flags = take(r), family = take(r);
    const fit *f = fit_of(info->name);
    int n = info->min_inputs, most = info->max_inputs < INPUTS ? info->max_inputs : INPUTS;
    if (flags & 128) n = f ? words_of(f) : most;
    if (flags < 8) n = (int)flags;
    for (int i = 0; i < n; i++) {
        const char *word = word_of(f, i);
        bool there = word && *word != '-' ? take(r) % 4 < 3 : take(r) % 4 == 1;
        if (i < info->min_inputs || there) in[i] = tensor_of(e, r, family, word);
    }
    if (pf_op_defaults(e, op, attrs) < 0) __builtin_trap();
    if (f && f->attr[0]) required(&attrs[0], f->attr);
    for (int i = 0; i < info->n_attrs; i++) attribute(r, &attrs[i]);
    if ((flags & 16) && pf_tape_open(&tape, e) < 0) tape = NULL;
    if (pf_op_apply(e, op, in, n, flags & 64 ? attrs : NULL, out) >= 0) {
        fuzz_good++;
        tried[op].good++;
        if (tape) walk_back(e, tape, out, info->outputs);
    } else if (!pf_last_error()[0]) {
        __builtin_trap();
    } else {
        snprintf(tried[op].why, sizeof tried[op].why, "%s", pf_last_error());
    }
    for (int o = 0; o < RESULTS; o++) pf_tensor_release(&out[o]);
    pf_tape_close(&tape);
    for (int i = 0; i < INPUTS; i++) pf_tensor_release(&in[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine_anew(WORK);
    reader r = {data, data + size};
    pf_op_info info = {.size = sizeof info};
    int op = (int)(take(&r) % (unsigned)pf_op_count(e));
    pf_seed(e, 1); /* the same numbers whatever came before */
    if (pf_op_at(e, op, &info) < 0 || info.outputs > RESULTS || info.n_attrs > ATTRS)
        __builtin_trap();
    call(e, &r, &info, op);
    return 0;
}
