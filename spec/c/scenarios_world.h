/* scenarios_world.h - what a scenario (scenarios.h) works on: an engine of the test's, files that
 * are made once, a folder that is empty at first, and objects that the work must leave as they
 * were; sums that tell whether it did. */
#ifndef PF_SCENARIOS_WORLD_H
#define PF_SCENARIOS_WORLD_H

#include <sys/stat.h>
#include <zlib.h>

#include "attention.h"
#include "calls.h"
#include "nn_support.h"
#include "performer_attention.h"
#include "scratch.h"

enum { WORLD_TENSORS = 6 };

/* Above 0 the test's own hands are at work, sums and options: nothing is struck. */
static int scenario_asleep;

typedef struct {
    pf_engine *e;
    const char *what; /* the row's word */
    char files[256];  /* files to be read: text.txt, run/step-1, ... */
    char out[300];    /* a folder to write to */
    uint64_t result;  /* a sum of what the last run made */
    /* what stands before, or NULL */
    pf_tensor *t[WORLD_TENSORS];
    pf_module *model;
    pf_optimizer *optimizer;
    pf_stream *stream;
    pf_serving *serving; /* of sequences 1, 2 ... */
    pf_state *state, *later;
    pf_items *items;
    pf_config *options; /* that the work is given */
} world;

/* ---- sums ---- */

static inline uint64_t sum_bytes(uint64_t sum, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++) sum = (sum ^ at[i]) * 1099511628211u;
    return sum;
}

static inline uint64_t sum_text(uint64_t sum, const char *text) {
    return sum_bytes(sum, text, strlen(text) + 1);
}

static inline uint64_t sum_number(uint64_t sum, double x) { return sum_bytes(sum, &x, sizeof x); }

static inline uint64_t sum_tensor(uint64_t sum, const pf_tensor *t) {
    for (int64_t i = 0; t && i < pf_tensor_numel(t); i++) {
        double x = NAN;
        pf_tensor_get(t, i, &x);
        sum = sum_number(sum, x);
    }
    return sum_number(sum, t != NULL);
}

static inline uint64_t sum_config(uint64_t sum, const pf_config *node) {
    char *text = NULL;
    scenario_asleep++;
    CHECK_OK(pf_json_write(&text, node, false));
    sum = sum_text(sum, text ? text : "");
    pf_text_free(text);
    scenario_asleep--;
    return sum;
}

static inline uint64_t sum_module(uint64_t sum, pf_module *m) {
    pf_config *tree = NULL;
    scenario_asleep++;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        const char *name = "";
        pf_tensor *t = NULL;
        pf_module_tensor_at(m, i, &name, &t, NULL);
        sum = sum_tensor(sum_text(sum, name), t);
        sum = sum_number(sum, t && t->grad && !t->grad_stale);
    }
    CHECK_OK(pf_module_tree(&tree, m));
    sum = sum_config(sum, tree);
    pf_config_free(tree);
    scenario_asleep--;
    return sum;
}

static inline uint64_t sum_named(uint64_t sum, const pf_named *list, int n) {
    for (int i = 0; i < n; i++) sum = sum_tensor(sum_text(sum, list[i].name), list[i].tensor);
    return sum;
}

static inline uint64_t sum_optimizer(uint64_t sum, const pf_optimizer *o, pf_engine *e) {
    pf_named *list = NULL;
    int n = 0;
    scenario_asleep++;
    CHECK_OK(pf_optimizer_tensors(o, &list, &n));
    sum = sum_named(sum, list, n);
    pf_heap_free(e->heap, list, (size_t)n * sizeof *list);
    scenario_asleep--;
    return sum_number(sum, (double)pf_optimizer_steps(o));
}

static inline uint64_t sum_stream(uint64_t sum, const pf_stream *s) {
    int64_t n = 0;
    const float *logits = pf_stream_logits(s, &n);
    if (logits) sum = sum_bytes(sum, logits, (size_t)(n * pf_stream_batch(s)) * sizeof *logits);
    return sum_number(sum_number(sum, (double)pf_stream_position(s)), (double)pf_stream_bytes(s));
}

static inline uint64_t sum_serving(uint64_t sum, const pf_serving *s) {
    sum = sum_number(sum, (double)pf_serving_count(s));
    for (int64_t id = 1; id <= pf_serving_count(s); id++) {
        pf_sequence_info info = {.size = sizeof info};
        int64_t n = 0;
        const float *logits = pf_serving_logits(s, id, &n);
        CHECK_OK(pf_serving_sequence(&info, s, id));
        sum = sum_bytes(sum, &info, sizeof info);
        if (logits) sum = sum_bytes(sum, logits, (size_t)n * sizeof *logits);
    }
    return sum;
}

static inline uint64_t sum_state(uint64_t sum, pf_engine *e, const pf_state *s) {
    pf_named *list = NULL;
    pf_config *map = NULL;
    int n = 0;
    scenario_asleep++;
    CHECK_OK(pf_state_pack(e, s, &list, &n, &map));
    sum = sum_config(sum_named(sum, list, n), map);
    pf_named_free(list, n);
    pf_config_free(map);
    scenario_asleep--;
    return sum_number(sum, (double)pf_state_position(s));
}

/* Names and sizes below a folder, whatever order it gives them in: a run's name is drawn anew. */
static inline uint64_t sum_folder(const char *path) {
    DIR *dir = opendir(path);
    uint64_t sum = 1;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        struct stat info;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        const char *full = scratch_path("%s/%s", path, e->d_name);
        uint64_t one = sum_text(3, e->d_name);
        char below[512];
        CHECK(stat(full, &info) == 0);
        snprintf(below, sizeof below, "%s", full);
        sum +=
            S_ISDIR(info.st_mode) ? one + sum_folder(below) : sum_number(one, (double)info.st_size);
    }
    if (dir) closedir(dir);
    return sum;
}

/* All that the work must leave as it was where it fails. */
static inline uint64_t world_look(world *w) {
    uint64_t sum = 7;
    for (int i = 0; i < WORLD_TENSORS; i++) {
        if (!w->t[i]) continue;
        sum = sum_tensor(sum, w->t[i]);
        sum = sum_number(sum, w->t[i]->grad && !w->t[i]->grad_stale);
    }
    if (w->model) sum = sum_module(sum, w->model);
    if (w->optimizer) sum = sum_optimizer(sum, w->optimizer, w->e);
    if (w->stream) sum = sum_stream(sum, w->stream);
    if (w->serving) sum = sum_serving(sum, w->serving);
    if (w->state) sum = sum_state(sum, w->e, w->state);
    if (w->later) sum = sum_state(sum, w->e, w->later);
    if (w->items) sum = sum_number(sum, (double)pf_items_count(w->items));
    return sum + sum_folder(w->out);
}

/* ---- life ---- */

/* Lets go of the objects, and empties the folder. The engine is the test's. */
static inline void world_drop(world *w) {
    for (int i = 0; i < WORLD_TENSORS; i++) pf_tensor_release(&w->t[i]);
    pf_optimizer_close(&w->optimizer);
    pf_stream_close(&w->stream);
    pf_serving_close(&w->serving);
    pf_state_close(&w->state), pf_state_close(&w->later);
    pf_items_close(&w->items);
    pf_module_release(&w->model);
    pf_config_free(w->options);
    w->options = NULL;
    scratch_remove(w->out);
}

/* An empty folder, and an engine without objects. */
static inline void world_begin(world *w, pf_engine *e, const char *what) {
    w->e = e, w->what = what, w->result = 0;
    CHECK(mkdir(w->out, 0777) == 0);
}

/* For a run: so far so good? Then goes on. */
#define THEN(status, call)                                                                         \
    do {                                                                                           \
        if ((status) >= 0) (status) = (call);                                                      \
    } while (0)

static inline void put_file(const world *w, const char *name, const char *text, size_t bytes) {
    CHECK(scratch_write(scratch_path("%s/%s", w->files, name), text, bytes) == 0);
}

static inline void put_texts(const world *w) {
    char text[3000], *at = text;
    for (int i = 0; i < 40; i++) {
        at += sprintf(at, ">s%d\n", i);
        for (int k = 0; k < 10 + i % 7; k++) *at++ = "ACDEFGHIKLMNPQRSTVWY"[(i * 7 + k * k) % 20];
        *at++ = '\n';
    }
    put_file(w, "proteins.fasta", text, (size_t)(at - text));
    for (int i = 0; i < 2000; i++) text[i] = (char)('a' + i * i % 23);
    put_file(w, "text.txt", text, 2000);
    gzFile packed = gzopen(scratch_path("%s/text.txt.gz", w->files), "wb");
    CHECK(packed && gzwrite(packed, text, 2000) == 2000 && gzclose(packed) == Z_OK);
}

#endif
