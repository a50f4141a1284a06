/*
 * rank_memory_test.c - what an optimizer costs each of P ranks: a P-th of its moments, and while
 * rank 0 gathers them for a checkpoint all of them there, once, and nothing on the others. To load
 * a checkpoint costs little more than what comes of it; into what stands, a P-th of the moments
 * and the weights beside it.
 */
#include "lanes.h"
#include "lanes_support.h"
#include "scratch.h"

enum { MOMENTS = 2 * sizeof(float) }; /* a number's, of adamw */

typedef struct {
    int64_t numbers;
    size_t kept[RANKS_MOST], peak[RANKS_MOST], after[RANKS_MOST];
    size_t loaded[RANKS_MOST], loading[RANKS_MOST], restoring[RANKS_MOST];
    uint64_t bits[RANKS_MOST], again[RANKS_MOST];
} memory;

static char folder[256];

static int64_t count_numbers(pf_module *m) {
    int64_t n = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        bool trained;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, &trained));
        if (trained) n += pf_tensor_numel(t);
    }
    return n;
}

/* Moments that can be told from each other, by one step. */
static int move_once(pf_engine *e, pf_module *m, pf_optimizer *o) {
    PF_TRY(pf_optimizer_set_lanes(o, e, 4));
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *p;
        bool trained;
        PF_TRY(pf_module_tensor_at(m, i, NULL, &p, &trained));
        if (!trained) continue;
        PF_TRY(pf_tensor_make_lasting(&p->grad, e->heap, PF_F32, p->rank, p->shape));
        for (int64_t k = 0; k < pf_tensor_numel(p); k++) pf_f32(p->grad)[k] = (float)(k % 9973);
        p->grad_stale = false;
    }
    int first, last;
    pf_lanes_of(4, pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    for (int lane = first; lane < last; lane++) PF_TRY(pf_optimizer_fold(o, e));
    return pf_optimizer_step(o, e, 1e-3, 1, NULL);
}

/* What is saved comes back by a load, and into what stands, on each rank in little room. */
static int measure_loads(pf_engine *e, int rank, memory *all) {
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    size_t before = pf_heap_live(e->heap);
    pf_heap_reset_peak(e->heap);
    int status = pf_checkpoint_load(e, folder, &m, &o, NULL, NULL);
    all->loading[rank] = pf_heap_peak(e->heap) - before;
    before = pf_heap_live(e->heap) - before;
    all->loaded[rank] = before;
    status = pf_comm_agree(e, status);
    if (status >= 0) status = hash_kept(&all->again[rank], e, o);
    before = pf_heap_live(e->heap);
    pf_heap_reset_peak(e->heap);
    if (status >= 0) status = pf_checkpoint_restore(e, folder, m, o, NULL, NULL);
    all->restoring[rank] = pf_heap_peak(e->heap) - before;
    status = pf_comm_agree(e, status);
    if (status >= 0) status = hash_kept(&all->again[rank], e, o);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* The second gathering: what messages take is kept from the first one on. */
static int measure(pf_engine *e, int rank, void *context) {
    memory *all = context;
    pf_module *m = layer_of(e, "performer",
                            "{'vocab': 64, 'dim': 512, 'layers': 4, 'heads': 4, "
                            "'causal': true, 'kernel': {'name': 'relu'}}");
    pf_config *options = options_of("{'type': 'adamw'}");
    pf_optimizer *o = NULL;
    if (rank == 0) all->numbers = count_numbers(m);
    size_t before = pf_heap_live(e->heap);
    int status = pf_optimizer_new(&o, e, m, options);
    all->kept[rank] = pf_heap_live(e->heap) - before;
    for (int i = 0; i < 2 && status >= 0; i++) {
        before = pf_heap_live(e->heap);
        pf_heap_reset_peak(e->heap);
        status = pf_optimizer_gather(o, e);
        all->peak[rank] = pf_heap_peak(e->heap) - before;
        pf_optimizer_let_go(o);
        all->after[rank] = pf_heap_live(e->heap) - before;
    }
    if (status >= 0) status = move_once(e, m, o);
    for (int i = 0; i < 2 && status >= 0; i++) status = hash_kept(&all->bits[rank], e, o);
    if (status >= 0) status = pf_checkpoint_save(e, folder, 1, m, o, NULL, NULL, 1);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status < 0 ? status : measure_loads(e, rank, all);
}

/* Blocks are dealt whole: the largest share has one more than the mean at most. */
static void check_moments(const memory *m, int ranks) {
    const double whole = (double)m->numbers * MOMENTS;
    for (int r = 0; r < ranks; r++) {
        const double kept = (double)m->kept[r] / whole;
        if (kept > 1.02 / ranks) fprintf(stderr, "  rank %d of %d keeps %.4f\n", r, ranks, kept);
        CHECK(kept <= 1.02 / ranks);
    }
}

static void check_gathering(const memory *m, int ranks) {
    const double whole = (double)m->numbers * MOMENTS;
    for (int r = 0; r < ranks; r++) {
        const double peak = (double)m->peak[r] / whole;
        if (ranks == 1 ? peak > 0.01 : peak > (r == 0 ? 1.02 : 0.02))
            fprintf(stderr, "  rank %d of %d gathers %.4f\n", r, ranks, peak);
        CHECK(peak <= (r == 0 && ranks > 1 ? 1.02 : 0.02));
        CHECK(m->after[r] == 0);
    }
    CHECK(ranks == 1 || (double)m->peak[0] >= whole);
}

static void check_loads(const memory *m, int ranks) {
    const double whole = (double)m->numbers * MOMENTS, weights = whole / 2;
    const double share = 1.125 / ranks; /* the heap's larger blocks are of coarser sizes */
    for (int r = 0; r < ranks; r++) {
        const double more = (double)(m->loading[r] - m->loaded[r]) / whole;
        const double aside = ((double)m->restoring[r] - weights) / whole;
        if (more > 0.02 || aside > share + 0.02)
            fprintf(stderr, "  rank %d of %d: a load has %.4f more, a restore %.4f aside\n", r,
                    ranks, more, aside);
        CHECK(more <= 0.02);
        CHECK(aside <= share + 0.02);
        CHECK(m->bits[r] == m->again[r]);
    }
}

int main(void) {
    static const int counts[] = {1, 2, 3, 4};
    scratch_open(folder, sizeof folder);
    for (int i = 0; i < PF_COUNT(counts); i++) {
        memory m = {0};
        ranks_world w = {.ranks = counts[i], .threads = 1, .whole = true};
        ranks_run(&w, measure, &m);
        for (int r = 0; r < counts[i]; r++) {
            if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
            CHECK(w.status[r] == PF_OK);
        }
        check_moments(&m, counts[i]);
        check_gathering(&m, counts[i]);
        check_loads(&m, counts[i]);
    }
    scratch_remove(folder);
    return CHECK_REPORT();
}
