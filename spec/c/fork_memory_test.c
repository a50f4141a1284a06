/*
 * fork_memory_test.c - what a forked child shares with its parent and what it does not: memory of
 * the host's that is a tensor, private and shared, weights that lie in their file, a hold on a run.
 * The child reads, writes to its copy, trains, closes, or ends without having closed anything; the
 * parent has its bits, gives its memory back once, and may let go first. An access to files that
 * calls another engine while one closes finds no lock shut.
 * In LIVING_IN_A_HOST.md: [fork.1], [lifetimes.6], [process.2].
 */
#include <sys/mman.h>

#include "child.h"
#include "folder.h"
#include "nn_support.h"
#include "scratch.h"

enum { N = 64, BYTES = N * N * 4 };

static char dir[300];

typedef struct {
    pf_engine *e;
    pf_tensor *t, *shared; /* wrapped: private memory, and memory of both */
    float *own, *both;
    int released;
    pf_module *mapped;
    float want[11], product; /* as the parent has them */
    int told[2];             /* a pipe to the child */
} world;

static void count(void *context) { ++*(int *)context; }

/* A product of the tensor with itself; its sum. NAN: it failed. */
static float product_of(pf_engine *e, pf_tensor *t) {
    pf_tensor *y = NULL;
    pf_attr attrs[8];
    double sum = NAN, x = 0;
    int op = pf_op_find(e, "matmul");
    if (pf_op_defaults(e, op, attrs) < 0) return NAN;
    if (pf_op_apply(e, op, (pf_tensor *const[]){t, t}, 2, attrs, &y) < 0) return NAN;
    sum = 0;
    for (int i = 0; i < N * N; i++) sum += pf_tensor_get(y, i, &x) < 0 ? NAN : x * (i % 7);
    pf_tensor_release(&y);
    return (float)sum;
}

static int logits_of(pf_engine *e, pf_module *m, float out[11]) {
    const int32_t ids[5] = {1, 4, 2, 8, 5};
    pf_stream *s = NULL;
    int status = pf_stream_open(&s, e, m);
    if (status >= 0) status = pf_stream_feed(s, ids, 5);
    if (status >= 0) memcpy(out, pf_stream_logits(s, NULL), 11 * sizeof *out);
    pf_stream_close(&s);
    return status;
}

static bool same_bits(world *w) {
    float got[11] = {0}, product = product_of(w->e, w->t);
    return logits_of(w->e, w->mapped, got) >= 0 && memcmp(got, w->want, sizeof got) == 0 &&
           product == w->product;
}

/* ---- what a child does; 0: all was well ---- */

static int reads(void *context) { return !same_bits(context); }

/* Its copy, not the parent's; and what both have, which is the parent's to see. */
static int writes(void *context) {
    world *w = context;
    if (pf_tensor_fill(w->t, 7) < 0 || w->own[0] != 7) return 1;
    if (pf_tensor_fill(w->shared, 3) < 0 || w->both[5] != 3) return 2;
    return product_of(w->e, w->t) == w->product ? 3 : 0;
}

static int closes(void *context) {
    world *w = context;
    if (!same_bits(w)) return 1;
    pf_module_release(&w->mapped);
    pf_engine_close(&w->e);
    pf_tensor_release(&w->t);
    return w->released == 1 ? 0 : 2; /* the child's, of its copy */
}

static int writes_and_closes(void *context) {
    int bad = writes(context);
    world *w = context;
    pf_tensor_release(&w->t), pf_tensor_release(&w->shared);
    pf_module_release(&w->mapped);
    pf_engine_close(&w->e);
    return bad;
}

/* As a program ends that has closed nothing: destructors run. */
static int leaves(void *context) {
    if (!same_bits(context)) return 1;
    exit(0);
}

/* Adapters beside weights that are only read, as the parent's are. */
static int trains(void *context) {
    world *w = context;
    pf_optimizer *o = NULL;
    pf_tensor *x = some_ids(w->e, 1, 16, 1), *loss = NULL;
    pf_tape *tape = NULL;
    pf_module *m = NULL;
    int bad = pf_model_load(&m, w->e, dir) < 0 || pf_optimizer_new(&o, w->e, m, NULL) < 0;
    bad = bad || pf_tape_open(&tape, w->e) < 0 || pf_module_loss(&loss, w->e, m, x, x, NULL) < 0;
    bad = bad || pf_tape_backward(tape, loss, NULL) < 0;
    pf_tape_close(&tape);
    bad = bad || pf_optimizer_step(o, w->e, 0.1, 0, NULL) < 0 || !same_bits(w);
    pf_tensor_release(&loss), pf_tensor_release(&x);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return bad;
}

/* ---- the parent ---- */

static void open_world(world *w, int threads) {
    const int64_t shape[] = {N, N};
    *w = (world){.e = engine_of(threads, 3), .own = malloc(BYTES)};
    w->both = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(w->own && w->both != MAP_FAILED);
    for (int i = 0; i < N * N; i++) w->own[i] = w->both[i] = (float)(i % 13) * 0.25f;
    CHECK_OK(pf_tensor_wrap(&w->t, w->e, PF_F32, 2, shape, w->own, count, &w->released));
    CHECK_OK(pf_tensor_wrap(&w->shared, w->e, PF_F32, 2, shape, w->both, NULL, NULL));
    CHECK_OK(pf_model_load_mapped(&w->mapped, w->e, dir));
    CHECK_OK(logits_of(w->e, w->mapped, w->want));
    w->product = product_of(w->e, w->t);
    CHECK(isfinite(w->product));
}

static void close_world(world *w) {
    pf_module_release(&w->mapped);
    pf_tensor_release(&w->t), pf_tensor_release(&w->shared);
    pf_engine_close(&w->e);
    CHECK(w->released == 1);
    free(w->own), munmap(w->both, BYTES);
}

static void test_children(int threads) {
    static int (*const work[])(void *) = {reads,  writes, closes, writes_and_closes,
                                          leaves, trains, reads};
    world w;
    open_world(&w, threads);
    for (int i = 0; i < PF_COUNT(work); i++) {
        CHECK(in_child(work[i], &w) == 0);
        CHECK(same_bits(&w) && w.released == 0 && w.own[1] == 0.25f);
    }
    /* What is shared is shared, and the engine reads it where it lies. */
    CHECK(w.both[5] == 3 && product_of(w.e, w.shared) == product_of(w.e, w.shared));
    double x = 0;
    CHECK_OK(pf_tensor_get(w.shared, 5, &x));
    CHECK(x == 3);
    close_world(&w);
}

/* The parent lets go of all of it first; the child's is its own. */
static void test_parent_first(void) {
    world w;
    int status = -1;
    char go = 0;
    open_world(&w, 2);
    CHECK(pipe(w.told) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        int bad = read(w.told[0], &go, 1) != 1;
        CHILD_EXIT(bad ? 3 : closes(&w));
    }
    close_world(&w);
    CHECK(write(w.told[1], "x", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(w.told[0]), close(w.told[1]);
}

/* ---- holds ---- */

static int close_engine(void *context) {
    pf_engine **e = context;
    pf_engine_close(e);
    return 0;
}

/* A child that closes or ends lets go of nothing of its parent's. */
static void test_hold(void) {
    const char *run = scratch_path("%s-held", dir);
    pf_engine *e = engine_of(1, 3), *other = engine_of(1, 3);
    CHECK_OK(pf_checkpoint_hold(e, run));
    CHECK(in_child(close_engine, &e) == 0);
    CHECK_FAILS(PF_ESTATE, pf_checkpoint_hold(other, run));
    pf_engine_close(&e);
    CHECK_OK(pf_checkpoint_hold(other, run));
    pf_engine_close(&other);
    scratch_remove(run);
}

static struct {
    pf_engine *other;
    int closes, status;
} access_to;

static int close_by_other(void *context, void *file) {
    int status = pf_file_system()->close(context, file);
    pf_engine *e = access_to.other;
    access_to.other = NULL; /* once */
    access_to.closes++;
    if (e) access_to.status = pf_checkpoint_hold(e, scratch_path("%s-second", dir));
    return status;
}

/* A host's access to files uses an engine of its own while another one lets go of its runs. */
static int holds_within_close(void *context) {
    pf_file_access access = *pf_file_system();
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL, *second = engine_of(1, 3);
    (void)context;
    access.close = close_by_other;
    o.threads = 1, o.files = &access;
    int bad =
        pf_engine_open(&e, &o) < 0 || pf_checkpoint_hold(e, scratch_path("%s-first", dir)) < 0;
    access_to.other = second, access_to.status = PF_EHOST, access_to.closes = 0;
    pf_engine_close(&e);
    bad = bad || access_to.closes < 1 || access_to.status < 0;
    pf_engine_close(&second);
    return bad;
}

int main(void) {
    pf_engine *e = engine_of(1, 5);
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'features': 12}");
    scratch_open(dir, sizeof dir);
    scratch_remove(dir);
    CHECK_OK(pf_model_save(e, dir, m, NULL));
    pf_module_release(&m);
    pf_engine_close(&e);
    test_children(1), test_children(3);
    test_parent_first();
    test_hold();
    CHECK(in_child(holds_within_close, NULL) == 0);
    scratch_remove(dir);
    scratch_remove(scratch_path("%s-first", dir)), scratch_remove(scratch_path("%s-second", dir));
    return CHECK_REPORT();
}
