/*
 * overlap_strikes_test.c - memory that is refused once, a cancel, a bound of time or work that is
 * met, and a gradient that is no number, on one rank, wherever in a step whose sum travels during
 * backward: the step is none on all ranks, or one on all, with the same sentence; the next one has
 * the bits that it is to have; and not a byte is held.
 */
#include "overlap_support.h"

enum { MOST = 3 };
typedef enum { MEMORY, CANCEL, TIME, WORK, NOT_FINITE, WAYS } way;
static const struct {
    const char *name;
    int code, most; /* points that are looked at; with PF_LONG in the environment all are */
} ways[WAYS] = {{"allocation", PF_ENOMEM, 24},
                {"look, a cancel", PF_ECANCEL, 12},
                {"look, the time", PF_ELIMIT, 12},
                {"unit of work", PF_ELIMIT, 12},
                {"gradient", PF_ENUMERIC, 3}};

/* The second of three steps is struck on one rank, at point `at` of n, from 1; 0: nowhere. */
typedef struct struck struck;
struct struck {
    way how;
    int rank;
    long n, at;
    bool armed;
    atomic_int cancel;
    pf_meter *meter;
    struct {
        struck *of;
        long live; /* bytes */
    } memory[MOST];
    pf_allocator allocator[MOST];
    training t;
    int status[MOST], moved[MOST]; /* of the second step; steps that it made */
    char text[MOST][512];
};

static bool hits(struck *s, bool of_memory) {
    return s->armed && (s->how == MEMORY) == of_memory && ++s->n == s->at;
}

static void *resize_one(void *context, void *block, size_t old, size_t bytes) {
    struck *s = ((struck **)context)[0];
    long *live = (long *)((struck **)context + 1);
    if (context == &s->memory[s->rank] && bytes > old && hits(s, true)) return NULL;
    *live += (long)bytes - (long)old;
    if (bytes > 0) return realloc(block, bytes);
    free(block);
    return NULL;
}

static void look_at(void *own) {
    struck *s = own;
    if (!hits(s, false)) return;
    if (s->how == CANCEL) atomic_store(&s->cancel, 1);
    if (s->how == TIME) atomic_store(&s->meter->over, PF_OVER_TIME);
}

static int arm(struck *s, pf_engine *e) {
    const pf_limits limits = {.size = sizeof limits, .work = (uint64_t)s->at};
    s->n = 0, s->armed = true;
    if (s->how == MEMORY || s->how == NOT_FINITE) return PF_OK;
    PF_TRY(pf_meter_open(&s->meter, e, s->how == WORK ? &limits : NULL));
    PF_TRY(pf_meter_enter(s->meter));
    if (s->how != WORK) s->meter->looked = look_at, s->meter->own = s;
    return PF_OK;
}

static void disarm(struck *s) {
    if (s->how == WORK) s->n = (long)s->meter->work;
    s->armed = false;
    atomic_store(&s->cancel, 0);
    pf_meter_close(&s->meter);
}

/* As a script has it: lanes are dealt anew. */
static int begin_anew(pf_engine *e, pf_optimizer *o, const training *t) {
    for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    PF_TRY(pf_optimizer_set_lanes(o, e, lanes_of(t)));
    o->lanes->group = t->group;
    return PF_OK;
}

static int second_step(pf_engine *e, pf_module *m, pf_optimizer *o, struck *s) {
    const int rank = pf_comm_rank(e);
    const uint64_t before = pf_optimizer_steps(o);
    if (rank == s->rank) PF_TRY(arm(s, e));
    s->status[rank] = step_of(e, m, o, &s->t, 2);
    if (rank == s->rank) disarm(s);
    s->moved[rank] = (int)(pf_optimizer_steps(o) - before);
    snprintf(s->text[rank], sizeof s->text[0], "%s", s->status[rank] < 0 ? pf_last_error() : "");
    return s->status[rank] < 0 ? begin_anew(e, o, &s->t) : PF_OK;
}

static int train_struck(pf_engine *e, int rank, void *context) {
    struck *s = context;
    pf_config *options = options_of("{'type': 'adamw'}");
    pf_module *m = small_model(e, s->t.model);
    pf_optimizer *o = NULL;
    int status = pf_optimizer_new(&o, e, m, options);
    if (status >= 0) status = begin_anew(e, o, &s->t);
    if (status >= 0) status = step_of(e, m, o, &s->t, 1);
    if (status >= 0) status = second_step(e, m, o, s);
    if (status >= 0) status = step_of(e, m, o, &s->t, 3);
    s->t.bits[rank] = HASH_START;
    if (status >= 0) status = hash_weights(&s->t.bits[rank], m);
    if (status >= 0) status = hash_kept(&s->t.bits[rank], e, o);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* What is wrong with a run, of which a step that is none leaves other bits than one that is; or
 * NULL. */
static const char *fault_of(const struck *s, const ranks_world *w, const uint64_t bits[2]) {
    for (int r = 0; r < w->ranks; r++) {
        if (w->status[r] < 0) return "the next step fails";
        if (s->memory[r].live) return "bytes are held";
        if (s->status[r] != s->status[0]) return "another status on another rank";
        if (s->status[r] < 0 && s->status[r] != ways[s->how].code) return "another status";
        if (strcmp(s->text[r], s->text[0]) != 0) return "another sentence on another rank";
        if (s->moved[r] != s->moved[0]) return "a step on one rank alone";
        if (s->t.bits[r] != bits[s->moved[r]]) return "other bits";
    }
    return NULL;
}

static void strike(struck *s, int ranks, way how, int rank, long at, const uint64_t bits[2]) {
    ranks_world w = {.ranks = ranks, .whole = true, .timeout = 5};
    const int overlaps[] = {ALL, 1 << rank, ~(1 << rank)};
    *s = (struck){.how = how, .rank = rank, .at = at};
    s->t = (training){.model = PLAIN, .lanes = 2 * ranks, .group = 300};
    s->t.overlaps = overlaps[at % 3];
    s->t.nan = how == NOT_FINITE ? rank + 1 : 0;
    for (int r = 0; r < ranks; r++) {
        s->memory[r].of = s;
        s->allocator[r] = (pf_allocator){sizeof(pf_allocator), resize_one, &s->memory[r]};
        w.memory[r] = &s->allocator[r];
    }
    w.cancel[rank] = &s->cancel;
    ranks_run(&w, train_struck, s);
    const char *fault = bits ? fault_of(s, &w, bits) : NULL;
    if (!fault) return;
    fprintf(stderr, "  rank %d of %d, %s %ld: %s\n", rank, ranks, ways[how].name, at, fault);
    for (int r = 0; r < ranks; r++)
        fprintf(stderr, "    %d: %s (%s) moved %d\n", r, s->text[r], w.text[r], s->moved[r]);
    CHECK(false);
}

/* With the second step, and without it. */
static void bits_of(int ranks, uint64_t bits[2]) {
    struck s;
    strike(&s, ranks, MEMORY, 0, 0, NULL);
    bits[1] = s.t.bits[0];
    strike(&s, ranks, WORK, 0, 1, NULL);
    CHECK(s.moved[0] == 0 && s.status[ranks - 1] == PF_ELIMIT);
    bits[0] = s.t.bits[0];
    CHECK(bits[0] != bits[1]);
}

static void test_strikes(void) {
    struck s;
    uint64_t bits[2];
    for (int ranks = 2; ranks <= MOST; ranks++) {
        bits_of(ranks, bits);
        for (int rank = 0; rank < ranks; rank++)
            for (way how = MEMORY; how <= WORK; how++) {
                strike(&s, ranks, how, rank, 0, bits);
                const long n = s.n, some = how == WORK ? 400 : n;
                const long points = getenv("PF_LONG") ? some : pf_min(n, ways[how].most);
                if (getenv("PF_SHOW"))
                    fprintf(stderr, "%d/%d %s: %ld\n", rank, ranks, ways[how].name, n);
                for (long i = 0; i < points && check_failed < 8; i++)
                    strike(&s, ranks, how, rank, 1 + i * n / points, bits);
            }
    }
}

/* A gradient that is no number, on one rank alone. */
static void test_not_finite(void) {
    struck s;
    uint64_t bits[2];
    for (int ranks = 2; ranks <= MOST; ranks++) {
        bits_of(ranks, bits);
        for (int k = 0; k < ranks * ways[NOT_FINITE].most; k++) {
            strike(&s, ranks, NOT_FINITE, k % ranks, 1 + k / ranks, bits);
            CHECK(s.status[0] == PF_ENUMERIC && strstr(s.text[0], "is not finite"));
        }
    }
}

int main(void) {
    test_not_finite();
    test_strikes();
    return CHECK_REPORT();
}
