/*
 * tensor_test.c - the floor tensor: shapes, making and dying, views and strides, the walk, random
 * contents, text, and every allocation failing in turn. Elements: access_test.c.
 */
#include "tensor_support.h"

/* ---- shapes ---- */

static void test_shapes(void) {
    int64_t out[PF_MAX_RANK];
    int rank, axis = -1, dim;
    CHECK(pf_shape_numel(0, NULL) == 1 && pf_shape_numel(3, SHAPE(2, 0, 4)) == 0);
    pf_shape_strides(3, SHAPE(2, 3, 4), out);
    CHECK(out[0] == 12 && out[1] == 4 && out[2] == 1);
    CHECK_OK(pf_shape_valid(0, NULL, PF_F32, "x"));
    CHECK_OK(pf_shape_valid(2, SHAPE(0, 5), PF_F32, "x"));
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(9, SHAPE(1, 1, 1, 1, 1, 1, 1, 1, 1), PF_F32, "x"));
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(-1, NULL, PF_F32, "x"));
    CHECK_FAILS(PF_EINVAL, pf_shape_valid(2, NULL, PF_F32, "x"));
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(2, SHAPE(3, -1), PF_F32, "zeros"));
    CHECK(strstr(pf_last_error(), "zeros: [3, -1]"));
    const int64_t big = (int64_t)1 << 31;
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(2, SHAPE(big, big), PF_F32, "x"));
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(3, SHAPE(big * 2, 0, big * 2), PF_F32, "x"));
    CHECK_FAILS(PF_ESHAPE, pf_shape_valid(1, SHAPE(INT64_MAX), PF_I32, "x"));

    CHECK(pf_shape_broadcast(3, SHAPE(4, 1, 3), 2, SHAPE(5, 1), &rank, out, &axis) == PF_OK);
    CHECK(rank == 3 && out[0] == 4 && out[1] == 5 && out[2] == 3);
    CHECK(pf_shape_broadcast(0, NULL, 1, SHAPE(0), &rank, out, &axis) == PF_OK);
    CHECK(rank == 1 && out[0] == 0);
    CHECK(pf_shape_broadcast(1, SHAPE(1), 1, SHAPE(0), &rank, out, &axis) == PF_OK && out[0] == 0);
    CHECK(pf_shape_broadcast(2, SHAPE(2, 3), 1, SHAPE(2), &rank, out, &axis) == PF_ESHAPE);
    CHECK(axis == 1);
    CHECK(pf_shape_broadcast(1, SHAPE(0), 1, SHAPE(2), &rank, out, &axis) == PF_ESHAPE);

    CHECK_OK(pf_dim(-1, 3, "sum", &dim));
    CHECK(dim == 2);
    CHECK_OK(pf_dim(0, 3, "sum", &dim));
    CHECK(dim == 0);
    CHECK_FAILS(PF_ESHAPE, pf_dim(3, 3, "sum", &dim));
    CHECK_FAILS(PF_ESHAPE, pf_dim(-4, 3, "sum", &dim));
    CHECK_FAILS(PF_ESHAPE, pf_dim(0, 0, "sum", &dim));
    const char *first = pf_shape_text(2, SHAPE(2, 3));
    for (int i = 0; i < 7; i++) pf_shape_text(1, SHAPE(INT64_MIN));
    CHECK(strcmp(first, "[2, 3]") == 0 && strcmp(pf_shape_text(0, NULL), "[]") == 0);
    CHECK(strcmp(pf_dtype_name(PF_I32), "i32") == 0 && pf_dtype_size(PF_F32) == 4);
    CHECK(strcmp(pf_dtype_name((pf_dtype)9), "unknown") == 0 && pf_dtype_size((pf_dtype)9) == 4);
    CHECK(!pf_dtype_find((pf_dtype)2) && !pf_dtype_find((pf_dtype)-1));
}

/* ---- life ---- */

static void test_life(void) {
    host_memory host = {0};
    pf_engine engine = engine_of(1, &host);
    pf_tensor *t = counted(&engine, 3, 4), *v, *g, *scalar;
    CHECK(pf_tensor_rank(t) == 2 && pf_tensor_size(t, -1) == 4 && pf_tensor_size(t, 5) == 0);
    CHECK(pf_tensor_numel(t) == 12 && pf_tensor_dtype(t) == PF_F32 && pf_tensor_alive(t));
    CHECK((uintptr_t)pf_tensor_data(t) % PF_ALIGN == 0);
    CHECK_OK(pf_tensor_view(&v, t));
    pf_tensor *again = pf_tensor_retain(t);
    CHECK(again == t);
    pf_tensor_release(&t);
    CHECK(t == NULL && pf_f32(again)[11] == 11.0f);
    pf_tensor_release(&again);
    CHECK(pf_f32(v)[11] == 11.0f); /* the view holds the storage */
    CHECK_OK(pf_tensor_ghost(&g, v));
    CHECK(!pf_tensor_alive(g) && pf_same_shape(g, v) && pf_tensor_data(g) == NULL);
    CHECK_FAILS(PF_ESTATE, pf_tensor_check(g, PF_F32, "op", "x"));
    CHECK_FAILS(PF_ESTATE, pf_tensor_fill(g, 0));
    CHECK_FAILS(PF_EDTYPE, pf_tensor_check(v, PF_I32, "embedding", "ids"));
    CHECK(strstr(pf_last_error(), "embedding: ids") && strstr(pf_last_error(), "must be i32"));
    CHECK_FAILS(PF_EINVAL, pf_tensor_check(NULL, PF_I32, "op", "x"));
    pf_tensor_release(&g);

    CHECK_OK(pf_tensor_full(&scalar, &engine, PF_I32, 0, NULL, 7));
    CHECK(pf_tensor_numel(scalar) == 1 && pf_i32(scalar)[0] == 7);
    v->grad = scalar; /* a gradient goes with its tensor */
    size_t live = pf_heap_live(engine.heap);
    CHECK(live > 0);
    pf_tensor_release(&v);
    CHECK(pf_heap_live(engine.heap) == 0);
    pf_tensor_release(&v);
    pf_tensor_release(NULL);

    /* a tensor outlives its engine */
    CHECK_OK(pf_tensor_full(&t, &engine, PF_F32, 1, SHAPE(100), 3));
    pf_runtime_close(&engine);
    CHECK(pf_f32(t)[99] == 3.0f);
    pf_tensor_release(&t);
    CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
}

/* A tape as the tensor floor sees it. */
static void test_owner(void) {
    host_memory host = {0};
    pf_engine engine = engine_of(1, &host);
    struct {
        pf_owner owner;
        int rest;
    } tape = {{NULL}, 0};
    pf_tensor *before = counted(&engine, 2, 2), *t[5], *view, *kept, *lasting;
    engine.tape = (struct pf_tape *)&tape;
    for (int i = 0; i < 5; i++) t[i] = counted(&engine, 10 + i, 10);
    CHECK_OK(pf_tensor_view(&view, t[1]));
    CHECK_OK(pf_tensor_detach(&kept, &engine, t[1]));
    CHECK_OK(pf_tensor_make_lasting(&lasting, engine.heap, PF_F32, 1, SHAPE(3)));
    /* out of the list from its end, its middle and its front */
    pf_tensor_release(&t[0]);
    pf_tensor_release(&t[2]);
    pf_tensor_release(&t[4]);
    int listed = 0;
    for (pf_storage *s = tape.owner.first; s; s = s->next) listed++;
    CHECK(listed == 2);
    size_t live = pf_heap_live(engine.heap);
    engine.tape = NULL;
    pf_owner_close(&tape.owner);
    CHECK(tape.owner.first == NULL && pf_heap_live(engine.heap) < live);
    CHECK(!pf_tensor_alive(t[1]) && !pf_tensor_alive(view) && !pf_tensor_alive(t[3]));
    CHECK(pf_tensor_alive(before) && pf_tensor_alive(kept) && pf_tensor_alive(lasting));
    CHECK(pf_tensor_data(view) == NULL && pf_f32(kept)[109] == 109.0f);
    double value;
    CHECK_FAILS(PF_ESTATE, pf_tensor_get(view, 0, &value));
    CHECK(strstr(pf_last_error(), "died with its tape"));
    CHECK_FAILS(PF_ESTATE, pf_tensor_copy(before, t[3]));
    pf_tensor *again = NULL;
    CHECK_FAILS(PF_ESTATE, pf_tensor_detach(&again, &engine, view));
    CHECK(again == NULL);
    char *text;
    CHECK_OK(pf_tensor_show(&text, view));
    CHECK(strcmp(text, "tensor [11, 10] f32 (dead: its tape has closed)") == 0);
    pf_text_free(text);
    pf_owner_close(&tape.owner); /* nothing left */
    pf_tensor *all[] = {before, t[1], t[3], view, kept, lasting};
    for (int i = 0; i < PF_COUNT(all); i++) pf_tensor_release(&all[i]);
    CHECK(pf_heap_live(engine.heap) == 0);
    pf_runtime_close(&engine);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

/* ---- strides ---- */

static void test_ordered(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *t, *compact, *same;
    static const int order[] = {0, 2, 1, 3};
    CHECK_OK(pf_tensor_make_ordered(&t, &engine, PF_F32, 4, SHAPE(2, 3, 5, 4), order));
    CHECK(t->stride[0] == 60 && t->stride[2] == 12 && t->stride[1] == 4 && t->stride[3] == 1);
    CHECK(!pf_tensor_contiguous(t) && pf_tensor_data(t) == NULL);
    for (int i = 0; i < 120; i++) CHECK_OK(pf_tensor_set(t, i, i));
    CHECK(pf_f32(t)[1 * 60 + 3 * 12 + 2 * 4 + 1] == 1 * 60 + 2 * 20 + 3 * 4 + 1);
    CHECK_OK(pf_tensor_compact(&compact, &engine, t));
    CHECK(pf_tensor_contiguous(compact));
    int wrong = 0;
    for (int i = 0; i < 120; i++) wrong += pf_f32(compact)[i] != (float)i;
    CHECK(wrong == 0);
    CHECK_OK(pf_tensor_compact(&same, &engine, compact));
    CHECK(same == compact);
    pf_tensor_release(&same);
    pf_tensor_release(&compact);
    pf_tensor_release(&t);
    /* sizes of one and zero do not spoil contiguity */
    CHECK_OK(pf_tensor_empty(&t, &engine, PF_F32, 3, SHAPE(1, 5, 1)));
    t->stride[0] = 77, t->stride[2] = -3;
    CHECK(pf_tensor_contiguous(t));
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_empty(&t, &engine, PF_F32, 2, SHAPE(0, 5)));
    t->stride[1] = 9;
    CHECK(pf_tensor_contiguous(t) && pf_tensor_data(t) != NULL);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

static void test_iter(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *t = counted(&engine, 6, 4), *v = transposed(t), *row;
    pf_iter it;
    int64_t offset[PF_ITER_MAX];
    CHECK_OK(pf_tensor_empty(&row, &engine, PF_F32, 1, SHAPE(4)));
    pf_iter_make(&it, 2, SHAPE(6, 4), 1, (const pf_tensor *[]){t});
    CHECK(it.rank == 0 && it.outer == 1 && it.inner == 24 && it.inner_stride[0] == 1);
    pf_iter_make(&it, 3, SHAPE(5, 6, 4), 2, (const pf_tensor *[]){t, row});
    CHECK(it.rank == 2 && it.outer == 30 && it.inner == 4);
    CHECK(it.inner_stride[0] == 1 && it.inner_stride[1] == 1);
    pf_iter_at(&it, 13, offset);
    CHECK(offset[0] == 1 * 4 && offset[1] == 0);
    pf_iter_make(&it, 2, SHAPE(4, 6), 1, (const pf_tensor *[]){v});
    CHECK(it.outer == 4 && it.inner == 6 && it.inner_stride[0] == 4);
    pf_iter_at(&it, 3, offset);
    CHECK(offset[0] == 3);
    /* a scalar broadcast to everything is one run of stride 0 */
    pf_tensor *scalar;
    CHECK_OK(pf_tensor_full(&scalar, &engine, PF_F32, 0, NULL, 1));
    pf_iter_make(&it, 2, SHAPE(6, 4), 2, (const pf_tensor *[]){t, scalar});
    CHECK(it.outer == 1 && it.inner == 24 && it.inner_stride[1] == 0);
    pf_iter_make(&it, 0, NULL, 1, (const pf_tensor *[]){scalar});
    CHECK(it.outer == 1 && it.inner == 1);
    pf_iter_make(&it, 2, SHAPE(0, 4), 1, (const pf_tensor *[]){row});
    CHECK(it.outer * it.inner == 0);
    pf_iter_make(&it, 2, SHAPE(4, 0), 1, (const pf_tensor *[]){scalar});
    CHECK(it.outer * it.inner == 0);
    pf_tensor *all[] = {t, v, row, scalar};
    for (int i = 0; i < PF_COUNT(all); i++) pf_tensor_release(&all[i]);
    pf_runtime_close(&engine);
}

/* ---- contents ---- */

static void test_making(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.memory = 1 << 20;
    options.threads = 1; /* no pool: nothing is live */
    pf_engine engine;
    pf_tensor *t;
    CHECK_OK(pf_runtime_open(&engine, &options));
    CHECK_OK(pf_tensor_arange(&t, &engine, PF_I32, 5));
    CHECK(pf_i32(t)[4] == 4 && pf_tensor_numel(t) == 5);
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_arange(&t, &engine, PF_F32, 0));
    CHECK(pf_tensor_numel(t) == 0);
    pf_tensor_release(&t);
    CHECK_FAILS(PF_EINVAL, pf_tensor_arange(&t, &engine, PF_F32, -1));
    CHECK_FAILS(PF_EINVAL, pf_tensor_arange(&t, &engine, PF_F32, 20000000));
    CHECK_FAILS(PF_EINVAL, pf_tensor_full(&t, &engine, PF_I32, 1, SHAPE(3), 0.5));
    CHECK(t == NULL);
    CHECK_FAILS(PF_EDTYPE, pf_tensor_full(&t, &engine, (pf_dtype)5, 1, SHAPE(3), 0.5));
    CHECK_FAILS(PF_ESHAPE, pf_tensor_empty(&t, &engine, PF_F32, 1, SHAPE(-3)));
    CHECK_FAILS(PF_ENOMEM, pf_tensor_empty(&t, &engine, PF_F32, 1, SHAPE((int64_t)1 << 58)));
    CHECK(strstr(pf_last_error(), "[288230376151711744] f32"));
    CHECK(strstr(pf_last_error(), "budget 1048576"));
    CHECK(pf_heap_live(engine.heap) == 0);
    pf_runtime_close(&engine);
}

/* The same numbers for any thread count; a new draw each call; from the seed again. */
static void test_random(void) {
    enum { N = 100003 };
    float *first = malloc(2 * N * sizeof *first);
    for (int threads = 1; threads <= 4; threads++) {
        pf_engine engine = engine_of(threads, NULL);
        pf_tensor *a, *b, *c;
        pf_seed(&engine, 42);
        CHECK_OK(pf_tensor_rand(&a, &engine, 1, SHAPE(N), true));
        CHECK_OK(pf_tensor_rand(&b, &engine, 1, SHAPE(N), false));
        if (threads == 1) {
            memcpy(first, pf_f32(a), N * sizeof *first);
            memcpy(first + N, pf_f32(b), N * sizeof *first);
        }
        CHECK(memcmp(first, pf_f32(a), N * sizeof *first) == 0);
        CHECK(memcmp(first + N, pf_f32(b), N * sizeof *first) == 0);
        CHECK_OK(pf_tensor_rand(&c, &engine, 1, SHAPE(N), true));
        CHECK(memcmp(first, pf_f32(c), N * sizeof *first) != 0);
        pf_tensor_release(&c);
        pf_seed(&engine, 42);
        CHECK_OK(pf_tensor_rand(&c, &engine, 1, SHAPE(N), true));
        CHECK(memcmp(first, pf_f32(c), N * sizeof *first) == 0);
        pf_tensor_release(&c);
        pf_seed(&engine, 43);
        CHECK_OK(pf_tensor_rand(&c, &engine, 1, SHAPE(N), true));
        CHECK(memcmp(first, pf_f32(c), N * sizeof *first) != 0);
        pf_tensor_release(&a);
        pf_tensor_release(&b);
        pf_tensor_release(&c);
        pf_runtime_close(&engine);
    }
    free(first);
}

/* ---- text ---- */

static void expect_text(const pf_tensor *t, const char *expected) {
    char *text;
    CHECK_OK(pf_tensor_show(&text, t));
    CHECK(strcmp(text, expected) == 0);
    if (strcmp(text, expected) != 0) fprintf(stderr, "[%s]\n", text);
    pf_text_free(text);
}

static void test_show(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *t = counted(&engine, 2, 3);
    expect_text(t, "tensor [2, 3] f32\n 0.0000 1.0000 2.0000\n 3.0000 4.0000 5.0000");
    pf_f32(t)[0] = NAN, pf_f32(t)[1] = -INFINITY, pf_f32(t)[2] = -12.5f;
    expect_text(t, "tensor [2, 3] f32\n      nan     -inf -12.5000\n   3.0000   4.0000   5.0000");
    pf_f32(t)[0] = -NAN, pf_f32(t)[1] = INFINITY, pf_f32(t)[2] = 1e-20f;
    expect_text(t, "tensor [2, 3] f32\n        nan        inf 1.0000e-20\n 3.0000e+00 4.0000e+00 "
                   "5.0000e+00");
    pf_tensor_release(&t);
    t = counted(&engine, 8, 9);
    pf_tensor *i;
    CHECK_OK(pf_tensor_empty(&i, &engine, PF_I32, 2, t->shape));
    CHECK_OK(pf_tensor_copy(i, t));
    expect_text(i, "tensor [8, 9] i32\n  0  1  2 ...  6  7  8\n  9 10 11 ... 15 16 17\n"
                   " 18 19 20 ... 24 25 26\n ...\n 45 46 47 ... 51 52 53\n"
                   " 54 55 56 ... 60 61 62\n 63 64 65 ... 69 70 71");
    pf_tensor_release(&i);
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_full(&t, &engine, PF_I32, 0, NULL, -3));
    expect_text(t, "tensor [] i32\n -3");
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_full(&t, &engine, PF_F32, 2, SHAPE(0, 3), 1));
    expect_text(t, "tensor [0, 3] f32");
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_full(&t, &engine, PF_I32, 3, SHAPE(2, 1, 2), 4));
    expect_text(t, "tensor [2, 1, 2] i32\n 4 4\n\n 4 4");
    pf_tensor_release(&t);
    /* the largest text there can be */
    CHECK_OK(pf_tensor_full(&t, &engine, PF_F32, 8, SHAPE(3, 3, 1, 1, 1, 1, 9, 9), -1e-30));
    char *text;
    CHECK_OK(pf_tensor_show(&text, t));
    CHECK(strlen(text) < 8000);
    int gaps = 0;
    for (char *at = text; (at = strstr(at, "\n ...\n")) != NULL; at += 5) gaps++;
    CHECK(gaps == 7); /* one between blocks, one in each of six */
    pf_text_free(text);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

/* ---- failures ---- */

/* A little of everything that allocates; releases what it made. */
static int scenario(pf_engine *e) {
    pf_tensor *t[6] = {NULL};
    pf_owner owner = {NULL};
    static const int order[] = {1, 0};
    int status = pf_tensor_full(&t[0], e, PF_F32, 2, SHAPE(20, 30), 1.5);
    if (status == PF_OK) status = pf_tensor_rand(&t[1], e, 1, SHAPE(40000), true);
    e->tape = (struct pf_tape *)&owner;
    if (status == PF_OK) status = pf_tensor_view(&t[2], t[0]);
    if (status == PF_OK) {
        t[2]->stride[0] = 1, t[2]->stride[1] = 20; /* other elements, same storage */
        status = pf_tensor_copy(t[2], t[0]);
    }
    if (status == PF_OK) status = pf_tensor_compact(&t[3], e, t[2]);
    if (status == PF_OK) status = pf_tensor_detach(&t[4], e, t[3]);
    if (status == PF_OK) status = pf_tensor_make_ordered(&t[5], e, PF_I32, 2, t[0]->shape, order);
    if (status == PF_OK) status = pf_tensor_copy(t[5], t[4]);
    e->tape = NULL;
    pf_owner_close(&owner);
    for (int i = 0; i < PF_COUNT(t); i++) pf_tensor_release(&t[i]);
    return status;
}

/* The n-th allocation fails, once or for good, for every n: success (a retry may save it) or
 * PF_ENOMEM, no leak, and an engine that works afterwards. */
static void test_failures(void) {
    for (int on = 0; on < 2; on++) {
        bool clean = false;
        int refused = 0;
        for (long n = 1; n < 200 && !clean; n++) {
            host_memory host = {.fail_at = n, .fail_on = on};
            pf_options options = host_options(&host);
            pf_engine engine;
            options.threads = 2;
            int status = pf_runtime_open(&engine, &options);
            if (status == PF_OK) {
                size_t idle = pf_heap_live(engine.heap);
                status = scenario(&engine);
                clean = host.calls < n;
                CHECK(pf_heap_live(engine.heap) == idle + engine.scratch_bytes * 2);
                host.fail_at = 0;
                CHECK_OK(scenario(&engine));
                pf_runtime_close(&engine);
            }
            CHECK(status == PF_OK || (status == PF_ENOMEM && pf_last_error()[0]));
            refused += status != PF_OK;
            CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
        }
        CHECK(clean);
        CHECK(on == 0 || refused > 10);
    }
}

/* Every budget from too small to enough. */
static void test_budgets(void) {
    int good = 0, refused = 0;
    for (size_t memory = 1000; memory < 400000; memory += 2000) {
        host_memory host = {0};
        pf_options options = host_options(&host);
        pf_engine engine;
        options.threads = 2;
        options.memory = memory;
        CHECK_OK(pf_runtime_open(&engine, &options));
        size_t own = host.bytes;
        int status = scenario(&engine);
        CHECK(status == PF_OK || status == PF_ENOMEM);
        CHECK(host.bytes - own <= memory && pf_heap_peak(engine.heap) <= memory);
        good += status == PF_OK, refused += status != PF_OK;
        pf_runtime_close(&engine);
        CHECK(host.blocks == 0 && host.wrong == 0);
    }
    CHECK(good > 0 && refused > 0);
}

/* A pointer that was copied: a second release does nothing, a use says so, and two tensors that are
 * made afterwards lie in two places. */
static void test_released(void) {
    host_memory host = {0};
    pf_engine engine = engine_of(1, &host);
    pf_tensor *t = counted(&engine, 3, 4), *copy = t, *stale = t, *a, *b;
    pf_tensor_release(&t);
    size_t live = pf_heap_live(engine.heap);
#ifndef __SANITIZE_ADDRESS__ /* which stops at any use */
    CHECK(!pf_tensor_alive(stale) && !pf_tensor_data(stale));
    CHECK_FAILS(PF_ESTATE, pf_tensor_fill(stale, 1));
#endif
    pf_tensor_release(&copy), pf_tensor_release(&stale);
    CHECK(!copy && !stale && pf_heap_live(engine.heap) == live);
    a = counted(&engine, 3, 4), b = counted(&engine, 3, 4);
    CHECK(a != b && pf_f32(a) != pf_f32(b));
    pf_tensor_release(&a), pf_tensor_release(&b);
    pf_runtime_close(&engine);
    CHECK(host.blocks == 0 && host.wrong == 0);

    pf_options options = host_options(&host);
    options.no_cache = true;
    CHECK_OK(pf_runtime_open(&engine, &options));
    long blocks = host.blocks;
    t = counted(&engine, 3, 4);
    CHECK(host.blocks > blocks);
    pf_tensor_release(&t);
    CHECK(host.blocks == blocks);
    pf_runtime_close(&engine);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

int main(void) {
    test_shapes();
    test_life();
    test_released();
    test_owner();
    test_ordered();
    test_iter();
    test_making();
    test_random();
    test_show();
    test_failures();
    test_budgets();
    return CHECK_REPORT();
}
