/*
 * api_checkpoint.c - checkpoints of models and optimizers: joins nn/ and train/, which know
 * no files, with io/, which knows no models. What must hold: a model is either loaded
 * whole, every tensor named and shaped as the file says, or not at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "fit.h"
#include "folder.h"
#include "folder_lock.h"
#include "module.h"
#include "optim.h"
#include "state_file.h"

#define FORMAT 1

/* ---- saving ------------------------------------------------------------------- */

/* Numbers of 64 bits go as text: a double would round them. */
static int set_u64(pf_config *map, const char *key, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return pf_config_set_string(map, key, text);
}

static int fill_state(pf_config *map, const pf_engine *engine, uint64_t step,
                      const pf_optimizer *optimizer, const pf_config *state) {
    PF_TRY(pf_config_set_number(map, "format", FORMAT));
    PF_TRY(pf_config_set_string(map, "version", pf_version()));
    PF_TRY(set_u64(map, "step", step));
    PF_TRY(set_u64(map, "seed", engine->seed));
    PF_TRY(set_u64(map, "draws", engine->draws));
    if (optimizer) {
        pf_config *config = NULL;
        PF_TRY(pf_optimizer_config(optimizer, &config));
        PF_TRY(pf_config_set(map, "optimizer", config));
    }
    if (!state) return PF_OK;
    if (pf_config_kind_of(state) != PF_MAP) {
        return pf_fail(PF_EINVAL, "checkpoint: the state is not a map");
    }
    return pf_config_set(map, "state", pf_config_copy_beside(map, state));
}

static int list_tensors(pf_named *list, int n, pf_module *module, int64_t *trained) {
    *trained = 0;
    for (int i = 0; i < n; i++) {
        bool counts;
        PF_TRY(pf_module_tensor_at(module, i, &list[i].name, &list[i].tensor, &counts));
        if (counts) *trained += pf_tensor_numel(list[i].tensor);
    }
    return PF_OK;
}

/* What the header of the weights says of them, for readers that know no config.json. */
static int make_metadata(pf_config **metadata, pf_heap *heap, int64_t trained) {
    *metadata = pf_config_new_in(heap, PF_MAP);
    if (!*metadata) return PF_ENOMEM;
    PF_TRY(pf_config_set_string(*metadata, "format", "performer"));
    PF_TRY(pf_config_set_string(*metadata, "version", pf_version()));
    return set_u64(*metadata, "params", (uint64_t)trained);
}

/* Everything that is written, in memory. */
typedef struct {
    pf_named *weights, *moments;
    int n_weights, n_moments;
    pf_config *metadata, *config, *state;
    pf_state_file carried;
} parts_store;

/* All lists and maps, so that writing meets no error but the disk's. */
static int collect_model(parts_store *p, pf_engine *engine, pf_module *module) {
    int64_t trained;
    int n = pf_module_tensor_count(module);
    if (n < 0) return n;
    p->weights = pf_heap_zalloc(engine->heap, (size_t)n * sizeof *p->weights);
    if (!p->weights) return PF_ENOMEM;
    p->n_weights = n;
    PF_TRY(list_tensors(p->weights, n, module, &trained));
    PF_TRY(make_metadata(&p->metadata, engine->heap, trained));
    return pf_module_tree(&p->config, module);
}

static int collect(parts_store *p, pf_engine *engine, uint64_t step, pf_module *module,
                   const pf_optimizer *optimizer, const pf_config *state) {
    PF_TRY(collect_model(p, engine, module));
    if (optimizer) PF_TRY(pf_optimizer_tensors(optimizer, &p->moments, &p->n_moments));
    p->state = pf_config_new_in(engine->heap, PF_MAP);
    if (!p->state) return PF_ENOMEM;
    return fill_state(p->state, engine, step, optimizer, state);
}

static void parts_free(parts_store *p, pf_heap *heap) {
    if (p->weights) pf_heap_free(heap, p->weights, (size_t)p->n_weights * sizeof *p->weights);
    if (p->moments) pf_heap_free(heap, p->moments, (size_t)p->n_moments * sizeof *p->moments);
    pf_state_file_free(&p->carried);
    pf_config_free(p->metadata);
    pf_config_free(p->config);
    pf_config_free(p->state);
}

int pf_checkpoint_save(pf_engine *engine, const char *dir, uint64_t step, pf_module *module,
                       const pf_optimizer *optimizer, const pf_config *state,
                       const pf_config *tokenizer, int keep) {
    PF_OPEN(engine);
    PF_NEED(dir, module);
    return pf_checkpoint_save_carried(engine, dir, step, module, optimizer, NULL, state, tokenizer,
                                      keep);
}

typedef struct {
    const char *dir;
    uint64_t step;
    pf_module *module;
    const pf_optimizer *optimizer;
    const pf_state *carried;
    const pf_config *state, *tokenizer;
    int keep;
} saving;

static int save_parts(pf_engine *engine, const saving *s) {
    parts_store p = {.carried.engine = engine};
    if (!*s->dir) return pf_fail(PF_EINVAL, "checkpoint: the folder's name is empty");
    if (s->keep < 0)
        return pf_fail(PF_EINVAL, "checkpoint: keep is %d: how many are kept, or 0 for all",
                       s->keep);
    int status = collect(&p, engine, s->step, s->module, s->optimizer, s->state);
    if (status >= 0 && s->carried) status = pf_state_fill(&p.carried, s->module, s->carried, NULL);
    if (status >= 0) {
        pf_parts parts = {.weights = p.weights,
                          .n_weights = p.n_weights,
                          .has_moments = s->optimizer != NULL,
                          .moments = p.moments,
                          .n_moments = p.n_moments,
                          .carried = p.carried.list,
                          .n_carried = p.carried.n,
                          .carried_metadata = p.carried.meta,
                          .metadata = p.metadata,
                          .config = p.config,
                          .state = p.state,
                          .tokenizer = s->tokenizer};
        status = pf_folder_save(engine, s->dir, s->step, &parts, s->keep);
    }
    parts_free(&p, engine->heap);
    return status;
}

/* A gigabyte on a slow disk. */
enum { PATIENCE = 3600 };

/* An optimizer's parts come to rank 0, which writes what one rank would; the others wait. */
int pf_checkpoint_save_carried(pf_engine *engine, const char *dir, uint64_t step, pf_module *module,
                               const pf_optimizer *optimizer, const pf_state *carried,
                               const pf_config *state, const pf_config *tokenizer, int keep) {
    PF_OPEN(engine);
    PF_NEED(dir, module);
    const saving s = {dir, step, module, optimizer, carried, state, tokenizer, keep};
    if (optimizer) PF_TRY(pf_optimizer_gather(optimizer, engine));
    if (pf_comm_rank(engine) != 0) pf_comm_patience(engine, PATIENCE);
    int status = pf_comm_rank(engine) == 0 ? save_parts(engine, &s) : PF_OK;
    if (optimizer) pf_optimizer_let_go(optimizer);
    status = pf_comm_agree(engine, status); /* what one rank could not write none has saved */
    pf_comm_patience(engine, 0);
    return status;
}

int pf_model_save(pf_engine *engine, const char *dir, pf_module *module,
                  const pf_config *tokenizer) {
    PF_OPEN(engine);
    PF_NEED(dir, module);
    parts_store p = {.carried.engine = engine};
    if (!*dir) return pf_fail(PF_EINVAL, "model: the folder's name is empty");
    int status = collect_model(&p, engine, module);
    if (status >= 0) {
        pf_parts parts = {.weights = p.weights,
                          .n_weights = p.n_weights,
                          .metadata = p.metadata,
                          .config = p.config,
                          .tokenizer = tokenizer};
        status = pf_folder_save_alone(engine, dir, &parts);
    }
    parts_free(&p, engine->heap);
    return status;
}

int pf_checkpoint_hold(pf_engine *engine, const char *dir) {
    PF_OPEN(engine);
    PF_NEED(dir);
    if (!*dir) return pf_fail(PF_EINVAL, "checkpoint: the folder's name is empty");
    return pf_folder_hold(engine, dir);
}

int pf_checkpoint_mark(pf_engine *engine, const char *dir, const char *mark, uint64_t step) {
    PF_OPEN(engine);
    PF_NEED(dir, mark);
    if (!*dir) return pf_fail(PF_EINVAL, "checkpoint: the folder's name is empty");
    return pf_folder_mark(engine, dir, mark, step);
}

/* ---- weights ------------------------------------------------------------------ */

/* hash: what the file must sum up to, NULL where that is known. */
static int open_weights(pf_safetensors *s, pf_engine *engine, const char *folder, char **path,
                        const char *hash) {
    PF_TRY(pf_path(path, engine, "%s/model.safetensors", folder));
    int status = pf_safetensors_open(s, engine, *path, hash);
    if (status >= 0) return PF_OK;
    pf_path_free(*path);
    return status;
}

/* Can tensors of a folder's files have former names? */
static int has_former(bool *former, pf_engine *engine, const char *folder) {
    pf_config *tree;
    PF_TRY(pf_folder_config(&tree, engine, folder, "config.json"));
    *former = pf_tree_has_former(tree);
    pf_config_free(tree);
    return PF_OK;
}

/* What a file says is wrong in the file, whatever it would be in a call. */
static int in_file(int status, const char *name) {
    bool misuse = status == PF_EINVAL || status == PF_ESHAPE || status == PF_EDTYPE;
    return pf_fail_in(misuse ? PF_EFORMAT : status, "%s", name);
}

/* The model of shapes alone that config.json describes: no more of it than there are tensors for
 * in the file, but for some that are to be told apart. Most layers have a tensor or two. */
static int build_shapes(pf_module **module, bool *former, pf_engine *engine, const char *folder,
                        int tensors) {
    pf_loading loading = {.tensors = tensors + tensors / 4 + 64,
                          .modules = 8 * (int64_t)tensors + 1024};
    pf_config *tree;
    PF_TRY(pf_folder_config(&tree, engine, folder, "config.json"));
    *former = pf_tree_has_former(tree);
    engine->loading = &loading;
    int status = pf_module_build(module, engine, tree);
    engine->loading = NULL;
    pf_config_free(tree);
    return status < 0 ? in_file(status, "config.json") : PF_OK;
}

/* Built without numbers, held against the file, and only then filled. */
static int load_model(pf_module **module, pf_engine *engine, const char *folder, const char *hash,
                      bool mapped) {
    pf_safetensors s;
    char *path;
    bool former;
    uint64_t draws = engine->draws;
    PF_TRY(open_weights(&s, engine, folder, &path, hash));
    int status = mapped ? pf_safetensors_map(&s) : PF_OK;
    if (status >= 0) status = build_shapes(module, &former, engine, folder, s.n);
    if (status >= 0) status = pf_fit_model(engine, &s, former, *module);
    if (status >= 0) status = pf_module_derive(*module);
    pf_safetensors_close(&s);
    pf_path_free(path);
    if (status >= 0) return PF_OK;
    pf_module_release(module);
    engine->draws = draws;
    return status;
}

static int use_model(void *context, pf_engine *engine, const char *folder, const char *hash) {
    int status = load_model(context, engine, folder, hash, false);
    return status < 0 ? pf_fail_in(status, "%s", folder) : PF_OK;
}

static int use_mapped(void *context, pf_engine *engine, const char *folder, const char *hash) {
    int status = load_model(context, engine, folder, hash, true);
    return status < 0 ? pf_fail_in(status, "%s", folder) : PF_OK;
}

int pf_model_load(pf_module **module, pf_engine *engine, const char *dir) {
    PF_OUT(module);
    PF_OPEN(engine);
    PF_NEED(dir);
    return pf_folder_use(engine, dir, PF_FOR_MODEL, use_model, module);
}

int pf_model_load_mapped(pf_module **module, pf_engine *engine, const char *dir) {
    PF_OUT(module);
    PF_OPEN(engine);
    PF_NEED(dir);
    return pf_folder_use(engine, dir, PF_FOR_MODEL, use_mapped, module);
}

/* ---- optimizer and state ------------------------------------------------------ */

/* What set_u64 wrote; 0 where the map has none. */
static int get_u64(uint64_t *value, const pf_config *map, const char *key) {
    const pf_config *node = pf_config_get(map, key);
    const char *text = node ? pf_config_string(node) : "0";
    char *end = NULL;
    errno = 0;
    *value = text && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    if (end && !*end && errno == 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "state.json: '%s' is no whole number of 64 bits, as text", key);
}

/* {type, options, steps} as the options of a new optimizer, type among them. */
static int optimizer_options(pf_config **options, pf_heap *heap, const pf_config *config) {
    const pf_config *given = pf_config_get(config, "options");
    const char *type = pf_config_string(pf_config_get(config, "type"));
    *options = given ? pf_config_copy_in(heap, given) : pf_config_new_in(heap, PF_MAP);
    if (!*options) return PF_ENOMEM;
    int status = type ? pf_config_set_string(*options, "type", type) : PF_OK;
    if (status < 0) pf_config_free(*options);
    return status;
}

/* *optimizer stays NULL when the checkpoint was saved without one. */
static int load_optimizer(pf_optimizer **optimizer, pf_engine *engine, const char *folder,
                          bool former, pf_module *module, const pf_config *file) {
    const pf_config *config = pf_config_get(file, "optimizer");
    if (!config) return PF_OK;
    pf_config *options;
    PF_TRY(optimizer_options(&options, engine->heap, config));
    int status = pf_optimizer_new(optimizer, engine, module, options);
    pf_config_free(options);
    if (status < 0) return in_file(status, "state.json");
    return pf_fit_moments(engine, folder, former, *optimizer, true, config);
}

/* The caller's own state as it was given, and the step. */
static int take_state(pf_config **state, pf_engine *engine, const pf_config *file) {
    const pf_config *given = pf_config_get(file, "state");
    uint64_t step;
    if (given && pf_config_kind_of(given) != PF_MAP) {
        return pf_fail(PF_EFORMAT, "state.json: 'state' is not a map");
    }
    PF_TRY(get_u64(&step, file, "step"));
    *state =
        given ? pf_config_copy_in(engine->heap, given) : pf_config_new_in(engine->heap, PF_MAP);
    if (!*state) return PF_ENOMEM;
    if (pf_config_get(*state, "step")) return PF_OK;
    return pf_config_set_number(*state, "step", (double)step);
}

/* state.json; NULL where a folder has none. */
static int read_state(pf_config **file, pf_engine *engine, const char *folder) {
    PF_TRY(pf_folder_config(file, engine, folder, "state.json"));
    double format = pf_config_number(pf_config_get(*file, "format"));
    if (!*file || format == FORMAT) return PF_OK;
    pf_config_free(*file);
    *file = NULL;
    return pf_fail(PF_EFORMAT, "state.json has format %g; this version reads format %d", format,
                   FORMAT);
}

/* What a load gives back; a place that is NULL is not asked for. */
typedef struct {
    pf_module **module;
    pf_optimizer **optimizer;
    pf_config **state, **tokenizer;
    pf_module *into; /* restore: what is there already */
    pf_optimizer *optimizer_into;
} wanted;

static int restore_optimizer(const wanted *w, pf_engine *engine, const char *folder, bool former,
                             const pf_config *file) {
    const pf_config *config = pf_config_get(file, "optimizer");
    if (!w->optimizer_into) return PF_OK;
    if (!config) return pf_fail(PF_ENOTFOUND, "the checkpoint holds no optimizer");
    return pf_fit_moments(engine, folder, former, w->optimizer_into, false, config);
}

/* Whatever can be refused is, and all is read, before a number of model or optimizer changes. */
static int check_writable(pf_module *module) {
    int n = pf_module_tensor_count(module);
    for (int i = 0; i < n; i++) {
        pf_tensor *tensor;
        PF_TRY(pf_module_tensor_at(module, i, NULL, &tensor, NULL));
        PF_TRY(pf_tensor_check_writable(tensor, "restore"));
    }
    return n < 0 ? n : PF_OK;
}

static int restore_parts(const wanted *w, pf_engine *engine, const char *folder, bool former,
                         const pf_config *file) {
    pf_safetensors s;
    char *path;
    pf_aside a;
    PF_TRY(check_writable(w->into));
    PF_TRY(open_weights(&s, engine, folder, &path, NULL));
    int status = pf_aside_read(&a, engine, &s, former, w->into);
    if (status >= 0) status = restore_optimizer(w, engine, folder, former, file);
    if (status >= 0) status = pf_aside_put(&a);
    pf_aside_free(&a, engine);
    pf_safetensors_close(&s);
    pf_path_free(path);
    return status;
}

/* In the order of need: a model before the optimizer that trains it; last what stands already. */
static int load_parts(wanted *w, pf_engine *engine, const char *folder, const char *hash,
                      const pf_config *file) {
    bool former = false;
    if (w->optimizer || w->into) PF_TRY(has_former(&former, engine, folder));
    if (w->module) PF_TRY(load_model(w->module, engine, folder, hash, false));
    if (w->optimizer)
        PF_TRY(load_optimizer(w->optimizer, engine, folder, former, *w->module, file));
    if (w->state) PF_TRY(take_state(w->state, engine, file));
    if (w->tokenizer) PF_TRY(pf_folder_config(w->tokenizer, engine, folder, "tokenizer.json"));
    return w->into ? restore_parts(w, engine, folder, former, file) : PF_OK;
}

/* A load that fails gives nothing. */
static void drop_parts(wanted *w) {
    if (w->optimizer) pf_optimizer_close(w->optimizer);
    if (w->module) pf_module_release(w->module);
    if (w->state) pf_config_free(*w->state), *w->state = NULL;
    if (w->tokenizer) pf_config_free(*w->tokenizer), *w->tokenizer = NULL;
}

static int read_wanted(wanted *w, pf_engine *engine, const char *folder, const char *hash) {
    pf_config *file = NULL;
    uint64_t seed = 0, draws = 0;
    PF_TRY(read_state(&file, engine, folder));
    int status = get_u64(&seed, file, "seed");
    if (status >= 0) status = get_u64(&draws, file, "draws");
    if (status >= 0) status = load_parts(w, engine, folder, hash, file);
    bool trains = (w->optimizer && *w->optimizer) || w->optimizer_into;
    /* Who takes the optimizer goes on with the training: then the random numbers go on too. */
    if (status >= 0 && trains && pf_config_get(file, "seed")) {
        engine->seed = seed;
        engine->draws = draws;
    }
    pf_config_free(file);
    return status;
}

static int use_wanted(void *context, pf_engine *engine, const char *folder, const char *hash) {
    int status = read_wanted(context, engine, folder, hash);
    if (status >= 0) return PF_OK;
    drop_parts(context);
    return pf_fail_in(status, "checkpoint: %s", folder);
}

/* A model of one's own must not get a damaged number: there all is summed up before it is read. So
 * it is where no model is asked for, and nobody would read the weights. */
static int load_wanted(wanted *w, pf_engine *engine, const char *dir) {
    char *folder;
    if (w->module) *w->module = NULL;
    if (w->optimizer) *w->optimizer = NULL;
    if (w->state) *w->state = NULL;
    if (w->tokenizer) *w->tokenizer = NULL;
    const bool trains = w->optimizer || w->optimizer_into;
    const pf_purpose purpose = trains ? PF_FOR_TRAINING : PF_FOR_MODEL;
    if (w->module) return pf_folder_use(engine, dir, purpose, use_wanted, w);
    PF_TRY(pf_folder_find(engine, &folder, dir, true, purpose));
    int status = use_wanted(w, engine, folder, NULL);
    pf_path_free(folder);
    return status;
}

int pf_checkpoint_load(pf_engine *engine, const char *dir, pf_module **module,
                       pf_optimizer **optimizer, pf_config **state, pf_config **tokenizer) {
    PF_OPEN(engine);
    PF_NEED(dir);
    wanted w = {.module = module, .optimizer = optimizer, .state = state, .tokenizer = tokenizer};
    if (optimizer && !module) {
        return pf_fail(PF_EINVAL, "checkpoint: an optimizer needs its model: ask for both");
    }
    return load_wanted(&w, engine, dir);
}

int pf_checkpoint_restore(pf_engine *engine, const char *dir, pf_module *module,
                          pf_optimizer *optimizer, pf_config **state, pf_config **tokenizer) {
    PF_OPEN(engine);
    PF_NEED(dir, module);
    wanted w = {
        .into = module, .optimizer_into = optimizer, .state = state, .tokenizer = tokenizer};
    return load_wanted(&w, engine, dir);
}
