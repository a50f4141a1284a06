/*
 * buckets_test.c - what lsh_buckets and nearest_cluster promise on every level of instructions: a
 * position's number is that of its row alone, wherever it stands and whatever its neighbours hold,
 * on any number of threads; and equal products go to the lower number.
 *
 * The tables are made of columns that differ in their last bits, so that rounding decides.
 */
#include "check.h"

#include "calls.h"
#include "kern.h"
#include "performer.h"
#include "attention.h"

enum { B = 2, H = 2, L = 150, D = 20, ROUNDS = 2, COLUMNS = 139 };
static pf_engine *engine;

static bool open_engine(int threads, pf_cpu cpu) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_info info = {.size = sizeof info};
    options.threads = threads;
    options.cpu = cpu;
    if (pf_engine_open(&engine, &options) < 0) return false;
    pf_engine_info(engine, &info);
    if (info.cpu == cpu) return true;
    pf_engine_close(&engine);
    return false;
}

/* A number in (-1, 1) of its place. */
static float number(uint64_t n) {
    uint64_t x = (n + 1) * 6364136223846793005u;
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return (float)(x >> 40) / 8388608.0f - 1;
}

static pf_tensor *filled(int rank, const int64_t *shape, uint64_t salt) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make(&t, engine, PF_F32, rank, shape));
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) pf_f32(t)[i] = number(salt + (uint64_t)i);
    return t;
}

/* Columns that are one column but for their last bits (distinct), or that column. */
static pf_tensor *table_of(bool clusters, bool distinct) {
    int64_t lsh[4] = {H, ROUNDS, D, COLUMNS}, routed[3] = {H, COLUMNS, D};
    pf_tensor *t = filled(clusters ? 3 : 4, clusters ? routed : lsh, 7);
    int64_t tables = clusters ? H : H * ROUNDS;
    for (int64_t n = 0; n < tables * D * COLUMNS; n++) {
        int64_t p = clusters ? n % D : n / COLUMNS % D;
        float bump = distinct ? 3e-8f * number((uint64_t)n + 99) : 0;
        pf_f32(t)[n] = number((uint64_t)p) * (1 + bump);
    }
    return t;
}

static pf_tensor *buckets(pf_tensor *x, pf_tensor *table) {
    pf_tensor *in[3] = {x, table, NULL}, *out = NULL;
    const pf_op *op = table->rank == 3 ? &pf_op_nearest_cluster : &pf_op_lsh_buckets;
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(op, attr);
    CHECK_OK(pf_apply(engine, op, in, 3, attr, &out));
    return out;
}

/* x (B, H, L, D) with row (1, 1, 77) in every place. */
static pf_tensor *one_row(const pf_tensor *x) {
    pf_tensor *same = filled(4, x->shape, 0);
    const float *row = pf_f32(x) + ((H + 1) * L + 77) * D;
    for (int64_t i = 0; i < pf_tensor_numel(x); i++) pf_f32(same)[i] = row[i % D];
    return same;
}

/* Rows (B, H, from .. from + n - 1) of x. */
static pf_tensor *some_rows(const pf_tensor *x, int64_t from, int64_t n) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_view(&t, x));
    t->offset += from * t->stride[2];
    t->shape[2] = n;
    return t;
}

static int32_t at(const pf_tensor *t, int64_t pair, int64_t round, int64_t l) {
    return pf_i32(t)[(pair * t->shape[2] + round) * t->shape[3] + l];
}

static void test_place(bool clusters) {
    int64_t shape[4] = {B, H, L, D};
    pf_tensor *x = filled(4, shape, 12345), *same = one_row(x), *table = table_of(clusters, true);
    pf_tensor *of_x = buckets(x, table), *of_same = buckets(same, table);
    bool moved = false, many = false;
    for (int64_t n = 0; n < B * H * L; n++) {
        int64_t pair = n / L, l = n % L;
        for (int64_t t = 0; t < of_x->shape[2]; t++) {
            moved |= at(of_same, pair, t, l) != at(of_same, pair % H, t, 0);
            many |= at(of_x, pair, t, l) != at(of_x, pair % H, t, 0);
        }
    }
    CHECK(!moved && many);
    for (int64_t from = 0; from < L; from += 37) { /* in shorter rows, down to one */
        int64_t n = pf_min(from + 1, L - from);
        pf_tensor *part = some_rows(x, from, n), *of_part = buckets(part, table);
        bool equal = true;
        for (int64_t i = 0; i < B * H * n; i++) {
            for (int64_t t = 0; t < of_x->shape[2]; t++)
                equal &= at(of_part, i / n, t, i % n) == at(of_x, i / n, t, from + i % n);
        }
        CHECK(equal);
        pf_tensor_release(&of_part);
        pf_tensor_release(&part);
    }
    pf_tensor_release(&of_same), pf_tensor_release(&of_x);
    pf_tensor_release(&table), pf_tensor_release(&same), pf_tensor_release(&x);
}

/* All columns are one: the first of its side, and no other. */
static void test_ties(bool clusters) {
    int64_t shape[4] = {B, H, L, D};
    pf_tensor *x = filled(4, shape, 5), *table = table_of(clusters, false);
    pf_tensor *out = buckets(x, table);
    bool first = true, turned = false;
    for (int64_t n = 0; n < pf_tensor_numel(out); n++) {
        turned |= pf_i32(out)[n] == COLUMNS;
        first &= pf_i32(out)[n] == 0 || (!clusters && pf_i32(out)[n] == COLUMNS);
    }
    CHECK(first && turned == !clusters);
    pf_tensor_release(&out), pf_tensor_release(&table), pf_tensor_release(&x);
}

/* Rows that are not finite are nobody else's business, and have a bucket. */
static void test_bad_rows(bool clusters) {
    int64_t shape[4] = {B, H, L, D};
    pf_tensor *x = filled(4, shape, 5), *table = table_of(clusters, true);
    pf_tensor *before = buckets(x, table);
    for (int64_t c = 0; c < D; c++) {
        pf_f32(x)[40 * D + c] = NAN;
        pf_f32(x)[(2 * L + 3) * D + c] = c % 2 ? INFINITY : -INFINITY;
    }
    pf_tensor *after = buckets(x, table);
    bool equal = true;
    for (int64_t pair = 0; pair < B * H; pair++) {
        for (int64_t l = 0; l < L; l++) {
            bool bad = (pair == 0 && l == 40) || (pair == 2 && l == 3);
            for (int64_t t = 0; t < after->shape[2]; t++) {
                equal &= bad || at(before, pair, t, l) == at(after, pair, t, l);
            }
        }
    }
    CHECK(equal);
    CHECK(at(after, 0, 0, 40) == 0);
    pf_tensor_release(&after), pf_tensor_release(&before);
    pf_tensor_release(&table), pf_tensor_release(&x);
}

static void test_threads(pf_cpu cpu, bool clusters) {
    uint64_t seen[3];
    for (int threads = 1; threads <= 3; threads++) {
        if (!open_engine(threads, cpu)) return;
        int64_t shape[4] = {B, H, L, D};
        pf_tensor *x = filled(4, shape, 31), *table = table_of(clusters, true);
        pf_tensor *out = buckets(x, table);
        uint64_t hash = 14695981039346656037u;
        for (int64_t n = 0; n < pf_tensor_numel(out); n++)
            hash = (hash ^ (uint64_t)pf_i32(out)[n]) * 1099511628211u;
        seen[threads - 1] = hash;
        pf_tensor_release(&out), pf_tensor_release(&table), pf_tensor_release(&x);
        pf_engine_close(&engine);
    }
    CHECK(seen[0] == seen[1] && seen[1] == seen[2]);
}

int main(void) {
    int levels = 0;
    for (int level = PF_CPU_GENERIC; level <= PF_CPU_AVX512; level++) {
        for (int clusters = 0; clusters < 2; clusters++) {
            test_threads((pf_cpu)level, clusters);
            if (!open_engine(2, (pf_cpu)level)) continue;
            levels++;
            test_place(clusters);
            test_ties(clusters);
            test_bad_rows(clusters);
            pf_engine_close(&engine);
        }
    }
    CHECK(levels >= 2);
    return CHECK_REPORT();
}
