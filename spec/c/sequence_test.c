/*
 * sequence_test.c - a row in segments on ranks of one process: loss and gradients of the whole row,
 * on every rank's part; each segment's own gradient in the same bits on any number of ranks; and
 * the chain's that of the sliced row. Cuts lie inside documents and at them, lengths are multiples
 * of nothing.
 */
#include "nn_support.h"
#include "ranks.h"
#include "sequence.h"

enum { BATCH = 2, LENGTH = 101, MOST = 6 };

/* ---- what is trained ---- */

typedef struct {
    const char *options;
    int segments;
    bool chain, mask;
    int documents; /* 1: cuts inside and at them; 2: one that goes on through all segments */
} setting;

static pf_module *model_of(pf_engine *e, const char *options) {
    char text[1024];
    snprintf(text, sizeof text,
             "{'vocab': 11, 'dim': 16, 'layers': 2, 'heads': 2, 'length': 128%s%s}",
             options[0] ? ", " : "", options);
    pf_module *m = layer_of(e, "performer", text);
    fill_memory(m);
    return m;
}

static pf_tensor *flags(pf_engine *e) {
    const int64_t shape[2] = {BATCH, LENGTH};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_I32, 2, shape, 1));
    return t;
}

/* 101 positions in 4 segments are cut at 25, 50 and 75. */
static pf_tensor *documents_of(pf_engine *e, int which) {
    static const int cuts[2][5] = {{10, 25, 60, 62, LENGTH}, {5, 50, 51, 75, LENGTH}};
    pf_tensor *t = flags(e);
    for (int b = 0; b < BATCH; b++)
        for (int i = 0, k = 0; i < LENGTH; i++) {
            if (i == cuts[b][k]) k++;
            pf_i32(t)[b * LENGTH + i] = which == 2 ? (b == 0 ? 0 : i > 90) : k;
        }
    return t;
}

/* All of the first quarter of one item is not there, and some here and there. */
static pf_tensor *mask_of(pf_engine *e) {
    pf_tensor *t = flags(e);
    for (int i = 0; i < BATCH * LENGTH; i++)
        if (i % 7 == 3 || (i >= LENGTH && i < LENGTH + 25)) pf_i32(t)[i] = 0;
    return t;
}

typedef struct {
    pf_module *m;
    pf_tensor *x, *target;
    pf_pass pass;
} task;

static task task_of(pf_engine *e, const setting *s) {
    task t = {model_of(e, s->options),
              some_ids(e, BATCH, LENGTH, 1),
              some_ids(e, BATCH, LENGTH, 2),
              {.size = sizeof(pf_pass), .training = true, .step = 3}};
    for (int i = 0; i < BATCH * LENGTH; i += 5) pf_i32(t.target)[i] = -1;
    if (s->documents) t.pass.documents = documents_of(e, s->documents);
    if (s->mask) t.pass.mask = mask_of(e);
    return t;
}

static void task_end(task *t) {
    pf_tensor_release(&t->x), pf_tensor_release(&t->target);
    pf_tensor_release(&t->pass.documents), pf_tensor_release(&t->pass.mask);
    pf_module_release(&t->m);
}

/* ---- gradients, one behind the other ---- */

typedef struct {
    float *x;
    int64_t n, table, rows; /* where the learned positions are, and their width */
} gradients;

/* The model's, which are gone from it then. */
static gradients gradients_of(pf_module *m) {
    gradients g = {.table = -1};
    const char *name;
    pf_tensor *t;
    for (int twice = 0; twice < 2; twice++) {
        g.n = 0;
        for (int i = 0; i < pf_module_tensor_count(m); i++) {
            CHECK_OK(pf_module_tensor_at(m, i, &name, &t, NULL));
            int64_t n = pf_tensor_numel(t);
            if (strstr(name, "positions")) g.table = g.n, g.rows = t->shape[1];
            if (g.x && t->grad && !t->grad_stale)
                memcpy(g.x + g.n, pf_f32(t->grad), (size_t)n * sizeof(float));
            if (g.x) pf_tensor_clear_grad(t);
            g.n += n;
        }
        if (!g.x) g.x = calloc((size_t)g.n, sizeof(float));
    }
    return g;
}

static void sum_into(gradients *a, const gradients *b) {
    if (!a->x) {
        *a = *b;
        a->x = calloc((size_t)a->n, sizeof(float));
    }
    for (int64_t i = 0; i < a->n; i++) a->x[i] += b->x[i];
}

/* The largest difference, of the largest number of that tensor. */
static double apart(const pf_module *m, const gradients *a, const gradients *b) {
    double most = 0;
    int64_t at = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
        most = fmax(most, distance(a->x + at, b->x + at, pf_tensor_numel(t)));
        at += pf_tensor_numel(t);
    }
    return most;
}

/* ---- whole, sliced, in segments ---- */

static double whole(const setting *s, gradients *g) {
    pf_engine *e = engine_of(1, 21);
    task t = task_of(e, s);
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL;
    double value = 0;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_loss(&loss, e, t.m, t.x, t.target, &t.pass));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    CHECK_OK(pf_tensor_get(loss, 0, &value));
    pf_tensor_release(&loss);
    pf_tape_close(&tape);
    *g = gradients_of(t.m);
    task_end(&t);
    pf_engine_close(&e);
    return value;
}

typedef struct {
    setting s;
    gradients leaf[MOST]; /* of each segment */
    double loss[RANKS_MOST];
    pf_module *m; /* of the rank that runs */
} work;

typedef struct {
    work *w;
    pf_module *m;
} folding;

static int fold(void *context, pf_engine *e, int segment) {
    folding *f = context;
    (void)e;
    f->w->leaf[segment] = gradients_of(f->m);
    return PF_OK;
}

static int run_rank(pf_engine *e, int rank, void *context) {
    work *w = context;
    task t = task_of(e, &w->s);
    folding f = {w, t.m};
    const pf_segmenting how = {sizeof how, w->s.segments, w->s.chain, fold, &f, PF_OK};
    int status = pf_module_backward_segments(&w->loss[rank], e, t.m, t.x, t.target, &t.pass, &how);
    task_end(&t);
    return status;
}

static work run_ranks(setting s, int ranks, double late) {
    ranks_world world = {.ranks = ranks, .whole = true, .late = late};
    work w = {.s = s};
    int good = 0;
    ranks_run(&world, run_rank, &w);
    for (int r = 0; r < ranks; r++) {
        if (world.status[r] < 0) fprintf(stderr, "  rank %d of %d: %s\n", r, ranks, world.text[r]);
        good += world.status[r] == PF_OK && memcmp(&w.loss[r], &w.loss[0], sizeof(double)) == 0;
    }
    if (good != ranks) fprintf(stderr, "  %s\n", s.options);
    CHECK(good == ranks);
    return w;
}

static void work_end(work *w) {
    for (int s = 0; s < MOST; s++) free(w->leaf[s].x);
}

/* The same bits in every segment. */
static bool same_leaves(const work *a, const work *b) {
    int same = a->loss[0] == b->loss[0];
    for (int s = 0; s < a->s.segments; s++) {
        const gradients *x = &a->leaf[s], *y = &b->leaf[s];
        same += x->x && y->x && memcmp(x->x, y->x, (size_t)x->n * sizeof(float)) == 0;
    }
    return same == 1 + a->s.segments;
}

/* Rows of the table of positions are of one segment each: what came to it, against the whole. */
static double parts_apart(const work *w, const gradients *g) {
    double most = 0;
    for (int s = 0; g->table >= 0 && s < w->s.segments; s++) {
        int64_t first = s * LENGTH / w->s.segments, end = (s + 1) * LENGTH / w->s.segments;
        int64_t at = g->table + first * g->rows;
        most = fmax(most, distance(w->leaf[s].x + at, g->x + at, (end - first) * g->rows));
    }
    return most;
}

static void check_against(const work *w, double loss, const gradients *g) {
    gradients sum = {NULL};
    pf_engine *e = engine_of(1, 21);
    pf_module *m = model_of(e, w->s.options);
    for (int s = 0; s < w->s.segments; s++)
        if (w->leaf[s].x) sum_into(&sum, &w->leaf[s]);
    double all = sum.x ? apart(m, &sum, g) : INFINITY;
    double parts = w->s.documents ? 0 : parts_apart(w, g);
    bool good = all < 1e-5 && parts < 1e-5 && fabs(w->loss[0] - loss) < 1e-5;
    if (!good)
        fprintf(stderr, "  %s%s: gradients %g, parts %g, losses %.9g %.9g\n", w->s.options,
                w->s.chain ? " (chain)" : "", all, parts, w->loss[0], loss);
    CHECK(good);
    free(sum.x);
    pf_module_release(&m);
    pf_engine_close(&e);
}

#define CAUSAL "'causal': true, "
static const char *const models[] = {
    CAUSAL "'kernel': {'name': 'softmax', 'features': 24}, 'positions': 'learned'",
    CAUSAL "'kernel': {'name': 'relu'}, 'positions': 'learned', 'conv': 4",
    CAUSAL "'kernel': {'name': 'relu'}, 'positions': 'rotary', 'decay': 0.5, 'kv_heads': 1",
    CAUSAL "'kernel': {'name': 'softmax', 'features': 24}, 'positions': 'learned', "
           "'reversible': true, 'conv': 3",
    CAUSAL "'kernel': {'name': 'softmax', 'features': 24}, 'positions': 'sinusoidal', 'recompute': "
           "true, 'conv': 3, "
           "'ngrams': {'longest': 3, 'buckets': 64}, 'tied': false",
    CAUSAL "'attention': 'identity', 'positions': 'learned', 'conv': 2",
};

/* ---- the tests ---- */

/* Fewer ranks than segments, which take them one after the other, and as many. */
static void check_model(setting s) {
    gradients g;
    double loss = whole(&s, &g);
    work one = run_ranks(s, 1, 0);
    check_against(&one, loss, &g);
    for (int ranks = 2; ranks <= s.segments; ranks++) {
        work w = run_ranks(s, ranks, ranks == 3 ? 0.001 : 0);
        bool same = same_leaves(&w, &one);
        if (!same) fprintf(stderr, "  other bits on %d ranks: %s\n", ranks, s.options);
        CHECK(same);
        work_end(&w);
    }
    work_end(&one);
    free(g.x);
}

static void test_scan(void) {
    for (int i = 0; i < PF_COUNT(models); i++) check_model((setting){models[i], 4, .mask = i == 0});
    check_model((setting){models[0], 3, .documents = 1});
    check_model((setting){models[2], 4, .documents = 1, .mask = true});
    check_model((setting){models[3], 4, .documents = 2});
    check_model((setting){models[4], 5, .documents = 1});
    check_model((setting){models[1], 6, .mask = false});
}

/* Masks of dropout are of the segment, whoever has it. */
static void test_dropout(void) {
    for (int chain = 0; chain < 2; chain++) {
        setting s = {CAUSAL
                     "'kernel': {'name': 'relu'}, 'dropout': 0.2, 'recompute': true, 'conv': 3",
                     4, .chain = chain, .documents = 1};
        work one = run_ranks(s, 1, 0), two = run_ranks(s, 2, 0), all = run_ranks(s, 4, 0);
        CHECK(same_leaves(&two, &one) && same_leaves(&all, &one));
        const gradients *a = &one.leaf[0], *b = &one.leaf[1];
        CHECK(a->x && b->x && memcmp(a->x, b->x, (size_t)a->n * sizeof(float)) != 0);
        work_end(&one), work_end(&two), work_end(&all);
    }
}

static void test_chain(void) {
    for (int i = 0; i < PF_COUNT(models); i++)
        check_model((setting){models[i], 3, .chain = true, .mask = i == 2, .documents = i % 3});
}

/* One after the other onto one gradient, as slices do. */
static void test_chain_is_sliced(void) {
    for (int i = 0; i < PF_COUNT(models); i++) {
        setting s = {models[i], 4, .chain = true, .mask = i == 1, .documents = (i + 1) % 3};
        pf_engine *e = engine_of(1, 21);
        task t = task_of(e, &s);
        const pf_slicing slicing = {sizeof slicing, s.segments, 0, 0};
        const pf_segmenting how = {sizeof how, s.segments, true, NULL, NULL, PF_OK};
        double loss[2];
        CHECK_OK(pf_module_backward_sliced(&loss[0], e, t.m, t.x, t.target, &t.pass, &slicing));
        gradients a = gradients_of(t.m);
        CHECK_OK(pf_module_backward_segments(&loss[1], e, t.m, t.x, t.target, &t.pass, &how));
        gradients b = gradients_of(t.m);
        bool same = memcmp(a.x, b.x, (size_t)a.n * sizeof(float)) == 0;
        if (!same)
            fprintf(stderr, "  chain is not sliced: %s, %g\n", s.options, apart(t.m, &a, &b));
        CHECK(same && fabs(loss[0] - loss[1]) < 1e-12);
        free(a.x), free(b.x);
        task_end(&t);
        pf_engine_close(&e);
    }
}

/* An engine without ranks has the sum of what its segments give. */
static void test_alone(void) {
    for (int i = 0; i < PF_COUNT(models); i++) {
        setting s = {models[i], 5, .chain = i == 3, .documents = i % 3};
        pf_engine *e = engine_of(2, 21);
        task t = task_of(e, &s);
        const pf_segmenting how = {sizeof how, s.segments, s.chain, NULL, NULL, PF_OK};
        size_t live = 0;
        for (int twice = 0; twice < 2; twice++) { /* the second one leaves nothing behind */
            gradients g;
            double value = whole(&s, &g), loss = 0;
            CHECK_OK(pf_module_backward_segments(&loss, e, t.m, t.x, t.target, &t.pass, &how));
            gradients sum = gradients_of(t.m);
            CHECK(apart(t.m, &sum, &g) < 1e-5 && fabs(loss - value) < 1e-5);
            free(g.x), free(sum.x);
            CHECK(twice == 0 || live_bytes(e) == live);
            live = live_bytes(e);
        }
        task_end(&t);
        pf_engine_close(&e);
    }
}

/* Attention that sees the future, and a convolution, with a rank for each segment; and exact
 * attention, which collects the keys. */
static void test_full(void) {
    static const char *const full[] = {
        "'kernel': {'name': 'softmax', 'features': 24}, 'positions': 'learned'",
        "'kernel': {'name': 'relu'}, 'positions': 'learned', 'conv': 4, 'kv_heads': 1",
        "'kernel': {'name': 'relu'}, 'positions': 'learned', 'conv': 3, 'reversible': true",
        "'attention': 'exact', 'positions': 'learned', 'kv_heads': 1",
        CAUSAL "'attention': 'exact', 'positions': 'learned', 'conv': 3, 'reversible': true",
    };
    for (int i = 0; i < PF_COUNT(full); i++) {
        for (int n = 1; n <= 4; n++) {
            setting s = {full[i], n, .mask = i == 1 || i == 3};
            gradients g;
            double loss = whole(&s, &g);
            work w = run_ranks(s, n, 0);
            check_against(&w, loss, &g);
            work_end(&w);
            free(g.x);
        }
    }
}

/* ---- what can't be, and ranks that fail ---- */

typedef struct {
    setting s;
    int failing; /* the rank whose target is of another shape; < 0: none */
    bool prefix;
    bool strange; /* that rank, in place of it, has an id that is none, in its segment */
    bool folds;   /* or can't fold */
} refusal;

static int fold_badly(void *context, pf_engine *e, int segment) {
    (void)e, (void)segment;
    return *(bool *)context ? pf_fail(PF_ENOMEM, "no fold") : PF_OK;
}

static int run_refused(pf_engine *e, int rank, void *context) {
    refusal *r = context;
    task t = task_of(e, &r->s);
    bool bad = rank == r->failing && r->folds;
    const pf_segmenting how = {sizeof how, r->s.segments, r->s.chain, fold_badly, &bad, PF_OK};
    double loss = 7;
    int n = r->s.segments, end = (rank + 1) * n / pf_comm_ranks(e); /* of its segments */
    if (rank == r->failing && r->strange) pf_i32(t.x)[LENGTH * end / n - 1] = 99;
    if (rank == r->failing && !r->strange && !r->folds) {
        pf_tensor_release(&t.target);
        t.target = some_ids(e, BATCH, LENGTH - 1, 2);
    }
    const int64_t shape[1] = {BATCH};
    if (r->prefix) CHECK_OK(pf_tensor_full(&t.pass.prefix, e, PF_I32, 1, shape, 5));
    int status = pf_module_backward_segments(&loss, e, t.m, t.x, t.target, &t.pass, &how);
    gradients g = gradients_of(t.m);
    for (int64_t i = 0; i < g.n && status < 0; i++)
        if (g.x[i] != 0 || loss != 0) status = PF_OK; /* it was to leave nothing */
    free(g.x);
    pf_tensor_release(&t.pass.prefix);
    task_end(&t);
    return status;
}

static void check_refused(refusal r, int ranks, int status, const char *text) {
    ranks_world w = {.ranks = ranks, .whole = true};
    int told = 0;
    ranks_run(&w, run_refused, &r);
    for (int k = 0; k < ranks; k++) {
        bool good = w.status[k] == status && strstr(w.text[k], text);
        if (!good) fprintf(stderr, "  rank %d: %d %s\n", k, w.status[k], w.text[k]);
        told += good;
    }
    CHECK(told == ranks);
}

static void test_refused(void) {
    static const char full[] = "'kernel': {'name': 'relu'}";
    check_refused((refusal){.s = {models[0], 3, .mask = false}, .failing = 1}, 3, PF_ESHAPE,
                  "rank 1 of 3 on here: ");
    check_refused((refusal){.s = {models[0], 3, .mask = false}, .failing = -1, .prefix = true}, 3,
                  PF_EINVAL, "a prefix is seen from");
    check_refused((refusal){.s = {models[0], 2, .mask = false}, .failing = -1}, 3, PF_EINVAL,
                  "2 segments for 3 ranks");
    check_refused((refusal){.s = {models[0], 7, .mask = false}, .failing = -1}, 2, PF_EINVAL,
                  "ask for 1 to 6 segments");
    check_refused((refusal){.s = {full, 3, .mask = false}, .failing = -1}, 2, PF_EINVAL,
                  "needs a rank for each segment");
    check_refused((refusal){.s = {full, 2, .chain = true}, .failing = -1}, 2, PF_EINVAL,
                  "and no chain");
    check_refused((refusal){.s = {full, 2, .documents = 1}, .failing = -1}, 2, PF_EINVAL,
                  "packed documents");
    check_refused(
        (refusal){.s = {CAUSAL "'attention': 'sliding'", 2, .mask = false}, .failing = -1}, 2,
        PF_EINVAL, "sliding attention looks at keys of other segments");
    check_refused((refusal){.s = {CAUSAL "'attention': 'exact'", 3, .mask = false}, .failing = -1},
                  2, PF_EINVAL,
                  "blocks.1.attention: exact attention looks at keys of other segments themselves, "
                  "for which each needs a rank");
}

/* What one rank can't do none has done. */
static void test_failures(void) {
    for (int r = 0; r < 3; r++) {
        check_refused((refusal){.s = {models[3], 3, .mask = false}, .failing = r, .strange = true},
                      3, PF_EINVAL, "id 99");
        for (int n = 3; n < 6; n++) /* as a chain, and with fewer ranks than segments */
            check_refused(
                (refusal){.s = {models[3], n, .chain = n == 3}, .failing = r, .strange = true}, 3,
                PF_EINVAL, "id 99");
        check_refused((refusal){.s = {models[1], 3, .mask = false}, .failing = r, .folds = true}, 3,
                      PF_ENOMEM, "no fold");
    }
    for (int r = 0; r < 2;
         r++) /* on its way back, where the next one is through and waits for all */
        for (int chain = 0; chain < 2; chain++)
            check_refused(
                (refusal){.s = {models[3], 4, .chain = chain}, .failing = r, .folds = true}, 2,
                PF_ENOMEM, "no fold");
}

int main(void) {
    test_scan();
    test_dropout();
    test_chain();
    test_chain_is_sliced();
    test_alone();
    test_full();
    test_refused();
    test_failures();
    return CHECK_REPORT();
}
