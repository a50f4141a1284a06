/*
 * access_test.c - the ways in and out of a tensor: any strides, large copies and
 * transpositions on several threads, conversions and what they refuse, overlapping views.
 */
#include <float.h>
#include <math.h>

#include "tensor_support.h"

/* Any permutation and slice of a tensor reads as element arithmetic says. */
static void test_walks(void) {
    enum { RANK = 4 };
    pf_engine engine = engine_of(2, NULL);
    const int64_t size[RANK] = {3, 2, 5, 4};
    pf_tensor *t;
    CHECK_OK(pf_tensor_empty(&t, &engine, PF_F32, RANK, size));
    for (int i = 0; i < 120; i++) pf_f32(t)[i] = (float)i;
    int wrong = 0;
    for (int code = 0; code < 24 * 16; code++) {
        int order[RANK] = {0, 1, 2, 3}, rest = code / 16, left = RANK;
        for (int i = 0; i < RANK; i++) {
            int pick = i + rest % left, swap = order[i];
            rest /= left--;
            order[i] = order[pick], order[pick] = swap;
        }
        pf_tensor *v, *c;
        CHECK_OK(pf_tensor_view(&v, t));
        for (int i = 0; i < RANK; i++) {
            v->shape[i] = size[order[i]], v->stride[i] = t->stride[order[i]];
            if (!(code >> i & 1)) continue;
            v->shape[i] -= 1; /* a slice from 1 on */
            v->offset += v->stride[i];
        }
        float got[120];
        int64_t n = pf_tensor_numel(v);
        CHECK_OK(pf_tensor_read(v, got, (size_t)n * sizeof *got));
        CHECK_OK(pf_tensor_compact(&c, &engine, v));
        for (int64_t i = 0; i < n; i++) {
            int64_t left_over = i, expected = v->offset;
            for (int d = RANK - 1; d >= 0; d--) {
                expected += left_over % v->shape[d] * v->stride[d];
                left_over /= v->shape[d];
            }
            double one;
            pf_tensor_get(v, i, &one);
            wrong += got[i] != (float)expected || one != (double)expected;
            wrong += pf_f32(c)[i] != (float)expected;
        }
        pf_tensor_release(&c);
        pf_tensor_release(&v);
    }
    CHECK(wrong == 0);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

/* Large enough for several tasks and for the tiled transposition, with uneven edges. */
static void test_large_copies(void) {
    enum { ROWS = 711, COLUMNS = 333 };
    for (int threads = 1; threads <= 3; threads++) {
        pf_engine engine = engine_of(threads, NULL);
        const size_t idle = pf_heap_live(engine.heap);
        pf_tensor *t = counted(&engine, ROWS, COLUMNS), *v = transposed(t), *c, *d, *target;
        CHECK_OK(pf_tensor_compact(&c, &engine, v));
        int wrong = 0;
        for (int64_t i = 0; i < ROWS * COLUMNS; i++)
            wrong += pf_f32(c)[i] != (float)(i % ROWS * COLUMNS + i / ROWS);
        CHECK(wrong == 0);
        CHECK_OK(pf_tensor_detach(&d, &engine, t));
        CHECK(memcmp(pf_f32(d), pf_f32(t), ROWS * COLUMNS * sizeof(float)) == 0);
        /* into a transposed target, and into every second column */
        pf_tensor *back = transposed(c);
        CHECK_OK(pf_tensor_fill(back, -1));
        CHECK_OK(pf_tensor_copy(back, t));
        for (int64_t i = 0; i < ROWS * COLUMNS; i++)
            wrong += pf_f32(c)[i] != (float)(i % ROWS * COLUMNS + i / ROWS);
        CHECK(wrong == 0);
        CHECK_OK(pf_tensor_full(&target, &engine, PF_F32, 3, SHAPE(ROWS, COLUMNS, 2), 9));
        pf_tensor *second;
        CHECK_OK(pf_tensor_view(&second, target));
        second->rank = 2, second->offset = 1;
        CHECK_OK(pf_tensor_copy(second, t));
        for (int64_t i = 0; i < ROWS * COLUMNS; i++)
            wrong += pf_f32(target)[2 * i] != 9.0f || pf_f32(target)[2 * i + 1] != (float)i;
        CHECK(wrong == 0);
        pf_tensor *all[] = {t, v, c, d, back, target, second};
        for (int i = 0; i < PF_COUNT(all); i++) pf_tensor_release(&all[i]);
        CHECK(pf_heap_live(engine.heap) == idle);
        pf_runtime_close(&engine);
    }
}

/* A stack of matrices, each transposed: tiles must not cross from one to the next. */
static void test_batched_transpose(void) {
    enum { B = 3, R = 70, C = 45 };
    pf_engine engine = engine_of(2, NULL);
    pf_tensor *t, *v, *c;
    CHECK_OK(pf_tensor_empty(&t, &engine, PF_I32, 3, SHAPE(B, R, C)));
    for (int32_t i = 0; i < B * R * C; i++) pf_i32(t)[i] = i;
    CHECK_OK(pf_tensor_view(&v, t));
    v->shape[1] = C, v->shape[2] = R, v->stride[1] = 1, v->stride[2] = C;
    CHECK_OK(pf_tensor_compact(&c, &engine, v));
    int wrong = 0;
    for (int b = 0; b < B; b++)
        for (int i = 0; i < C; i++)
            for (int j = 0; j < R; j++)
                wrong += pf_i32(c)[(b * C + i) * R + j] != (b * R + j) * C + i;
    CHECK(wrong == 0);
    pf_tensor_release(&c);
    pf_tensor_release(&v);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

/* Every row holds what it says, with any step; names and sizes are its own. */
static void test_rows(void) {
    const pf_dtype_row *row;
    int wrong = 0;
    for (int d = 0; (row = pf_dtype_find((pf_dtype)d)) != NULL; d++) {
        uint64_t memory[32] = {0};
        double in[8], out[8];
        for (int i = 0; i < 8; i++) in[i] = (double)(row->counts - 1 - i);
        row->store(memory, 3, in, 8);
        row->load(out, memory, 3, 8);
        wrong += memcmp(in, out, sizeof in) != 0;
        wrong += strcmp(pf_dtype_name((pf_dtype)d), row->name) != 0;
        wrong += pf_dtype_size((pf_dtype)d) != row->bytes;
        wrong += !pf_dtype_fits(row, in[0], false) || pf_dtype_fits(row, NAN, true) == row->whole;
        wrong += pf_dtype_fits(row, 0.5, false) == row->whole || !pf_dtype_fits(row, 0.5, true);
    }
    CHECK(wrong == 0);
    row = pf_dtype_find(PF_I32);
    CHECK(pf_dtype_fits(row, 2147483647.5, true) && !pf_dtype_fits(row, 2147483648.0, true));
    CHECK(pf_dtype_fits(row, -2147483648.5, true) && !pf_dtype_fits(row, -2147483649.0, true));
}

/* From one dtype to the other through strides, more than one block of values. */
static void test_conversion(void) {
    enum { ROWS = 701, COLUMNS = 3 };
    pf_engine engine = engine_of(2, NULL);
    pf_tensor *t = counted(&engine, ROWS, COLUMNS), *v = transposed(t), *whole, *back;
    CHECK_OK(pf_tensor_empty(&whole, &engine, PF_I32, 2, v->shape));
    CHECK_OK(pf_tensor_empty(&back, &engine, PF_F32, 2, v->shape));
    CHECK_OK(pf_tensor_copy(whole, v));
    CHECK_OK(pf_tensor_copy(back, whole));
    int wrong = 0;
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
        double expected;
        pf_tensor_get(v, i, &expected);
        wrong += pf_i32(whole)[i] != (int32_t)expected || pf_f32(back)[i] != (float)expected;
    }
    CHECK(wrong == 0);
    pf_f32(t)[ROWS * COLUMNS - 1] = 3e9f;
    CHECK_FAILS(PF_EINVAL, pf_tensor_copy(whole, v));
    CHECK(strstr(pf_last_error(), "3e+09") && pf_i32(whole)[0] == 0);
    pf_tensor_release(&t), pf_tensor_release(&v), pf_tensor_release(&whole);
    pf_tensor_release(&back);
    pf_runtime_close(&engine);
}

/* ---- elements ---- */

static void test_read_write(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *f, *i, *v;
    CHECK_OK(pf_tensor_empty(&f, &engine, PF_F32, 2, SHAPE(2, 3)));
    CHECK_OK(pf_tensor_empty(&i, &engine, PF_I32, 2, SHAPE(2, 3)));
    const float single[6] = {1, 2, 3, 4, 5, 6};
    const double wide[6] = {10, 20, 30, 40, 50, -60};
    const int32_t whole[6] = {7, 8, 9, 10, 11, INT32_MIN};
    float single_out[6];
    double wide_out[6];
    int32_t whole_out[6];
    CHECK_OK(pf_tensor_write(f, single, sizeof single));
    CHECK_OK(pf_tensor_read(f, wide_out, sizeof wide_out));
    CHECK(wide_out[0] == 1 && wide_out[5] == 6);
    v = transposed(f);
    CHECK_OK(pf_tensor_write(v, wide, sizeof wide));
    CHECK_OK(pf_tensor_read(f, single_out, sizeof single_out));
    CHECK(single_out[0] == 10 && single_out[1] == 30 && single_out[3] == 20);
    CHECK_OK(pf_tensor_read(v, single_out, sizeof single_out));
    CHECK(single_out[1] == 20 && single_out[5] == -60);

    CHECK_OK(pf_tensor_write(i, whole, sizeof whole));
    CHECK_OK(pf_tensor_read(i, wide_out, sizeof wide_out));
    CHECK(wide_out[5] == INT32_MIN);
    CHECK_OK(pf_tensor_write(i, wide, sizeof wide));
    CHECK_OK(pf_tensor_read(i, whole_out, sizeof whole_out));
    CHECK(whole_out[5] == -60);
    /* what i32 cannot hold is refused, and nothing is written */
    const double bad[][6] = {{1, 2, 0.5, 4, 5, 6}, {1, 2, NAN, 4, 5, 6}, {1, 2, 3e9, 4, 5, 6}};
    for (int k = 0; k < PF_COUNT(bad); k++)
        CHECK_FAILS(PF_EINVAL, pf_tensor_write(i, bad[k], sizeof bad[k]));
    CHECK(pf_i32(i)[0] == 10);
    /* nor does a number become an infinity; what is one stays one */
    const float before = pf_f32(f)[0];
    const double large[] = {1, 2, -1e39, 4, 5, 6}, edge = 3.4028235677973366e38 /* rounds up */;
    CHECK_FAILS(PF_EINVAL, pf_tensor_write(f, large, sizeof large));
    CHECK(strstr(pf_last_error(), "f32") && strstr(pf_last_error(), "-1e+39"));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set(f, 0, edge));
    CHECK(pf_f32(f)[0] == before);
    CHECK_OK(pf_tensor_set(f, 0, nextafter(edge, 0)));
    CHECK(pf_f32(f)[0] == FLT_MAX);
    CHECK_OK(pf_tensor_set(f, 0, -INFINITY));
    CHECK(isinf(pf_f32(f)[0]));
    CHECK_OK(pf_tensor_set(f, 0, before));
    CHECK_FAILS(PF_EINVAL, pf_tensor_read(f, wide_out, 20));
    CHECK_FAILS(PF_EINVAL, pf_tensor_write(f, wide, 0));
    CHECK_FAILS(PF_EINVAL, pf_tensor_read(f, NULL, sizeof single));

    double one;
    CHECK_OK(pf_tensor_get(v, 1, &one));
    CHECK(one == 20);
    CHECK_OK(pf_tensor_set(v, 1, 21));
    CHECK(pf_f32(f)[3] == 21.0f);
    CHECK_FAILS(PF_EINVAL, pf_tensor_get(v, 6, &one));
    CHECK(strstr(pf_last_error(), "[3, 2]"));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set(v, -1, 0));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set(i, 0, 2.5));
    CHECK_FAILS(PF_EINVAL, pf_tensor_fill(i, INFINITY));
    CHECK_OK(pf_tensor_fill(f, NAN));
    CHECK(isnan(pf_f32(f)[5]));
    pf_tensor *all[] = {f, i, v};
    for (int k = 0; k < PF_COUNT(all); k++) pf_tensor_release(&all[k]);
    pf_runtime_close(&engine);
}

static void test_copy(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *f = counted(&engine, 3, 3), *i, *v = transposed(f), *narrow;
    CHECK_OK(pf_tensor_empty(&i, &engine, PF_I32, 2, SHAPE(3, 3)));
    CHECK_OK(pf_tensor_empty(&narrow, &engine, PF_F32, 2, SHAPE(3, 1)));
    CHECK_OK(pf_tensor_copy(i, v));
    CHECK(pf_i32(i)[1] == 3 && pf_i32(i)[3] == 1);
    pf_i32(i)[0] = -5;
    CHECK_OK(pf_tensor_copy(f, i));
    CHECK(pf_f32(f)[0] == -5.0f);
    pf_f32(f)[0] = -2.75f;
    CHECK_OK(pf_tensor_copy(i, f));
    CHECK(pf_i32(i)[0] == -2); /* toward zero */
    pf_f32(f)[8] = NAN, pf_f32(f)[0] = 1;
    CHECK_FAILS(PF_EINVAL, pf_tensor_copy(i, f));
    pf_f32(f)[8] = 2147483648.0f;
    CHECK_FAILS(PF_EINVAL, pf_tensor_copy(i, f));
    CHECK(pf_i32(i)[0] == -2); /* untouched */
    CHECK_FAILS(PF_ESHAPE, pf_tensor_copy(f, narrow));
    CHECK(strstr(pf_last_error(), "[3, 1]") && strstr(pf_last_error(), "[3, 3]"));

    /* a matrix onto its own transpose, and a shift by one */
    for (int k = 0; k < 9; k++) pf_f32(f)[k] = (float)k;
    CHECK_OK(pf_tensor_copy(f, v));
    CHECK(pf_f32(f)[1] == 3 && pf_f32(f)[3] == 1 && pf_f32(f)[5] == 7 && pf_f32(f)[7] == 5);
    pf_tensor *low, *high;
    CHECK_OK(pf_tensor_view(&low, f));
    CHECK_OK(pf_tensor_view(&high, f));
    low->rank = high->rank = 1;
    low->shape[0] = high->shape[0] = 8;
    low->stride[0] = high->stride[0] = 1;
    high->offset = 1;
    for (int k = 0; k < 9; k++) pf_f32(f)[k] = (float)k;
    CHECK_OK(pf_tensor_copy(high, low));
    CHECK(pf_f32(f)[0] == 0 && pf_f32(f)[1] == 0 && pf_f32(f)[8] == 7);
    CHECK_OK(pf_tensor_copy(low, low));
    pf_tensor *all[] = {f, i, v, narrow, low, high};
    for (int k = 0; k < PF_COUNT(all); k++) pf_tensor_release(&all[k]);
    CHECK(pf_heap_live(engine.heap) == 0);
    pf_runtime_close(&engine);
}

int main(void) {
    test_walks();
    test_large_copies();
    test_batched_transpose();
    test_rows();
    test_conversion();
    test_read_write();
    test_copy();
    return CHECK_REPORT();
}
