/*
 * rank_memory_test.c - what an optimizer costs each of P ranks: a P-th of its moments, and while
 * rank 0 gathers them for a checkpoint all of them there, once, and nothing on the others.
 */
#include "lanes_support.h"

enum { MOMENTS = 2 * sizeof(float) }; /* a number's, of adamw */

typedef struct {
    int64_t numbers;
    size_t kept[RANKS_MOST], peak[RANKS_MOST], after[RANKS_MOST];
} memory;

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
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
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

int main(void) {
    static const int counts[] = {1, 2, 3, 4};
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
    }
    return CHECK_REPORT();
}
