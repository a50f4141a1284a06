/*
 * limits_test.c - bounds of an engine and of a part of what is done with it: bytes to the byte,
 * work that is the same for any number of threads, time, depth; what stays over, and what does not.
 * In LIVING_IN_A_HOST.md: [limits.1], [limits.2], [limits.3].
 */
#include <time.h>

#include "host.h"
#include "json.h"
#include "looks.h"
#include "nn_support.h"
#include "performer_attention.h"

static pf_engine *open_with(const pf_limits *limits, int threads, host_memory *memory) {
    pf_options options = host_options(memory);
    pf_engine *e = NULL;
    options.threads = threads;
    options.limits = limits;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

static void close_all(pf_engine **e, host_memory *memory) {
    pf_engine_close(e);
    CHECK(memory->blocks == 0 && memory->wrong == 0);
}

static pf_limits bounds(size_t bytes, uint64_t work, double seconds, int depth) {
    return (pf_limits){sizeof(pf_limits), bytes, work, seconds, depth};
}

static void sleep_ms(int ms) {
    struct timespec wait = {0, (long)ms * 1000000};
    nanosleep(&wait, NULL);
}

static pf_tensor *square(pf_engine *e, int64_t n) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 2, (int64_t[]){n, n}, 0.5));
    return t;
}

/* a b, and what came of it. */
static int product(pf_engine *e, pf_tensor *a) {
    pf_tensor *y = NULL, *both[] = {a, a};
    int status = pf_op_apply(e, pf_op_find(e, "matmul"), both, 2, NULL, &y);
    pf_tensor_release(&y);
    return status;
}

/* ---- one long line ---- */

static struct {
    pf_meter *meter;
    long looks, last; /* last: the one that finds it over; 0: none */
} watch;

static void look(void *own) {
    (void)own;
    if (++watch.looks == watch.last) atomic_store(&watch.meter->over, PF_OVER_TIME);
}

static int watched(pf_engine *e, const char *name, pf_tensor *x, long last) {
    pf_attr attrs[PF_MAX_ATTR];
    pf_tensor *y[2] = {NULL, NULL};
    int op = pf_op_find(e, name);
    CHECK_OK(pf_op_defaults(e, op, attrs));
    if (!strcmp(name, "topk")) attrs[0].i = pf_tensor_numel(x) - 1;
    CHECK_OK(pf_meter_limit(watch.meter, NULL));
    watch.looks = 0, watch.last = last;
    int status = pf_op_apply(e, op, &x, 1, attrs, y);
    pf_tensor_release(&y[0]), pf_tensor_release(&y[1]);
    return status;
}

/* What is one task looks as often as its line is long, and ends where it finds that it must. */
static void test_long_lines(void) {
    static const struct {
        const char *op;
        int walks; /* over the line, at least */
    } rows[] = {{"sort", 10}, {"argsort", 10}, {"topk", 15}, {"cumsum", 1}};
    enum { PIECES = 3 };
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_tensor *x = NULL;
    CHECK_OK(pf_tensor_rand(&x, e, 1, (int64_t[]){PIECES * PF_LOOK}, false));
    CHECK_OK(pf_meter_open(&watch.meter, e, NULL));
    CHECK_OK(pf_meter_enter(watch.meter));
    watch.meter->looked = look;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CHECK_OK(watched(e, rows[i].op, x, 0));
        const long all = watch.looks;
        CHECK(all >= rows[i].walks * (PIECES - 1));
        for (int k = 0; k < 3; k++) {
            const long last = k == 0 ? 2 : k == 1 ? all / 2 : all - 1;
            CHECK(watched(e, rows[i].op, x, last) == PF_ELIMIT && watch.looks < last + 8);
        }
    }
    pf_meter_close(&watch.meter);
    pf_tensor_release(&x);
    close_all(&e, &memory);
}

/* ---- options ---- */

static void test_options(void) {
    host_memory memory = {0};
    pf_options options = host_options(&memory);
    pf_engine *e = NULL;
    pf_limits bad = bounds(0, 0, -1, 0);
    options.limits = &bad;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    bad = bounds(0, 0, NAN, 0);
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    bad = bounds(0, 0, 0, -1);
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    bad = bounds(0, 0, 0, 0), bad.size = 0;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    CHECK(!e && memory.blocks == 0);
    e = open_with(NULL, 1, &memory);
    CHECK_FAILS(PF_EINVAL, pf_engine_limit(e, &bad));
    CHECK_OK(pf_engine_limit(e, NULL));
    close_all(&e, &memory);
}

/* ---- bytes ---- */

/* What doesn't fit is refused, and fits when others have gone; the host never holds more. */
static void test_bytes(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    size_t live;
    pf_tensor *t = NULL, *other = NULL;
    pf_engine_memory(e, &live, NULL);
    pf_limits most = bounds(live + 100000, 0, 0, 0);
    CHECK_OK(pf_engine_limit(e, &most));
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){16000}, 1));
    CHECK_FAILS(PF_ENOMEM, pf_tensor_full(&other, e, PF_F32, 1, (int64_t[]){16000}, 1));
    CHECK(!other && memory.bytes <= most.bytes);
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){16000}, 1));
    most = bounds(1, 0, 0, 0); /* less than is held: nothing more */
    CHECK_OK(pf_engine_limit(e, &most));
    CHECK_FAILS(PF_ENOMEM, pf_tensor_full(&other, e, PF_F32, 1, (int64_t[]){1}, 1));
    CHECK_OK(pf_engine_limit(e, NULL));
    CHECK_OK(pf_tensor_full(&other, e, PF_F32, 1, (int64_t[]){16000}, 1));
    pf_tensor_release(&t), pf_tensor_release(&other);
    close_all(&e, &memory);
}

static pf_usage usage_of(const pf_meter *m) {
    pf_usage usage = {.size = sizeof usage};
    CHECK_OK(pf_meter_usage(m, &usage));
    return usage;
}

/* A part pays for what it made, until that is let go of, in it or not; so does the part around it;
 * what Lua holds counts beside tensors. */
static void test_accounts(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_limits wide = bounds(1 << 20, 0, 0, 0), narrow = bounds(100000, 0, 0, 0);
    pf_meter *outer = NULL, *inner = NULL;
    pf_tensor *ours = NULL, *t = NULL, *more = NULL;
    int64_t n[] = {16000};
    CHECK_OK(pf_tensor_full(&ours, e, PF_F32, 1, n, 1));
    CHECK_OK(pf_meter_open(&outer, e, &wide));
    CHECK_OK(pf_meter_enter(outer));
    CHECK_OK(pf_meter_open(&inner, e, &narrow));
    CHECK_OK(pf_meter_enter(inner));
    CHECK_FAILS(PF_ESTATE, pf_meter_enter(inner));
    CHECK(usage_of(inner).bytes == 0);
    size_t base = usage_of(outer).bytes;
    pf_tensor_release(&ours); /* is nobody's here */
    CHECK(usage_of(inner).bytes == 0 && usage_of(outer).bytes == base);
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, n, 1));
    size_t held = usage_of(inner).bytes;
    CHECK(held >= 64000 && held < 80000 && usage_of(outer).bytes == base + held);
    CHECK_FAILS(PF_ENOMEM, pf_tensor_full(&more, e, PF_F32, 1, n, 1));
    CHECK(strstr(pf_last_error(), "limit 100000"));
    CHECK(usage_of(inner).bytes == held && usage_of(outer).bytes == base + held);
    CHECK_OK(pf_meter_bytes(inner, 0, 100000 - held)); /* to the byte */
    CHECK_FAILS(PF_ENOMEM, pf_meter_bytes(inner, 0, 1));
    CHECK_FAILS(PF_EINVAL, pf_meter_bytes(inner, 100001, 0));
    CHECK(usage_of(inner).bytes == 100000 && usage_of(inner).peak == 100000);
    CHECK_OK(pf_meter_bytes(inner, 100000 - held, 5));
    CHECK(usage_of(inner).bytes == held + 5 && usage_of(outer).bytes == base + held + 5);
    pf_meter_leave(inner);
    CHECK_OK(pf_tensor_full(&more, e, PF_F32, 1, n, 1));
    CHECK(usage_of(inner).bytes == held + 5 && usage_of(outer).bytes == base + 2 * held + 5);
    pf_meter_close(&inner); /* what was made under it stays the outer one's */
    CHECK(usage_of(outer).bytes <= base + 2 * held && usage_of(outer).bytes > base + held);
    pf_tensor_release(&t), pf_tensor_release(&more);
    CHECK(usage_of(outer).bytes < base + held);
    pf_meter_close(&outer);
    close_all(&e, &memory);
}

/* Of what the budget of the engine, or the host, refused nothing shows in the peak. */
static void test_refused_peak(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    size_t live;
    pf_meter *m = NULL;
    pf_tensor *t = NULL;
    pf_engine_memory(e, &live, NULL);
    pf_limits most = bounds(live + 200000, 0, 0, 0);
    CHECK_OK(pf_engine_limit(e, &most));
    CHECK_OK(pf_meter_open(&m, e, NULL));
    CHECK_OK(pf_meter_enter(m));
    CHECK_FAILS(PF_ENOMEM, pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){1000000}, 1));
    CHECK(usage_of(m).peak < 1000); /* a header, perhaps */
    memory.fail_at = memory.calls + 1, memory.fail_on = 1;
    CHECK_FAILS(PF_ENOMEM, pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){30000}, 1));
    CHECK(usage_of(m).peak < 1000);
    memory.fail_at = 0;
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){30000}, 1));
    CHECK(usage_of(m).peak == usage_of(m).bytes && usage_of(m).bytes >= 120000);
    pf_meter_leave(m);
    pf_meter_close(&m);
    pf_tensor_release(&t);
    close_all(&e, &memory);
}

/* Blocks for a Lua state, from the host's allocator and within the budget. */
static void test_resize(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_limits most = bounds(1000, 0, 0, 0);
    pf_info info = {.size = sizeof info};
    pf_meter *m = NULL;
    CHECK_OK(pf_meter_open(&m, e, &most));
    long blocks = memory.blocks;
    char *b = pf_meter_resize(m, NULL, 5, 100); /* 5: a type, of Lua's */
    memset(b, 'x', 100);
    b = pf_meter_resize(m, b, 100, 900);
    CHECK(b && b[99] == 'x' && usage_of(m).bytes == 900 && memory.blocks == blocks + 1);
    CHECK(!pf_meter_resize(m, b, 900, 1001) && usage_of(m).bytes == 900);
    CHECK(strcmp(pf_last_error(),
                 "out of memory: asked for 101 bytes for objects of a script or of "
                 "the host, with 900 held, limit 1000") == 0);
    memory.fail_at = memory.calls + 1;
    CHECK(!pf_meter_resize(m, b, 900, 1000) && usage_of(m).bytes == 900);
    CHECK(usage_of(m).peak == 900); /* neither was ever held */
    memory.fail_at = memory.calls + 1;
    CHECK(pf_meter_resize(m, b, 900, 10) == b && usage_of(m).bytes == 10);
    memory.fail_at = 0;
    CHECK_OK(pf_engine_info(e, &info));
    CHECK(info.outside == 10 && b[9] == 'x');
    pf_engine_close(&e);
    CHECK(!pf_meter_resize(m, NULL, 0, 1));
    CHECK(!pf_meter_resize(m, b, 10, 0));
    pf_meter_close(&m);
    CHECK(memory.blocks == 0 && memory.wrong == 0);
}

/* ---- work ---- */

/* The work that a training step counts, on so many threads. */
static uint64_t work_of(int threads) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, threads, &memory);
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'features': 8}");
    pf_meter *meter = NULL;
    pf_tape *tape = NULL;
    pf_tensor *ids = NULL, *loss = NULL;
    CHECK_OK(pf_tensor_full(&ids, e, PF_I32, 2, (int64_t[]){2, 9}, 3));
    CHECK_OK(pf_meter_open(&meter, e, NULL));
    CHECK_OK(pf_meter_enter(meter));
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_loss(&loss, e, m, ids, ids, NULL));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tape_close(&tape);
    uint64_t work = usage_of(meter).work;
    pf_meter_close(&meter);
    pf_tensor_release(&loss), pf_tensor_release(&ids);
    pf_module_release(&m);
    close_all(&e, &memory);
    return work;
}

static void test_same_work(void) {
    uint64_t work = work_of(1);
    CHECK(work > 2000 && work < 100000);
    for (int threads = 2; threads <= 4; threads += 2) CHECK(work_of(threads) == work);
}

/* A bound of exactly the work holds, one unit less does not; what doesn't fit does not begin, and
 * over stays over, whoever catches it. */
static void test_work(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 2, &memory);
    pf_tensor *a = square(e, 64), *huge = square(e, 1500);
    pf_meter *m = NULL;
    CHECK_OK(pf_meter_open(&m, e, NULL));
    CHECK_OK(pf_meter_enter(m));
    CHECK_OK(product(e, a));
    uint64_t work = usage_of(m).work;
    CHECK(work >= 64 * 64 * 64 / 64);
    pf_limits limits = bounds(0, 2 * work, 0, 0);
    CHECK_OK(pf_meter_limit(m, &limits));
    CHECK_OK(product(e, a));
    CHECK_OK(product(e, a));
    CHECK(!usage_of(m).over);
    CHECK_OK(pf_engine_charge(e, 0));
    CHECK_FAILS(PF_ELIMIT, pf_engine_charge(e, 1));
    CHECK(usage_of(m).over && strstr(pf_last_error(), "units of work"));
    for (int i = 0; i < 3; i++) CHECK_FAILS(PF_ELIMIT, product(e, a));
    pf_meter_leave(m);
    CHECK_OK(product(e, a));
    CHECK_FAILS(PF_ELIMIT, pf_meter_enter(m));
    CHECK_OK(product(e, a));
    limits = bounds(0, 1000000, 0, 0);
    CHECK_OK(pf_meter_limit(m, &limits));
    CHECK_OK(pf_meter_enter(m));
    CHECK_OK(product(e, a));
    clock_t began = clock();
    CHECK_FAILS(PF_ELIMIT, product(e, huge));
    CHECK((double)(clock() - began) / CLOCKS_PER_SEC < 0.02);
    pf_meter_close(&m);
    pf_tensor_release(&a), pf_tensor_release(&huge);
    close_all(&e, &memory);
}

/* All that are entered count; leaving one leaves those inside it. */
static void test_nested(void) {
    host_memory memory = {0};
    pf_limits limits = bounds(0, 1000, 0, 0);
    pf_engine *e = open_with(&limits, 1, &memory);
    pf_meter *outer = NULL, *inner = NULL;
    CHECK_OK(pf_meter_open(&outer, e, NULL));
    CHECK_OK(pf_meter_open(&inner, e, NULL));
    CHECK_OK(pf_meter_enter(outer));
    CHECK_OK(pf_engine_charge(e, 100));
    CHECK_OK(pf_meter_enter(inner));
    CHECK_OK(pf_engine_charge(e, 100));
    CHECK(usage_of(outer).work == 200 && usage_of(inner).work == 100);
    pf_meter_leave(outer);
    CHECK_OK(pf_engine_charge(e, 800));
    CHECK(usage_of(outer).work == 200 && usage_of(inner).work == 100);
    CHECK_FAILS(PF_ELIMIT, pf_engine_charge(e, UINT64_MAX));
    CHECK_FAILS(PF_ELIMIT, pf_meter_enter(inner));
    CHECK_OK(pf_engine_limit(e, NULL));
    CHECK_OK(pf_engine_charge(e, UINT64_MAX));
    CHECK_OK(pf_meter_enter(inner));
    CHECK_OK(pf_engine_charge(e, UINT64_MAX));
    CHECK_OK(pf_engine_charge(e, 1));
    CHECK(usage_of(inner).work == UINT64_MAX);
    pf_meter_close(&outer);
    pf_engine_close(&e);
    CHECK_FAILS(PF_ESTATE, pf_meter_enter(inner));
    pf_meter_close(&inner);
    CHECK(memory.blocks == 0 && memory.wrong == 0);
}

/* Whatever is done with so many numbers counts, also where no op does it. */
static uint64_t work_of_items(pf_engine *e, pf_meter *m, int64_t n) {
    const pf_items_options options = {.size = sizeof options, .dim = 16, .value_dim = 16};
    pf_items *items = NULL;
    pf_tensor *rows = NULL, *out = NULL;
    CHECK_OK(pf_items_open(&items, e, &options));
    CHECK_OK(pf_tensor_full(&rows, e, PF_F32, 2, (int64_t[]){n, 16}, 0.1));
    const uint64_t before = usage_of(m).work;
    CHECK_OK(pf_items_add(items, e, rows, rows));
    const uint64_t added = usage_of(m).work;
    CHECK_OK(pf_items_expectation(&out, items, e, rows));
    pf_tensor_release(&out);
    const uint64_t asked = usage_of(m).work;
    CHECK_OK(pf_items_probability(&out, items, e, rows, rows, 0));
    const uint64_t paired = usage_of(m).work;
    CHECK(added - before > (uint64_t)n && asked - added > (uint64_t)n);
    CHECK(paired - asked > (uint64_t)(n * n / 16));
    pf_tensor_release(&out), pf_tensor_release(&rows);
    pf_items_close(&items);
    return paired - before;
}

static uint64_t work_of_muon(pf_engine *e, pf_meter *m) {
    pf_module *layer = layer_of(e, "linear", "{'from': 64, 'to': 64, 'bias': false}");
    pf_config *rule = options_of("{'type': 'muon', 'orthogonal': 'all'}");
    pf_optimizer *optimizer = NULL;
    pf_tape *tape = NULL;
    pf_tensor *x = square(e, 64), *y = NULL, *loss = NULL;
    CHECK_OK(pf_optimizer_new(&optimizer, e, layer, rule));
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_forward(&y, e, layer, x, NULL));
    CHECK_OK(pf_op_apply(e, pf_op_find(e, "sum"), &y, 1, NULL, &loss));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tape_close(&tape);
    const uint64_t before = usage_of(m).work;
    CHECK_OK(pf_optimizer_step(optimizer, e, 0.1, 0, NULL));
    const uint64_t work = usage_of(m).work - before;
    pf_tensor_release(&x), pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_optimizer_close(&optimizer);
    pf_module_release(&layer);
    pf_config_free(rule);
    return work;
}

static uint64_t work_of_file(pf_engine *e, pf_meter *m) {
    pf_named saved = {"numbers", square(e, 512)}, *loaded = NULL;
    int n = 0;
    const uint64_t before = usage_of(m).work;
    CHECK_OK(pf_safetensors_save(e, "memory:numbers", &saved, 1, NULL));
    const uint64_t written = usage_of(m).work;
    CHECK_OK(pf_safetensors_load(e, "memory:numbers", &loaded, &n, NULL));
    CHECK(written - before >= 512 * 512 / 16);
    pf_named_free(loaded, n);
    pf_tensor_release(&saved.tensor);
    return usage_of(m).work - written;
}

static void test_counted(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_meter *m = NULL;
    CHECK_OK(pf_meter_open(&m, e, NULL));
    CHECK_OK(pf_meter_enter(m));
    CHECK(work_of_items(e, m, 200) > 0);
    CHECK(work_of_muon(e, m) > 5 * 3 * 64 * 64 * 64 / 64);
    CHECK(work_of_file(e, m) >= 512 * 512 / 16);
    pf_meter_close(&m);
    close_all(&e, &memory);
}

/* A part that goes on inside another pays for itself there; who goes pays no more. */
static void test_lent(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_meter *a = NULL, *b = NULL, *c = NULL;
    pf_tensor *t = NULL;
    int64_t n[] = {16000};
    CHECK_OK(pf_meter_open(&a, e, NULL));
    CHECK_OK(pf_meter_open(&b, e, NULL));
    CHECK_OK(pf_meter_enter(a));
    CHECK_OK(pf_meter_enter(b));
    CHECK(pf_engine_lend_meter(e, a) == NULL);
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, n, 1));
    const size_t held = usage_of(a).bytes;
    CHECK(held >= 64000 && usage_of(b).bytes == 0);
    pf_tensor_release(&t);
    CHECK_OK(pf_meter_open(&c, e, NULL)); /* a part of a's */
    CHECK_OK(pf_meter_enter(c));
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, n, 1));
    CHECK(usage_of(c).bytes == held && usage_of(a).bytes >= held && usage_of(b).bytes == 0);
    pf_tensor_release(&t);
    pf_meter_close(&c); /* a pays again */
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, n, 1));
    CHECK(usage_of(a).bytes == held && usage_of(b).bytes == 0);
    CHECK(pf_engine_lend_meter(e, NULL) == a);
    pf_tensor_release(&t);
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, n, 1));
    CHECK(usage_of(a).bytes == 0 && usage_of(b).bytes == held);
    CHECK_OK(pf_meter_open(&c, e, NULL));
    pf_engine_lend_meter(e, c);
    pf_meter_close(&c);
    CHECK(pf_engine_lend_meter(e, NULL) == NULL);
    pf_tensor_release(&t);
    pf_meter_close(&a), pf_meter_close(&b);
    close_all(&e, &memory);
}

/* ---- time and depth ---- */

static void test_time(void) {
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 2, &memory);
    pf_tensor *a = square(e, 64), *large = square(e, 1500);
    pf_limits limits = bounds(0, 0, 0.02, 0);
    CHECK_OK(pf_engine_limit(e, &limits));
    CHECK_OK(product(e, a));
    sleep_ms(30);
    CHECK_FAILS(PF_ELIMIT, product(e, a));
    CHECK(strstr(pf_last_error(), "0.02 s"));
    CHECK_OK(pf_engine_limit(e, &limits));
    int status;
    do status = product(e, large);
    while (status >= 0);
    CHECK(status == PF_ELIMIT);
    CHECK_OK(pf_engine_limit(e, NULL));
    CHECK_OK(product(e, a));
    pf_tensor_release(&a), pf_tensor_release(&large);
    close_all(&e, &memory);
}

static void test_depth(void) {
    host_memory memory = {0};
    pf_limits limits = bounds(0, 0, 0, 3);
    pf_engine *e = open_with(&limits, 1, &memory);
    CHECK_OK(pf_engine_nest(e, 1));
    CHECK_OK(pf_engine_nest(e, 2));
    CHECK_FAILS(PF_ELIMIT, pf_engine_nest(e, 1));
    CHECK_FAILS(PF_ELIMIT, pf_engine_nest(e, INT32_MAX));
    CHECK_OK(pf_engine_charge(e, 1)); /* of the moment: nothing is over */
    CHECK_OK(pf_engine_nest(e, -1));
    CHECK_OK(pf_engine_nest(e, 1));
    CHECK_OK(pf_engine_nest(e, -3));
    close_all(&e, &memory);
}

/* Trees of configs and JSON count too, and what failed leaves the depth as it was. */
static void test_depth_of_data(void) {
    host_memory memory = {0};
    pf_limits limits = bounds(0, 0, 0, 3);
    pf_engine *e = open_with(&limits, 1, &memory);
    const char *three = "{'type': 'chain', 'children': [{'type': 'chain', 'children': "
                        "[{'type': 'dropout'}]}]}";
    const char *four = "{'type': 'chain', 'children': [{'type': 'chain', 'children': [{'type': "
                       "'chain', 'children': [{'type': 'dropout'}]}]}]}";
    pf_config *fits = options_of(three), *deep = options_of(four), *node = NULL;
    pf_module *m = NULL;
    for (int i = 0; i < 2; i++) {
        char good[] = "[[[1]]]", bad[] = "[[[[1]]]]", broken[] = "[[[1";
        CHECK_FAILS(PF_ELIMIT, pf_module_build(&m, e, deep));
        CHECK(strstr(pf_last_error(), "3 levels"));
        CHECK_OK(pf_module_build(&m, e, fits));
        pf_module_release(&m);
        CHECK_FAILS(PF_ELIMIT, pf_json_read(&node, e, bad, strlen(bad), "it"));
        CHECK_FAILS(PF_EFORMAT, pf_json_read(&node, e, broken, strlen(broken), "it"));
        CHECK_OK(pf_json_read(&node, e, good, strlen(good), "it"));
        pf_config_free(node);
        CHECK_FAILS(PF_ELIMIT, pf_json_parse_in(&node, e, "[[[[1]]]]", 9));
        CHECK_OK(pf_engine_charge(e, 1));
    }
    pf_config_free(fits), pf_config_free(deep);
    close_all(&e, &memory);
}

/* JSON by itself: its values count, and what is read lies in the engine's bytes. */
static void test_json(void) {
    enum { VALUES = 20000 };
    host_memory memory = {0};
    pf_engine *e = open_with(NULL, 1, &memory);
    pf_limits few = bounds(0, 2000, 0, 0);
    pf_meter *m = NULL;
    pf_config *node = NULL;
    char text[2 * VALUES + 1], *back = NULL;
    for (int i = 0; i < VALUES; i++) text[2 * i] = '1', text[2 * i + 1] = ',';
    text[0] = '[', text[2 * VALUES - 1] = ']', text[1] = '1', text[2] = ' ';
    CHECK_OK(pf_meter_open(&m, e, NULL));
    CHECK_OK(pf_meter_enter(m));
    CHECK_OK(pf_json_parse_in(&node, e, text, 2 * VALUES));
    const uint64_t work = usage_of(m).work;
    CHECK(work >= VALUES - 4096 && usage_of(m).bytes > VALUES * sizeof(double));
    CHECK_OK(pf_json_write_in(&back, e, node, false));
    CHECK(usage_of(m).work - work >= VALUES - 4096);
    pf_text_free(back);
    CHECK_OK(pf_meter_limit(m, &few));
    CHECK_FAILS(PF_ELIMIT, pf_json_write_in(&back, e, node, false));
    CHECK(!back);
    pf_config_free(node);
    CHECK_OK(pf_meter_limit(m, &few));
    CHECK_FAILS(PF_ELIMIT, pf_json_parse_in(&node, e, text, 2 * VALUES));
    CHECK(!node && usage_of(m).bytes == 0);
    pf_meter_close(&m);
    close_all(&e, &memory);
}

int main(void) {
    test_options();
    test_bytes();
    test_accounts();
    test_refused_peak();
    test_resize();
    test_same_work();
    test_work();
    test_nested();
    test_counted();
    test_lent();
    test_time();
    test_long_lines();
    test_depth();
    test_depth_of_data();
    test_json();
    return CHECK_REPORT();
}
