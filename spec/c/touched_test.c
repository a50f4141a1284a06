/*
 * touched_test.c - tables that are looked up: a leaf knows which rows of its gradient can differ
 * from zero, as long as nothing else writes to it, and an optimizer moves the rows that do.
 */
#include "nn_support.h"
#include "scarce.h"

enum { ROWS = 200, WIDTH = 3, IDS = 7 };

static pf_tensor *table_of(pf_engine *e) {
    int64_t shape[2] = {ROWS, WIDTH};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 2, shape, 1));
    CHECK_OK(pf_tensor_require_grad(t, true));
    return t;
}

static pf_tensor *ids_of(pf_engine *e, const int32_t *id) {
    int64_t n = IDS;
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_I32, 1, &n, 0));
    CHECK_OK(pf_tensor_write(t, id, IDS * sizeof *id));
    return t;
}

/* Adds `seed` to the gradient of every row that is named, as often as it is; whole: and to every
 * row once more, by an op that reads the table as it is. */
static void look_up(pf_engine *e, pf_tensor *table, const int32_t *id, float seed, bool whole) {
    pf_tape *tape = NULL;
    pf_tensor *ids = ids_of(e, id), *rows = NULL, *y[2] = {NULL, NULL}, *to[2] = {NULL, NULL};
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_embedding(&rows, e, table, ids));
    y[0] = rows;
    if (whole) CHECK_OK(pf_affine(&y[1], e, table, 1, 0));
    for (int i = 0; i < 1 + whole; i++)
        CHECK_OK(pf_tensor_full(&to[i], e, PF_F32, 2, y[i]->shape, seed));
    const pf_tensor *seeds[2] = {to[0], to[1]};
    CHECK_OK(pf_tape_backward_all(tape, y, seeds, 1 + whole));
    for (int i = 0; i < 2; i++) pf_tensor_release(&y[i]), pf_tensor_release(&to[i]);
    pf_tensor_release(&ids);
    pf_tape_close(&tape);
}

/* Which rows the leaf knows, as "3 64 199"; "?": it does not. */
static const char *known(const pf_tensor *table) {
    static char text[256];
    const pf_tensor *rows = table->grad_rows;
    size_t at = 0;
    if (!rows) return "?";
    text[0] = 0;
    for (int64_t i = 0; i < pf_tensor_numel(rows); i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%d", i ? " " : "", pf_i32(rows)[i]);
    return text;
}

/* The gradient is `seed` times how often its row is named in the n lists, plus `more`. */
static bool grad_is(const pf_tensor *table, const int32_t *const *id, int n, float seed,
                    float more) {
    float want[ROWS];
    for (int i = 0; i < ROWS; i++) want[i] = more;
    for (int l = 0; l < n; l++)
        for (int i = 0; i < IDS; i++) want[id[l][i]] += seed;
    for (int i = 0; i < ROWS * WIDTH; i++)
        if (pf_f32(table->grad)[i] != want[i / WIDTH]) return false;
    return true;
}

static const int32_t some[IDS] = {199, 3, 64, 3, 3, 199, 64}, others[IDS] = {0, 3, 63, 0, 0, 0, 0};

static void test_known(pf_engine *e) {
    pf_tensor *t = table_of(e), *held = NULL;
    const int32_t *both[2] = {some, others};
    look_up(e, t, some, 2, false);
    CHECK(strcmp(known(t), "3 64 199") == 0 && grad_is(t, both, 1, 2, 0));
    look_up(e, t, others, 2, false); /* adds up */
    CHECK(strcmp(known(t), "0 3 63 64 199") == 0 && grad_is(t, both, 2, 2, 0));
    pf_tensor_clear_grad(t);
    pf_tensor *place = t->grad;
    look_up(e, t, others, 5, false); /* begins anew, in place */
    CHECK(strcmp(known(t), "0 3 63") == 0 && grad_is(t, both + 1, 1, 5, 0) && t->grad == place);
    /* whoever has seen it may write to it */
    CHECK_OK(pf_tensor_grad(&held, e, t));
    CHECK(strcmp(known(t), "?") == 0);
    look_up(e, t, some, 5, false);
    CHECK(strcmp(known(t), "?") == 0 && grad_is(t, both, 2, 5, 0) && t->grad != place);
    pf_tensor_clear_grad(t);
    look_up(e, t, some, 5, false);
    CHECK(strcmp(known(t), "3 64 199") == 0 && grad_is(t, both, 1, 5, 0));
    pf_tensor_release(&held);
    CHECK_OK(pf_tensor_grad(&held, e, t)); /* held across the end of a step, and written to */
    pf_tensor_clear_grad(t);
    CHECK_OK(pf_tensor_fill(held, 9));
    pf_tensor_release(&held);
    look_up(e, t, some, 1, false);
    CHECK(grad_is(t, both, 1, 1, 0));
    pf_tensor_clear_grad(t);
    look_up(e, t, some, 4, true); /* an op that writes all rows */
    CHECK(strcmp(known(t), "?") == 0 && grad_is(t, both, 1, 4, 4));
    pf_tensor_clear_grad(t);
    look_up(e, t, some, 1, false);
    CHECK(strcmp(known(t), "3 64 199") == 0 && grad_is(t, both, 1, 1, 0));
    CHECK_OK(pf_tensor_require_grad(t, false));
    CHECK(!t->grad && !t->grad_rows);
    pf_tensor_release(&t);
}

/* Where no memory is left at any point of it, the next gradient is right all the same. */
static void test_scarce(void) {
    const int32_t *both[2] = {some, others};
    for (int64_t at = 0, done = 0; !done; at++) {
        scarce s = {0};
        pf_engine *e = scarce_engine(&s);
        pf_tensor *t = table_of(e), *ids = ids_of(e, others), *rows = NULL, *loss = NULL;
        pf_tape *tape = NULL;
        look_up(e, t, some, 3, false);
        if (at % 2) pf_tensor_clear_grad(t);
        CHECK_OK(pf_tape_open(&tape, e));
        CHECK_OK(pf_embedding(&rows, e, t, ids));
        CHECK_OK(pf_apply(e, &pf_op_sum, &rows, 1, NULL, &loss));
        scarce_begins(&s, at / 2);
        done = pf_tape_backward(tape, loss, NULL) >= 0;
        scarce_ends(&s);
        pf_tensor_release(&loss), pf_tensor_release(&rows), pf_tensor_release(&ids);
        pf_tape_close(&tape);
        pf_tensor_clear_grad(t);
        look_up(e, t, others, 1, false);
        CHECK(grad_is(t, both + 1, 1, 1, 0));
        pf_tensor_release(&t);
        pf_engine_close(&e);
        CHECK(s.live == 0 && at < 1000);
    }
}

/* ---- an optimizer ---- */

static const char *const layer = "{'dim': 4, 'buckets': 50, 'width': 2, 'longest': 3}";

/* A step of the n-grams layer on ids (2, 9). */
static void train(pf_engine *e, pf_module *m, pf_optimizer *o, uint32_t salt, bool look) {
    pf_tape *tape = NULL;
    pf_tensor *ids = some_ids(e, 2, 9, salt), *y = NULL, *loss = NULL, *grad = NULL;
    double norm;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_forward(&y, e, m, ids, NULL));
    CHECK_OK(pf_affine(&loss, e, y, 3, 1));
    pf_replace(&y, loss), loss = NULL;
    CHECK_OK(pf_apply(e, &pf_op_square, &y, 1, NULL, &loss));
    pf_replace(&y, loss), loss = NULL;
    CHECK_OK(pf_apply(e, &pf_op_sum, &y, 1, NULL, &loss));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&y), pf_tensor_release(&loss), pf_tensor_release(&ids);
    pf_tape_close(&tape);
    if (look) CHECK_OK(pf_tensor_grad(&grad, e, pf_module_tensor(m, "weight")));
    pf_tensor_release(&grad);
    CHECK_OK(pf_optimizer_step(o, e, 0.01, 0.5, &norm));
    CHECK(norm > 0.5);
}

/* What weights and moments are after steps, `as` says how: all rows, the gradient looked at, saved
 * and restored after step 2, by one that has no word of tables. */
typedef enum { PLAIN, ALL, LOOKED, SAVED, FORMER } way;

static pf_optimizer *restored(pf_engine *e, pf_module *m, pf_optimizer *o, bool former) {
    pf_optimizer *fresh = NULL;
    pf_named *list;
    pf_config *config = NULL;
    int n;
    CHECK_OK(pf_optimizer_tensors(o, &list, &n));
    CHECK_OK(pf_optimizer_config(o, &config));
    CHECK(!former == !!pf_config_get(config, "tables"));
    CHECK_OK(pf_optimizer_new(&fresh, e, m, NULL));
    CHECK_OK(restore_from(fresh, list, n, config));
    pf_heap_free(e->heap, list, (size_t)n * sizeof *list);
    pf_config_free(config);
    pf_optimizer_close(&o);
    return fresh;
}

static pf_optimizer *forget_tables(pf_engine *e, pf_optimizer *o) {
    pf_named *list;
    pf_config *config = NULL;
    int n;
    CHECK_OK(pf_optimizer_tensors(o, &list, &n));
    CHECK_OK(pf_optimizer_config(o, &config));
    CHECK(pf_config_get(config, "tables"));
    pf_config_remove(config, "tables");
    CHECK_OK(restore_from(o, list, n, config));
    pf_heap_free(e->heap, list, (size_t)n * sizeof *list);
    pf_config_free(config);
    return o;
}

/* The numbers of the table after 4 steps; whoever calls frees them. */
static float *trained(int threads, way as) {
    pf_engine *e = engine_of(threads, 5);
    pf_module *m = layer_of(e, "ngrams", layer);
    pf_config *all = options_of("{'groups': [{'match': 'weight', 'rows': 'all'}]}");
    pf_optimizer *o = NULL;
    pf_tensor *table = pf_module_tensor(m, "weight");
    CHECK_OK(pf_tensor_fill(table, 0.5));
    CHECK_OK(pf_optimizer_new(&o, e, m, as == ALL ? all : NULL));
    if (as == FORMER) o = forget_tables(e, o);
    for (uint32_t i = 1; i <= 4; i++) {
        train(e, m, o, i, as == LOOKED);
        if (i == 2 && (as == SAVED || as == FORMER)) o = restored(e, m, o, as == FORMER);
    }
    float *result = numbers(table);
    pf_config_free(all);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_engine_close(&e);
    return result;
}

static int moved(const float *table) {
    int n = 0;
    for (int r = 0; r < 100; r++) n += table[2 * r] != 0.5f || table[2 * r + 1] != 0.5f;
    return n;
}

static void test_optimizer(void) {
    float *plain = trained(1, PLAIN), *all = trained(1, ALL);
    size_t bytes = 200 * sizeof(float);
    CHECK(moved(plain) > 10 && moved(plain) < 90);
    CHECK(moved(all) == 100 && memcmp(plain, all, bytes) != 0);
    static const way ways[] = {PLAIN, LOOKED, SAVED, ALL, FORMER};
    for (int i = 0; i < PF_COUNT(ways); i++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            float *other = trained(threads, ways[i]);
            CHECK(memcmp(other, i < 3 ? plain : all, bytes) == 0);
            free(other);
        }
    }
    free(plain), free(all);
}

/* A gradient that is not finite, in a row that is touched. */
static void test_not_finite(pf_engine *e) {
    pf_module *m = layer_of(e, "ngrams", layer);
    pf_tensor *table = pf_module_tensor(m, "weight");
    pf_optimizer *o = NULL;
    CHECK_OK(pf_tensor_fill(table, 0.5));
    CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
    train(e, m, o, 1, false);
    CHECK(table->grad_rows);
    float last = pf_f32(table)[199];
    table->grad_stale = false;
    int64_t row = pf_i32(table->grad_rows)[0];
    pf_f32(table->grad)[row * 2] = NAN;
    CHECK_FAILS(PF_ENUMERIC, pf_optimizer_step(o, e, 0.1, 0, NULL));
    CHECK(strstr(pf_last_error(), "'weight'") && pf_f32(table)[199] == last);
    pf_optimizer_close(&o);
    pf_module_release(&m);
}

static void test_refused(pf_engine *e) {
    static const char *const wrong[][2] = {
        {"{'groups': [{'match': 'weight', 'rows': 'some'}]}",
         "'rows' must be one of touched, all, got 'some'"},
        {"{'type': 'muon', 'orthogonal': 'all', 'groups': [{'match': 'weight', 'rows': "
         "'touched'}]}",
         "muon: rows = 'touched' for 'weight' [100, 2], which the rule takes whole"},
        {"{'rows': 'all'}", "unknown option 'rows'"},
    };
    pf_module *m = layer_of(e, "ngrams", layer);
    for (int i = 0; i < PF_COUNT(wrong); i++) {
        pf_optimizer *o = NULL;
        pf_config *c = options_of(wrong[i][0]);
        CHECK_FAILS(PF_EINVAL, pf_optimizer_new(&o, e, m, c));
        if (!strstr(pf_last_error(), wrong[i][1])) fprintf(stderr, "  %s\n", pf_last_error());
        CHECK(strstr(pf_last_error(), wrong[i][1]));
        pf_config_free(c);
    }
    pf_module_release(&m);
}

int main(void) {
    pf_engine *e = engine_of(2, 3);
    test_known(e);
    test_scarce();
    test_optimizer();
    test_not_finite(e);
    test_refused(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
