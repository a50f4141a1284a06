/*
 * api_state_load.c - reading streaming states from files (state_file.h). A file is whole, of
 * this format, of this kernel or model, and every tensor is there with its shape, or nothing
 * is loaded. No size that the file claims asks for memory before a tensor has proved it.
 */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "state_file.h"

enum { MAX_SIZE = 1 << 20 };
#define MAX_POSITION ((double)((int64_t)1 << 53))

/* ---- metadata ---- */

static int damaged(const char *what) {
    return pf_fail(PF_EFORMAT, "state: %s; the file is damaged or of another version", what);
}

static const char *text_of(const pf_state_file *f, const char *key) {
    const pf_config *value = f->meta ? pf_config_get(f->meta, key) : NULL;
    const char *text = value ? pf_config_string(value) : NULL;
    return text ? text : "";
}

static int size_of(const pf_state_file *f, const char *key, int64_t *size) {
    const char *text = text_of(f, key);
    char *end = NULL;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || value < 1 || value > MAX_SIZE) {
        return pf_fail(PF_EFORMAT, "state: '%s' is '%.32s', not a size", key, text);
    }
    *size = value;
    return PF_OK;
}

/* Text of the metadata as the data that it must be. */
static int json_of(const pf_state_file *f, const char *key, pf_config_kind kind,
                   pf_config **value) {
    pf_heap *heap = f->engine->heap;
    const char *text = text_of(f, key);
    size_t bytes = strlen(text) + 1;
    char *own = pf_heap_alloc(heap, bytes);
    if (!own) return PF_ENOMEM;
    memcpy(own, text, bytes);
    int status = pf_json_read(value, f->engine, own, bytes - 1, "state");
    pf_heap_free(heap, own, bytes);
    if (status < 0) return status;
    if (pf_config_kind_of(*value) == kind) return PF_OK;
    return pf_fail(PF_EFORMAT, "state: '%s' in the file is not what it must be", key);
}

/* ---- opening ---- */

/* Format, version, checksum and kind, before anything in it is believed. */
static int check_whole(const pf_state_file *f, const char *kind) {
    char hash[PF_HASH_TEXT];
    if (strcmp(text_of(f, "format"), PF_STATE_FORMAT) != 0) {
        return pf_fail(PF_EFORMAT, "state: this file holds no state");
    }
    if (strcmp(text_of(f, "version"), PF_STATE_VERSION) != 0) {
        return pf_fail(PF_EFORMAT, "state: version %.16s of the format is not known here",
                       text_of(f, "version"));
    }
    PF_TRY(pf_state_digest(f, hash));
    if (strcmp(text_of(f, "checksum"), hash) != 0) return damaged("its checksum does not match");
    if (strcmp(text_of(f, "kind"), kind) == 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "state: the file holds a state of %s, wanted is one of %s",
                   strcmp(kind, "model") == 0 ? "attention alone" : "a model",
                   strcmp(kind, "model") == 0 ? "a model" : "attention alone");
}

static int read_texts(pf_state_file *f, const char *kind) {
    PF_TRY(check_whole(f, kind));
    PF_TRY(json_of(f, "positions", PF_LIST, &f->positions));
    PF_TRY(json_of(f, "recent", PF_LIST, &f->recent));
    return json_of(f, "hosts", PF_MAP, &f->hosts);
}

static int read_file(pf_state_file *f, const char *path, const char *kind) {
    PF_TRY(pf_safetensors_load(f->engine, path, &f->list, &f->n, &f->meta));
    return read_texts(f, kind);
}

static pf_tensor *find_tensor(const pf_state_file *f, const char *path, const char *name) {
    size_t n = strlen(path);
    for (int i = 0; i < f->n; i++) {
        if (strncmp(f->list[i].name, path, n) == 0 && strcmp(f->list[i].name + n, name) == 0) {
            return f->list[i].tensor;
        }
    }
    return NULL;
}

/* ---- filling a tree ---- */

static int fill_position(pf_state_file *f, pf_state *s) {
    const pf_config *position = pf_config_at(f->positions, f->node);
    const pf_config *recent = pf_config_at(f->recent, f->node);
    if (!position || !recent) return damaged("it has fewer layers than the model");
    f->node++;
    double p = pf_config_number(position), r = pf_config_number(recent);
    bool good = p >= 0 && p <= MAX_POSITION && p == (double)(int64_t)p;
    if (!good) return damaged("a position in it is none");
    good = r >= 0 && r <= p && r == (double)(int64_t)r;
    if (!good) return damaged("a count of steps in it is none");
    s->position = (int64_t)p;
    s->recent = (int64_t)r;
    return PF_OK;
}

/* Files of 0.1.0 are without the last ids of an n-gram layer: these stay unknown, as they were
 * when that version loaded one. */
static bool may_lack(const pf_state *s) { return strcmp(s->kind->name, "ngrams") == 0; }

/* Tensor i of the node from the file's; a growing one has as many rows as the position says. */
static int fill_tensor(pf_state_file *f, pf_state *s, int i, const char *path) {
    const char *name = s->kind->tensor[i];
    pf_tensor *from = find_tensor(f, path, name), *to = s->tensor[i];
    int64_t shape[PF_MAX_RANK];
    if (!from && may_lack(s)) return PF_OK;
    if (!from) return pf_fail(PF_EFORMAT, "state: the file lacks the tensor '%s%s'", path, name);
    memcpy(shape, to->shape, sizeof shape);
    if (s->kind->grows) shape[2] = pf_state_held(s);
    bool fits = from->dtype == to->dtype && from->rank == to->rank;
    for (int k = 0; fits && k < to->rank; k++) fits = from->shape[k] == shape[k];
    if (!fits) {
        return pf_fail(PF_EFORMAT, "state: '%s%s' in the file is %s, must be %s", path, name,
                       pf_shape_of(from), pf_shape_text(to->rank, shape));
    }
    f->used++;
    if (s->kind->grows) {
        pf_tensor_release(&s->tensor[i]);
        PF_TRY(pf_tensor_make_lasting(&s->tensor[i], s->heap, from->dtype, from->rank, shape));
    }
    return pf_tensor_copy(s->tensor[i], from);
}

/* Rows of a layer have positions; of a layer of the host's only the host knows what they are. */
static int least_rank(const pf_state *s) { return strcmp(s->kind->name, "host") == 0 ? 1 : 3; }

/* What only a part of a row leaves has no place yet in a state that saw none: as the file has it,
 * of as many sequences. */
static int make_place(const pf_state_file *f, pf_state *s, int i, const char *path) {
    if (!(s->kind->parts_only >> i & 1)) return PF_OK;
    const pf_tensor *from = find_tensor(f, path, s->kind->tensor[i]);
    if (!from) return PF_OK;
    if (from->rank < least_rank(s) || from->shape[0] != s->batch)
        return damaged("a row in it has no batch");
    return pf_tensor_make_lasting(&s->tensor[i], s->heap, from->dtype, from->rank, from->shape);
}

/* A layer of the host gets back what it gave: tensors under path + "host.", and data. */
static int fill_host(pf_state_file *f, pf_state *s, const char *path) {
    const pf_config *data = pf_config_get(f->hosts, path);
    char below[PF_STATE_PATH + 8];
    size_t length = strlen(path) + 5;
    int n = 0;
    if (!data) return PF_OK;
    if (!s->layer.load_state) {
        return pf_fail(PF_ESTATE, "state: the file holds what a layer of the host kept, but "
                                  "there is none that can take it back");
    }
    memcpy(below, path, length - 5);
    memcpy(below + length - 5, "host.", 6);
    size_t bytes = (size_t)f->n * sizeof(pf_named);
    pf_named *list = pf_heap_alloc(f->engine->heap, bytes);
    if (!list) return PF_ENOMEM;
    for (int i = 0; i < f->n; i++) {
        if (strncmp(f->list[i].name, below, length) != 0) continue;
        list[n++] = (pf_named){f->list[i].name + length, f->list[i].tensor};
    }
    f->used += n;
    uint64_t before = pf_failures();
    int status = s->layer.load_state(s->layer.context, f->engine, list, n, data, &s->host);
    pf_heap_free(f->engine->heap, list, bytes);
    if (status >= 0) return PF_OK;
    return pf_callback_failed(status, before, "state: the load_state of a layer of the host");
}

/* In the order in which the file was written (api_state.c). */
static int fill_tree(pf_state_file *f, pf_state *s, const char *path) {
    PF_TRY(fill_position(f, s));
    for (int i = 0; i < PF_STATE_TENSORS && s->kind; i++) {
        if (!s->tensor[i]) PF_TRY(make_place(f, s, i, path));
        if (s->tensor[i]) PF_TRY(fill_tensor(f, s, i, path));
    }
    PF_TRY(fill_host(f, s, path));
    for (int i = 0; i < s->n_child; i++) {
        char below[PF_STATE_PATH];
        PF_TRY(pf_state_place(below, path, i));
        if (s->child[i]) PF_TRY(fill_tree(f, s->child[i], below));
    }
    return PF_OK;
}

/* The whole tree; `others`: tensors of the file that are none of the tree's. */
static int fill_state(pf_state_file *f, pf_state *s, int others) {
    PF_TRY(fill_tree(f, s, ""));
    if (f->node == pf_config_size(f->positions) && f->used + others == f->n) return PF_OK;
    return damaged("it holds more than this state");
}

/* ---- states of attention alone ---- */

/* Opening a state takes room for its tensors and work for the features of its heads: so the sizes
 * that the file claims are first held against the sums S (batch, heads, r, value_dim) that it
 * holds. Features are at least as many as the projection's rows, or as the head is wide. A kind
 * without S in its files makes nothing of its sizes before keys come. */
static int check_sizes(const pf_state_file *f, const pf_attention_state_options *o,
                       const pf_config *words, const pf_tensor *projection) {
    const pf_attention_kind *kind = pf_kind_of_words(words);
    const pf_tensor *S = find_tensor(f, "", "s"), *w = projection;
    int64_t least = w && w->rank >= 2 ? w->shape[w->rank - 2] : o->head_dim;
    if (!kind->state || kind->state->grows) return PF_OK;
    if (S && S->rank == 4 && S->shape[0] == o->batch && S->shape[1] == o->heads &&
        S->shape[2] >= least && S->shape[3] == o->value_dim) {
        return PF_OK;
    }
    return pf_fail(PF_EFORMAT,
                   "state: 's' in the file is %s, but it says %lld sequences of %lld "
                   "heads with %lld features or more and values of %lld",
                   S ? pf_shape_of(S) : "not there", (long long)o->batch, (long long)o->heads,
                   (long long)least, (long long)o->value_dim);
}

/* What the file says of its attention: words of a kernel, and sizes. */
static int read_sizes(const pf_state_file *f, pf_attention_state_options *o, pf_config **words) {
    PF_TRY(json_of(f, "kernel", PF_MAP, words));
    PF_TRY(size_of(f, "batch", &o->batch));
    PF_TRY(size_of(f, "heads", &o->heads));
    PF_TRY(size_of(f, "head_dim", &o->head_dim));
    PF_TRY(size_of(f, "value_dim", &o->value_dim));
    o->size = sizeof *o;
    o->decay = find_tensor(f, "", "decay");
    const pf_attention_kind *kind = pf_kind_of_words(*words);
    if (kind->rooms) o->table = find_tensor(f, "", kind->rooms->table);
    return PF_OK;
}

/* A file that names what can't be opened is not a good file. */
static int open_named(pf_state **state, pf_state_file *f, const pf_attention_state_options *o,
                      const pf_config *words) {
    pf_tensor *projection = find_tensor(f, "", "projection");
    PF_TRY(check_sizes(f, o, words, projection));
    int status = pf_alone_restore(state, f->engine, words, projection, o);
    if (status >= 0 || pf_of_moment(status)) return status;
    return pf_fail_in(PF_EFORMAT, "state: what the file says of its kernel does not hold");
}

/* The numbers that the file's kernel gave where it was saved, against those that it gives here. */
static int check_fingerprint(const pf_state *state, pf_tensor *fingerprint) {
    const pf_alone *alone = pf_alone_of(state);
    pf_alone says = *alone;
    says.fingerprint = fingerprint;
    if (pf_alone_alike(alone, &says) >= 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "state: the kernel that the file names gives other features "
                               "here than where it was saved");
}

/* Without the host's map, its sums would take rows for features. Files of 0.1.0 don't tell them
 * from features that were given. */
static int check_host(const pf_state_file *f, const pf_attention_state_options *options) {
    const char *name = text_of(f, "host");
    if (!name[0] || options) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "state: it is of the custom kernel '%.64s', whose map no file holds: give that "
                   "kernel",
                   name);
}

/* The state as the file says, and, with options, one of these in its place: of a kernel of the
 * host's the file has the name and the features' numbers alone. */
static int read_alone(pf_state **state, pf_state_file *f,
                      const pf_attention_state_options *options) {
    pf_attention_state_options o = {0};
    pf_config *words = NULL;
    pf_tensor *fingerprint = find_tensor(f, "", "fingerprint");
    PF_TRY(check_host(f, options));
    int status = read_sizes(f, &o, &words);
    if (status >= 0) {
        if (pf_kernel_words_given(words)) o.fingerprint = fingerprint;
        status = open_named(state, f, &o, words);
    }
    pf_config_free(words);
    PF_TRY(status);
    PF_TRY(check_fingerprint(*state, fingerprint));
    if (options) {
        status = pf_alone_adopt(*state, f->engine, options);
        if (status < 0) return pf_of_moment(status) ? status : pf_fail_in(PF_EFORMAT, "state");
    }
    return fill_state(f, *state,
                      !!find_tensor(f, "", "projection") + !!o.decay + !!fingerprint + !!o.table);
}

/* ---- states of models ---- */

static int check_model(const pf_state_file *f, const pf_module *module) {
    char hash[PF_HASH_TEXT];
    PF_TRY(pf_module_digest(f->engine, module, hash));
    if (strcmp(text_of(f, "model"), hash) == 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "state: the file's state is of another model, or of this one with "
                               "other weights");
}

/* A state of `batch` sequences as the file's is: a stream's, or one that rows go on from. */
static int module_state(pf_state **state, const pf_state_file *f, const pf_module *module,
                        int64_t batch) {
    const char *text = text_of(f, "keep");
    if (!*text) return pf_state_of(module, f->engine, batch, state);
    char *end = NULL;
    long long keep = strtoll(text, &end, 10);
    if (end == text || *end || keep < 0) return damaged("what it keeps is no number");
    bool rows = strcmp(text_of(f, "form"), PF_CARRY_ROWS) == 0;
    return pf_carry_make(state, f->engine, module, batch, keep, rows);
}

/* A batch of the model's states is no larger than the tensors that are to fill it. */
static int check_batch(const pf_state_file *f, const pf_module *module, int64_t batch) {
    pf_state *one = NULL;
    double held = 0;
    PF_TRY(module_state(&one, f, module, 1));
    double wanted = (double)pf_state_bytes(one) * (double)batch;
    pf_state_close(&one);
    for (int i = 0; i < f->n; i++) {
        const pf_tensor *t = f->list[i].tensor;
        held += (double)pf_tensor_numel(t) * (double)pf_dtype_size(t->dtype);
    }
    return held >= wanted ? PF_OK : damaged("it holds less than its sequences need");
}

/* A tensor (batch, vocab) of what is picked from, copied out of the file. */
static int read_picked(pf_tensor **to, const pf_state_file *f, pf_tensor *rows, const char *name,
                       pf_dtype dtype, int64_t batch) {
    if (rows->dtype == dtype && rows->rank == 2 && rows->shape[0] == batch) {
        return pf_tensor_detach(to, f->engine, rows);
    }
    return pf_fail(PF_EFORMAT, "state: '%s' in the file is %s, must be (%lld, vocab)", name,
                   pf_shape_of(rows), (long long)batch);
}

static int read_module(pf_state **state, pf_state_file *f, const pf_module *module,
                       pf_picked *picked) {
    int64_t batch = 0;
    PF_TRY(size_of(f, "batch", &batch));
    PF_TRY(check_model(f, module));
    PF_TRY(check_batch(f, module, batch));
    PF_TRY(module_state(state, f, module, batch));
    pf_tensor *rows = find_tensor(f, "", "logits");
    pf_tensor *seen = rows ? find_tensor(f, "", "seen") : NULL;
    PF_TRY(fill_state(f, *state, (rows != NULL) + (seen != NULL)));
    if (!rows || !picked) return PF_OK;
    PF_TRY(read_picked(&picked->logits, f, rows, "logits", PF_F32, batch));
    if (!seen) return PF_OK;
    if (seen->rank != 2 || seen->shape[1] != rows->shape[1]) {
        return damaged("its logits and its tokens are of two vocabularies");
    }
    return read_picked(&picked->seen, f, seen, "seen", PF_I32, batch);
}

int pf_module_state_read(pf_state **state, pf_engine *e, const pf_module *module, pf_picked *picked,
                         const char *path) {
    pf_state_file f = {.engine = e};
    *state = NULL;
    int status = read_file(&f, path, "model");
    if (status >= 0) status = read_module(state, &f, module, picked);
    pf_state_file_free(&f);
    if (status >= 0) return status;
    pf_state_close(state);
    return pf_fail_in(status, "%s", path);
}

/* ---- public ---- */

int pf_state_load(pf_state **state, pf_engine *engine, const char *path,
                  const pf_attention_state_options *options) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(path);
    pf_attention_state_options checked;
    PF_TRY(pf_options_take(&checked, sizeof checked, options, "state"));
    pf_state_file f = {.engine = engine};
    int status = read_file(&f, path, "attention");
    if (status >= 0) status = read_alone(state, &f, options);
    pf_state_file_free(&f);
    if (status >= 0) return status;
    pf_state_close(state);
    return pf_fail_in(status, "%s", path);
}

int pf_state_unpack(pf_state **state, pf_engine *engine, const pf_named *tensors, int n,
                    const pf_config *metadata) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(metadata);
    PF_NEED_ARRAY(tensors, n);
    if (n < 0) return pf_fail(PF_EINVAL, "state: %d tensors", n);
    pf_state_file f = {.engine = engine, .meta = pf_config_copy_in(engine->heap, metadata)};
    size_t bytes = (size_t)n * sizeof(pf_named);
    pf_named *list = pf_heap_alloc(engine->heap, bytes);
    int status = f.meta && list ? PF_OK : pf_fail(PF_ENOMEM, "state: no memory");
    if (status >= 0) {
        if (n > 0) memcpy(list, tensors, (size_t)n * sizeof *list);
        pf_state_sort(list, n);
        f.list = list, f.n = n;
        status = read_texts(&f, "attention");
    }
    if (status >= 0) status = read_alone(state, &f, NULL);
    f.list = NULL, f.n = 0; /* the caller's names and tensors */
    pf_heap_free(engine->heap, list, bytes);
    pf_state_file_free(&f);
    if (status < 0) pf_state_close(state);
    return status;
}

int pf_module_state_load(pf_state **state, pf_engine *engine, const pf_module *module,
                         const char *path) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(module, path);
    return pf_module_state_read(state, engine, module, NULL, path);
}
