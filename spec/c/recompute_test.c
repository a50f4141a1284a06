/*
 * recompute_test.c - parts of the graph that backward runs again: the same bits as without,
 * what is held and for how long, nesting, and everything that can go wrong midway.
 */
#include "autograd_support.h"

enum { LEAVES = 2, N = 24 };

/* y = dropout(tanh(exp(exp(0.1 (x w))))) + v; nested: another such part before dropout. */
typedef struct {
    pf_tensor *leaf[LEAVES];
    int runs, released, depth;
    bool handed;         /* to pf_recompute, which must release it */
    int fail_at;         /* this run fails; 0: none */
    pf_tensor *captured; /* read beside the input */
    pf_tensor *as_it_is; /* returned instead of anything computed */
    pf_tape **opens, **closes;
    atomic_int *cancel; /* raised in the second run */
    int64_t longer;     /* the second result has so many more numbers */
} part;

static int part_run(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y);

static void part_release(void *context) { ((part *)context)->released++; }

/* Another part on *x, in its place; tests nest few of them. */
static int inside(part *p, pf_engine *e, pf_tensor **x) {
    static part nested[64];
    static int used;
    part *inner = &nested[used++ % 64];
    *inner = (part){.leaf = {p->leaf[0], p->leaf[1]}, .depth = p->depth - 1};
    pf_tensor *y = NULL;
    pf_recomputed f = {sizeof f, part_run, part_release, inner};
    int status = pf_recompute(&y, e, &f, x, 1);
    pf_tensor_release(x);
    *x = y;
    return status;
}

static int compute(part *p, pf_engine *e, pf_tensor *x, pf_tensor **y) {
    pf_tensor *a = NULL, *b = NULL, *c = NULL, *d = NULL;
    int status = call_two(&a, e, &pf_op_mul, x, p->leaf[0]);
    if (status >= 0) status = pf_affine(&b, e, a, 0.1, 0);
    if (status >= 0) status = call_one(&c, e, &pf_op_exp, b);
    if (status >= 0) status = then(&c, e, &pf_op_exp);
    if (status >= 0) status = then(&c, e, &pf_op_tanh);
    if (status >= 0 && p->depth > 0) status = inside(p, e, &c);
    if (status >= 0) status = pf_dropout(&d, e, c, 0.25, 3);
    if (status >= 0) status = pf_add(y, e, d, p->captured ? p->captured : p->leaf[1]);
    pf_tensor_release(&d);
    pf_tensor_release(&c);
    pf_tensor_release(&b);
    pf_tensor_release(&a);
    return status;
}

static int part_run(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    part *p = context;
    CHECK(n == 1);
    p->runs++;
    if (p->opens) PF_TRY(pf_tape_open(p->opens, e));
    if (p->closes) pf_tape_close(p->closes);
    if (p->cancel && p->runs == 2) atomic_store(p->cancel, 1);
    if (p->as_it_is)
        *y = pf_tensor_retain(p->as_it_is);
    else
        PF_TRY(compute(p, e, in[0], y));
    if (p->runs == p->fail_at) return pf_fail(PF_EHOST, "broke off");
    if (p->longer && p->runs == 2) {
        pf_tensor_release(y);
        int64_t size = N + p->longer;
        return pf_tensor_make(y, e, PF_F32, 1, &size);
    }
    return PF_OK;
}

/* x through n parts, on a tape, and back. again: parts are recomputed. */
typedef struct {
    pf_engine e;
    host h;
    pf_tensor *x, *w, *v;
} bed;

static void bed_open(bed *b, int threads) {
    open_engine(&b->e, threads, &b->h);
    b->x = vector(&b->e, N, 1);
    b->w = vector(&b->e, N, 2);
    b->v = vector(&b->e, N, 3);
}

static void bed_close(bed *b) {
    pf_tensor_release(&b->x);
    pf_tensor_release(&b->w);
    pf_tensor_release(&b->v);
    pf_runtime_close(&b->e);
    CHECK(b->h.calls == b->h.frees);
}

static part part_of(const bed *b) { return (part){.leaf = {b->w, b->v}}; }

/* The part on h, in its place. */
static int apply(bed *b, part *p, bool again, pf_tensor **h) {
    pf_tensor *y = NULL;
    pf_recomputed f = {sizeof f, part_run, part_release, p};
    p->handed = again;
    int status = again ? pf_recompute(&y, &b->e, &f, h, 1) : part_run(p, &b->e, h, 1, &y);
    pf_tensor_release(h);
    *h = y;
    return status;
}

static int step(bed *b, part *parts, int n, bool again) {
    pf_tape *tape = NULL;
    pf_tensor *h = NULL, *loss = NULL;
    PF_TRY(pf_tape_open(&tape, &b->e));
    int status = call_one(&h, &b->e, &pf_op_tanh, b->x);
    for (int i = 0; i < n && status >= 0; i++) status = apply(b, &parts[i], again, &h);
    if (status >= 0) status = sum_all(&loss, &b->e, h);
    if (status >= 0) status = pf_tape_backward(tape, loss, NULL);
    pf_tensor_release(&loss);
    pf_tensor_release(&h);
    pf_tape_close(&tape);
    return status;
}

/* The three gradients, which are cleared. */
static void take_grads(bed *b, float *out) {
    pf_tensor *leaves[3] = {b->x, b->w, b->v};
    for (int i = 0; i < 3; i++) {
        pf_tensor *g = leaves[i]->grad;
        bool there = g && !leaves[i]->grad_stale;
        CHECK(there);
        for (int k = 0; k < N; k++) out[i * N + k] = there ? pf_f32(g)[k] : NAN;
        pf_tensor_clear_grad(leaves[i]);
    }
}

static bool no_grads(bed *b) {
    return !has_grad(&b->e, b->x) && !has_grad(&b->e, b->w) && !has_grad(&b->e, b->v);
}

/* ---- the same numbers ---- */

static void test_equal_bits(void) {
    enum { PARTS = 3 };
    float plain[3 * N], other[3 * N];
    for (int depth = 0; depth < 3; depth++) {
        for (int threads = 1; threads <= 3; threads++) {
            bed b;
            bed_open(&b, threads);
            part p[PARTS], q[PARTS];
            for (int i = 0; i < PARTS; i++) {
                p[i] = part_of(&b);
                p[i].depth = depth;
                q[i] = p[i];
            }
            CHECK_OK(step(&b, p, PARTS, false));
            take_grads(&b, plain);
            CHECK_OK(step(&b, q, PARTS, true));
            take_grads(&b, other);
            CHECK(memcmp(plain, other, sizeof plain) == 0);
            for (int i = 0; i < PARTS; i++) CHECK(q[i].runs == 2 && q[i].released == 1);
            bed_close(&b);
        }
    }
}

/* Nothing wants a gradient: run once, let go at once, no part of the graph. */
static void test_no_graph(void) {
    bed b;
    bed_open(&b, 1);
    part p = part_of(&b);
    pf_tape *tape;
    pf_tensor *plain = NULL, *h;
    CHECK_OK(pf_tensor_make_lasting(&plain, b.e.heap, PF_F32, 1, (int64_t[]){N}));
    CHECK_OK(pf_tensor_fill(plain, 1));
    h = pf_tensor_retain(b.x);
    CHECK_OK(apply(&b, &p, true, &h)); /* no tape */
    CHECK(p.runs == 1 && p.released == 1 && pf_tensor_alive(h));
    pf_tensor_release(&h);
    pf_tensor_require_grad(b.w, false);
    pf_tensor_require_grad(b.v, false);
    CHECK_OK(pf_tape_open(&tape, &b.e));
    h = pf_tensor_retain(plain);
    CHECK_OK(apply(&b, &p, true, &h));
    CHECK(!pf_in_graph(&b.e, h) && p.runs == 2 && p.released == 2);
    pf_tensor_require_grad(b.v, true); /* a leaf inside is enough */
    CHECK_OK(apply(&b, &p, true, &h));
    CHECK(pf_in_graph(&b.e, h) && p.released == 2);
    pf_tape_close(&tape); /* never walked: released all the same */
    CHECK(p.runs == 3 && p.released == 3 && !pf_tensor_alive(h));
    pf_tensor_release(&h);
    pf_tensor_release(&plain);
    bed_close(&b);
}

/* A result that is the input, or a parameter, itself. */
static void test_result_as_it_is(void) {
    bed b;
    bed_open(&b, 1);
    part p = part_of(&b);
    p.as_it_is = b.w;
    CHECK_OK(step(&b, &p, 1, true));
    CHECK(p.released == 1 && has_grad(&b.e, b.w) && !has_grad(&b.e, b.x));
    CHECK(pf_f32(b.w->grad)[0] == 1);
    bed_close(&b);
}

/* What forward makes is gone before backward, what it was given is not. */
static void test_memory(void) {
    enum { PARTS = 6 };
    bed b;
    size_t peak[2];
    for (int again = 0; again < 2; again++) {
        open_engine(&b.e, 1, &b.h);
        int64_t n = 1 << 16;
        b.x = vector(&b.e, n, 1);
        b.w = vector(&b.e, n, 2);
        b.v = vector(&b.e, n, 3);
        part p[PARTS];
        for (int i = 0; i < PARTS; i++) p[i] = part_of(&b);
        pf_heap_reset_peak(b.e.heap);
        size_t before = pf_heap_live(b.e.heap);
        CHECK_OK(step(&b, p, PARTS, again));
        peak[again] = pf_heap_peak(b.e.heap) - before;
        bed_close(&b);
    }
    CHECK(peak[1] < peak[0] * 3 / 4);
}

/* ---- what is refused, and what breaks off ---- */

static void fails(part p, int status, const char *text) {
    bed b;
    bed_open(&b, 2);
    part parts[3] = {part_of(&b), p, part_of(&b)};
    parts[1].leaf[0] = b.w;
    parts[1].leaf[1] = b.v;
    CHECK_FAILS(status, step(&b, parts, 3, true));
    if (!strstr(pf_last_error(), text)) {
        fprintf(stderr, "message: %s\n", pf_last_error());
        CHECK(false);
    }
    CHECK(no_grads(&b) && b.e.tape == NULL);
    for (int i = 0; i < 3; i++) CHECK(parts[i].released == parts[i].handed);
    float again[3 * N];
    part fine = part_of(&b);
    CHECK_OK(step(&b, &fine, 1, true)); /* the engine is as good as before */
    take_grads(&b, again);
    bed_close(&b);
}

static void test_broken_off(void) {
    fails((part){.fail_at = 1}, PF_EHOST, "broke off");
    fails((part){.fail_at = 2}, PF_EHOST, "backward of recompute: broke off");
    fails((part){.longer = 4}, PF_ESHAPE, "[24] at first and [28]");
}

static void test_captured(void) {
    bed b;
    bed_open(&b, 1);
    for (int way = 0; way < 2; way++) {
        part p = part_of(&b);
        pf_tape *tape;
        pf_tensor *h, *made = NULL;
        CHECK_OK(pf_tape_open(&tape, &b.e));
        CHECK_OK(call_one(&made, &b.e, &pf_op_exp, b.x));
        if (way == 0)
            p.captured = made;
        else
            p.as_it_is = made;
        h = pf_tensor_retain(b.x);
        CHECK_FAILS(PF_EINVAL, apply(&b, &p, true, &h));
        CHECK(strstr(pf_last_error(), way == 0 ? "add read a tensor" : "the result read"));
        CHECK(!h && p.released == 1 && pf_tensor_alive(made) && b.e.tape == tape);
        pf_tensor_release(&made);
        pf_tape_close(&tape);
    }
    bed_close(&b);
}

/* Tapes opened and closed by the function. */
static void test_tapes_inside(void) {
    bed b;
    bed_open(&b, 1);
    pf_tape *tape = NULL, *inner = NULL;
    pf_tensor *h = pf_tensor_retain(b.x);
    part p = part_of(&b);
    CHECK_OK(pf_tape_open(&tape, &b.e));
    p.opens = &inner;
    CHECK_FAILS(PF_ESTATE, apply(&b, &p, true, &h));
    CHECK(strstr(pf_last_error(), "still open") && b.e.tape == inner);
    pf_tape_close(&inner);
    CHECK(b.e.tape == tape);
    p.opens = NULL;
    p.closes = &tape;
    h = pf_tensor_retain(b.x);
    CHECK_FAILS(PF_ESTATE, apply(&b, &p, true, &h));
    CHECK(strstr(pf_last_error(), "closed inside") && b.e.tape == NULL && !h);
    CHECK(p.released == 2);
    bed_close(&b);
}

/* In backward: the outer tape closes at the end of its walk. */
static void test_closed_in_backward(void) {
    bed b;
    bed_open(&b, 1);
    pf_tape *tape = NULL, *held;
    pf_tensor *h = pf_tensor_retain(b.x), *loss = NULL;
    part p = part_of(&b);
    CHECK_OK(pf_tape_open(&tape, &b.e));
    held = tape;
    CHECK_OK(apply(&b, &p, true, &h));
    CHECK_OK(sum_all(&loss, &b.e, h));
    p.closes = &held;
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    CHECK(b.e.tape == NULL && !pf_tensor_alive(loss) && has_grad(&b.e, b.x) && p.released == 1);
    pf_tensor_release(&loss);
    pf_tensor_release(&h);
    bed_close(&b);
}

static void test_cancel(void) {
    bed b;
    atomic_int flag = 0;
    bed_open(&b, 1);
    b.e.cancel = &flag;
    part p[2] = {part_of(&b), part_of(&b)};
    p[0].cancel = &flag;
    CHECK_FAILS(PF_ECANCEL, step(&b, p, 2, true));
    CHECK(no_grads(&b) && p[0].released == 1 && p[1].released == 1 && b.e.tape == NULL);
    atomic_store(&flag, 0);
    bed_close(&b);
}

static void test_misuse(void) {
    bed b;
    bed_open(&b, 1);
    part p = part_of(&b);
    pf_tensor *y = NULL, *many[PF_MAX_IN + 1];
    for (int i = 0; i <= PF_MAX_IN; i++) many[i] = b.x;
    pf_recomputed f = {sizeof f, part_run, part_release, &p},
                  none = {sizeof none, NULL, part_release, &p};
    CHECK_FAILS(PF_EINVAL, pf_recompute(&y, &b.e, NULL, many, 1));
    CHECK_FAILS(PF_EINVAL, pf_recompute(&y, &b.e, &none, many, 1));
    CHECK_FAILS(PF_EINVAL, pf_recompute(&y, &b.e, &f, many, PF_MAX_IN + 1));
    CHECK(p.released == 2 && p.runs == 0);
    bed_close(&b);
}

/* Every allocation refused in turn: nothing leaks, and no half of a gradient is left. */
static void test_allocation_failures(void) {
    bed b;
    bed_open(&b, 2);
    pf_heap_trim(b.e.heap);
    size_t live = pf_heap_live(b.e.heap);
    int status = PF_ENOMEM;
    long refusals = 0;
    bool good = true;
    for (; status < 0 && refusals < 2000; refusals++) {
        part p[2] = {part_of(&b), part_of(&b)};
        p[0].depth = 1;
        b.h.left = refusals;
        status = step(&b, p, 2, true);
        b.h.left = -1;
        good = good && (status == PF_OK || status == PF_ENOMEM) && b.e.tape == NULL;
        good = good && (status == PF_OK || no_grads(&b));
        for (int i = 0; i < 2; i++) good = good && p[i].released == p[i].handed;
        pf_tensor *leaves[3] = {b.x, b.w, b.v};
        for (int i = 0; i < 3; i++) pf_tensor_release(&leaves[i]->grad);
        pf_heap_free(b.e.heap, b.e.scratch, b.e.scratch_bytes * (size_t)b.e.threads);
        b.e.scratch = NULL;
        b.e.scratch_bytes = 0;
        good = good && pf_heap_live(b.e.heap) == live;
        pf_heap_trim(b.e.heap);
    }
    CHECK(good && status == PF_OK && refusals > 40);
    bed_close(&b);
}

int main(void) {
    test_equal_bits();
    test_no_graph();
    test_result_as_it_is();
    test_memory();
    test_broken_off();
    test_captured();
    test_tapes_inside();
    test_closed_in_backward();
    test_cancel();
    test_misuse();
    test_allocation_failures();
    return CHECK_REPORT();
}
