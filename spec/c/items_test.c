/*
 * items_test.c - sets of items as a C host sees them: an add or a remove that runs out of
 * memory or is cancelled leaves the set as it was, nothing leaks, and the levels of size hold
 * what they promise.
 */
#include "check.h"
#include "host.h"
#include "items.h"

enum { D = 4, DV = 3, N = 200 };

static pf_tensor *normals(pf_engine *e, int64_t rows, int64_t width, double scale) {
    int64_t shape[2] = {rows, width};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, e, 2, shape, true));
    for (int64_t i = 0; i < rows * width; i++) pf_f32(t)[i] *= (float)scale;
    return t;
}

static pf_items *open_set(pf_engine *e, const char *name, int64_t features) {
    pf_projection_options p = {.size = sizeof p, .features = features, .head_dim = D, .seed = 3};
    pf_config *options = pf_config_new(PF_MAP);
    pf_kernel *kernel = NULL;
    pf_tensor *W = NULL;
    pf_items *items = NULL;
    CHECK_OK(pf_config_set_string(options, "name", name));
    if (features > 0) CHECK_OK(pf_projection_draw(&W, e, &p));
    CHECK_OK(pf_kernel_open(&kernel, e, options, W));
    pf_items_options o = {.size = sizeof o, .kernel = kernel, .dim = D, .value_dim = DV};
    CHECK_OK(pf_items_open(&items, e, &o));
    pf_tensor_release(&W);
    pf_kernel_release(&kernel);
    pf_config_free(options);
    return items;
}

/* log-partition and expectation of some queries, to compare. */
static void ask(pf_engine *e, pf_items *items, const pf_tensor *queries, float *out) {
    pf_tensor *z = NULL, *mean = NULL;
    CHECK_OK(pf_items_log_partition(&z, items, e, queries));
    CHECK_OK(pf_items_expectation(&mean, items, e, queries));
    CHECK_OK(pf_tensor_read(z, out, 5 * sizeof *out));
    CHECK_OK(pf_tensor_read(mean, out + 5, 5 * DV * sizeof *out));
    pf_tensor_release(&z);
    pf_tensor_release(&mean);
}

/* Every allocation of an add and a remove fails once. */
static void test_memory(void) {
    host_memory host = {0};
    pf_options options = host_options(&host);
    options.threads = 2;
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, &options));
    pf_tensor *k = normals(e, N, D, 1), *v = normals(e, N, DV, 1), *q = normals(e, 5, D, 1);
    pf_tensor *far = normals(e, N, D, 100);
    float before[5 * (1 + DV)], after[5 * (1 + DV)];
    int failures = 0;
    for (int at = 1; at < 60; at++) {
        pf_items *items = open_set(e, "softmax", 16);
        CHECK_OK(pf_items_add(items, e, k, v));
        ask(e, items, q, before);
        pf_heap_trim(e->heap); /* what lies in the cache would not be asked for */
        host.calls = 0, host.fail_at = at, host.fail_on = 1;
        int added = pf_items_add(items, e, far, v);
        int removed = added < 0 ? added : pf_items_remove(items, e, far, v);
        host.fail_at = 0;
        CHECK(pf_items_count(items) == (added >= 0 && removed < 0 ? 2 * N : N));
        if (added < 0) {
            CHECK(added == PF_ENOMEM);
            ask(e, items, q, after);
            CHECK(memcmp(before, after, sizeof before) == 0);
            failures++;
        }
        pf_items_close(&items);
        CHECK(items == NULL);
    }
    CHECK(failures > 1);
    pf_tensor_release(&k), pf_tensor_release(&v), pf_tensor_release(&q), pf_tensor_release(&far);
    pf_engine_close(&e);
    CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
}

static void test_cancel(void) {
    atomic_int flag = 0;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.cancel = &flag;
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, &options));
    pf_tensor *k = normals(e, N, D, 1), *v = normals(e, N, DV, 1), *q = normals(e, 5, D, 1);
    float before[5 * (1 + DV)], after[5 * (1 + DV)];
    pf_items *items = open_set(e, "relu", 0);
    CHECK_OK(pf_items_add(items, e, k, v));
    ask(e, items, q, before);
    flag = 1;
    CHECK_FAILS(PF_ECANCEL, pf_items_add(items, e, k, v));
    CHECK_FAILS(PF_ECANCEL, pf_items_remove(items, e, k, v));
    flag = 0;
    CHECK(pf_items_count(items) == N);
    ask(e, items, q, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    pf_items_close(&items);
    pf_items_close(&items); /* takes NULL */
    pf_tensor_release(&k), pf_tensor_release(&v), pf_tensor_release(&q);
    pf_engine_close(&e);
}

/* Levels of single items with log-shifts l; each adds 1 of its own size to z. */
static void make(pf_levels *v, pf_heap *heap, const float *l, int64_t n) {
    pf_levels_open(v, heap, 1, 0);
    CHECK_OK(pf_levels_make(v, l, n));
    for (int64_t i = 0; i < n; i++) {
        if (l[i] == -INFINITY) continue;
        pf_level *level = &v->list[pf_levels_find(v, pf_level_number((double)l[i]))];
        level->sum[0] += exp((double)l[i] - (double)PF_ITEMS_WIDTH * (double)level->number);
    }
}

/* log of all sums together. */
static double total(const pf_levels *v) {
    double sum = 0, top = v->n > 0 ? (double)v->list[v->n - 1].number : 0;
    for (int64_t i = 0; i < v->n; i++) {
        sum += v->list[i].sum[0] * exp((double)PF_ITEMS_WIDTH * ((double)v->list[i].number - top));
    }
    return top * PF_ITEMS_WIDTH + log(sum);
}

/* Items of 200 sizes, more than there are levels, in three parts; the large ones leave. */
static void test_levels(void) {
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, NULL));
    float l[200];
    for (int i = 0; i < 200; i++) l[i] = (float)((i * 37) % 200) * 20 - 2000;
    l[7] = -INFINITY;
    pf_levels all, part;
    pf_levels_open(&all, e->heap, 1, 0);
    for (int first = 0; first < 200; first += 50) {
        make(&part, e->heap, l + first, 50);
        pf_levels_join(&all, &part);
        pf_levels_close(&part);
    }
    CHECK(pf_levels_count(&all) == 200 && all.n <= PF_ITEMS_LEVELS && all.nothing == 1);
    CHECK(fabs(total(&all) - 1980) < 1e-8); /* the next one is e^20 smaller */
    for (int64_t i = 1; i < all.n; i++) CHECK(all.list[i - 1].number < all.list[i].number);
    /* In an order of its own, down to what all the small ones share. */
    for (int i = 0; i < 200; i++) {
        if (i == 7 || l[i] < -1000) continue;
        make(&part, e->heap, l + i, 1);
        CHECK_OK(pf_levels_leave(&all, &part));
        /* Of a size that is shared, one item can't be told from another. */
        if (l[i] > 1000) CHECK_FAILS(PF_EINVAL, pf_levels_leave(&all, &part));
        pf_levels_close(&part);
    }
    int small = 0;
    for (int i = 0; i < 200; i++) small += i == 7 || l[i] < -1000;
    CHECK(pf_levels_count(&all) == small);
    for (int i = 0; i < 200; i++) {
        if (i != 7 && l[i] >= -1000) continue;
        make(&part, e->heap, l + i, 1);
        CHECK_OK(pf_levels_leave(&all, &part));
        pf_levels_close(&part);
    }
    CHECK(pf_levels_count(&all) == 0 && all.n == 0 && all.lowest == INT64_MIN);
    pf_levels_close(&all);
    pf_engine_close(&e);
}

/* What stays is as exact as if the e^30 times larger had never been there. */
static void test_subtraction(void) {
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, NULL));
    float small[3] = {-30.5f, -31, -34}, large[40];
    for (int i = 0; i < 40; i++) large[i] = -(float)i * 0.7f;
    pf_levels all, part, alone;
    make(&all, e->heap, large, 40);
    make(&part, e->heap, small, 3);
    pf_levels_join(&all, &part);
    make(&part, e->heap, large, 40);
    CHECK_OK(pf_levels_leave(&all, &part));
    make(&alone, e->heap, small, 3);
    CHECK(fabs(total(&all) - total(&alone)) < 1e-9);
    pf_levels_close(&all), pf_levels_close(&part), pf_levels_close(&alone);
    pf_engine_close(&e);
}

int main(void) {
    test_memory();
    test_cancel();
    test_levels();
    test_subtraction();
    return CHECK_REPORT();
}
