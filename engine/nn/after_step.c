/*
 * after_step.c - what follows a step of the optimizer in a model: kernels that are due are drawn
 * anew, tilts and centroids move. What must hold: of several ranks all come here, and what a layer
 * goes by is the same on each before it does: what its runs have noted is added up over the rows of
 * all, by the optimizer as its lanes are (train/lane_notes.c), or else here.
 */
#include <string.h>

#include "comm.h"
#include "module.h"

/* One block in all places of a chain moves once. */
static bool is_again(const pf_module *m, int child) {
    return child > 0 && m->child[child].module == m->child[child - 1].module;
}

/* ---- notes ---- */

/* f on the notes of each layer below m and on their place in `block`; how many numbers they are. */
typedef void (*note_fn)(float *notes, float *block, size_t n);

static int64_t each_note(const pf_module *m, float *block, note_fn f) {
    pf_tensor *notes = m->type->notes ? m->type->notes(m) : NULL;
    int64_t n = notes ? pf_tensor_numel(notes) : 0;
    if (n > 0 && f) f(pf_f32(notes), block, (size_t)n);
    for (int i = 0; i < m->n_child; i++) {
        if (is_again(m, i)) continue;
        n += each_note(m->child[i].module, block ? block + n : NULL, f);
    }
    return n;
}

static void clear(float *notes, float *block, size_t n) {
    (void)block;
    memset(notes, 0, n * sizeof *notes);
}

static void take(float *notes, float *block, size_t n) {
    PF_HOLDS(block);
    memcpy(block, notes, n * sizeof *notes);
    clear(notes, block, n);
}

/* A layer that the tree holds in several places was taken from at the first of them. */
static void put(float *notes, float *block, size_t n) {
    PF_HOLDS(block);
    for (size_t i = 0; i < n; i++) notes[i] += block[i];
}

int64_t pf_notes_count(const pf_module *m) { return each_note(m, NULL, NULL); }
void pf_notes_take(const pf_module *m, float *block) { each_note(m, block, take); }
void pf_notes_clear(const pf_module *m) { each_note(m, NULL, clear); }

void pf_notes_put(const pf_module *m, const float *block) {
    each_note(m, (float *)(uintptr_t)block, put); /* put only reads it */
}

/* Of ranks whose rows no optimizer has added: each is a lane. */
static int sum_notes(pf_engine *e, const pf_module *m) {
    const int64_t n = pf_notes_count(m);
    pf_tensor *block = NULL;
    if (!e->comm || n == 0) return PF_OK;
    int status = pf_tensor_make_lasting(&block, e->heap, PF_F32, 1, &n);
    status = pf_comm_agree(e, status);
    if (status >= 0) {
        pf_notes_take(m, pf_f32(block));
        status = pf_comm_sum(e, &block, 1);
        if (status >= 0) pf_notes_put(m, pf_f32(block));
    }
    pf_tensor_release(&block);
    return status;
}

/* ---- the step ---- */

static int after_step(pf_engine *engine, pf_module *module, uint64_t step, int *sum) {
    if (module->type->after_step) PF_TRY(module->type->after_step(module, engine, step, sum));
    for (int i = 0; i < module->n_child; i++) {
        if (is_again(module, i)) continue;
        PF_TRY(after_step(engine, module->child[i].module, step, sum));
    }
    return PF_OK;
}

int pf_module_follow(pf_engine *e, pf_module *m, uint64_t step, int *drawn) {
    int count = 0;
    PF_TRY(pf_watch_share(e, m));
    return after_step(e, m, step, drawn ? drawn : &count);
}

int pf_module_after_step(pf_engine *engine, pf_module *module, uint64_t step, int *drawn) {
    PF_OPEN(engine);
    PF_NEED(module);
    PF_TRY(sum_notes(engine, module));
    return pf_module_follow(engine, module, step, drawn);
}
