/*
 * folder_fuzz.c - whole checkpoint folders whose manifest is right whatever stands in them: an
 * error, or a model that computes, streams, and is the same when it is saved and loaded again.
 *
 * An input is a row of files: a byte for the name, three for the length, the bytes. The mutations
 * change one of them, as JSON or as safetensors.
 */
#include "change_json.h"
#include "change_tensors.h"
#include "manifest.h"
#include "performer_attention.h"

#define FOLDER "memory:folder"
#define MADE   "memory:made"

enum { HEAD = 4, WORK = 1 << 21 };

static const char *const names[] = {
    "config.json",    "model.safetensors",     "state.json",
    "tokenizer.json", "optimizer.safetensors", "carried.safetensors"};
enum { NAMES = sizeof names / sizeof *names };

const char *const fuzz_words[] = {
    "performer",  "chain",     "block",    "linear",   "embedding",  "residual",
    "reversible", "attention", "softmax",  "relu",     "exact",      "auto",
    "lsh",        "local",     "protein",  "byte",     "adam",       "muon",
    "rotary",     "causal",    "kernel",   "features", "layers",     "heads",
    "dim",        "vocab",     "conv",     "branches", "classifier", "encoder_decoder",
    "type",       "options",   "children", "window",   "masked",     "custom",
    "",           NULL};

/* ---- the row of files ---- */

typedef struct {
    const char *name;
    size_t at, size; /* of the bytes */
} part;

/* The file that begins at `at`; false: none does. */
static bool part_at(part *p, const uint8_t *data, size_t size, size_t at) {
    if (size < at + HEAD) return false;
    size_t length = data[at + 1] | (size_t)data[at + 2] << 8 | (size_t)data[at + 3] << 16;
    size_t left = size - at - HEAD;
    *p = (part){names[data[at] % NAMES], at + HEAD, length < left ? length : left};
    return true;
}

static void set_length(uint8_t *head, size_t length) {
    head[1] = (uint8_t)length, head[2] = (uint8_t)(length >> 8), head[3] = (uint8_t)(length >> 16);
}

/* ---- seeds ---- */

static pf_module *model_of(pf_engine *e, const char *type, const char *options) {
    pf_config *o = NULL;
    pf_module *m = NULL;
    if (pf_json_parse(&o, options, strlen(options)) < 0 ||
        pf_module_new(&m, e, type, o, NULL, 0) < 0) {
        fprintf(stderr, "%s\n", pf_last_error());
        __builtin_trap();
    }
    pf_config_free(o);
    return m;
}

static size_t pack(pf_engine *e, uint8_t *out) {
    char path[64];
    size_t size = 0;
    for (int i = 0; i < NAMES; i++) {
        int64_t bytes = 0;
        snprintf(path, sizeof path, MADE "/step-3/%s", names[i]);
        if (pf_file_size(e, path, &bytes) < 0) continue;
        if (size + HEAD + (size_t)bytes > FUZZ_MOST) __builtin_trap();
        out[size] = (uint8_t)i;
        set_length(out + size, (size_t)bytes);
        if (pf_file_read(e, path, 0, out + size + HEAD, (size_t)bytes) < 0) __builtin_trap();
        size += HEAD + (size_t)bytes;
    }
    return size;
}

static size_t make(pf_engine *e, uint8_t *out, const char *type, const char *options,
                   const char *optimizer) {
    pf_module *m = model_of(e, type, options);
    pf_optimizer *o = NULL;
    pf_config *how = pf_config_new(PF_MAP), *tokenizer = pf_config_new_string("byte");
    if (optimizer) {
        pf_config_set_string(how, "type", optimizer);
        if (pf_optimizer_new(&o, e, m, how) < 0) __builtin_trap();
    }
    if (pf_checkpoint_save(e, MADE, 3, m, o, NULL, tokenizer, 0) < 0) __builtin_trap();
    size_t size = pack(e, out);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_config_free(how);
    pf_config_free(tokenizer);
    pf_file_remove(e, MADE);
    return size;
}

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const models[][3] = {
        {"performer",
         "{\"vocab\":8,\"dim\":4,\"layers\":1,\"heads\":2,\"causal\":true,"
         "\"kernel\":{\"features\":4}}",
         "adam"},
        {"performer", "{\"vocab\":5,\"dim\":4,\"layers\":1,\"heads\":1,\"reversible\":true}", NULL},
        {"performer",
         "{\"vocab\":5,\"dim\":4,\"layers\":1,\"heads\":2,\"causal\":true,"
         "\"attention\":\"exact\",\"conv\":3}",
         NULL},
        {"linear", "{\"from\":3,\"to\":2}", "sgd"},
        {"embedding", "{\"vocab\":5,\"dim\":4}", NULL},
    };
    static uint8_t made[FUZZ_MOST];
    pf_engine *e = fuzz_engine();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        give(made, make(e, made, models[i][0], models[i][1], models[i][2]));
}

/* ---- a folder ---- */

/* The files of an input, and the manifest that they would have if they were a checkpoint's. */
static void lay(pf_engine *e, const uint8_t *data, size_t size) {
    pf_manifest manifest = {0};
    char path[64], hash[PF_HASH_TEXT];
    part p;
    for (size_t at = 0; part_at(&p, data, size, at); at = p.at + p.size) {
        snprintf(path, sizeof path, FOLDER "/%s", p.name);
        pf_hash_bytes(data + p.at, p.size, hash);
        if (pf_manifest_add(&manifest, p.name, (int64_t)p.size, hash) < 0) continue;
        if (pf_file_write(e, path, data + p.at, p.size) < 0) __builtin_trap();
    }
    if (pf_manifest_write(&manifest, e, FOLDER, FOLDER) < 0) __builtin_trap();
}

static void compute(pf_engine *e, pf_module *m) {
    int64_t shape[2] = {1, 3};
    int32_t ids[3] = {1, 0, 2};
    pf_tensor *x = NULL, *y = NULL;
    pf_stream *stream = NULL;
    for (int kind = 0; kind < 2; kind++) {
        if (pf_tensor_full(&x, e, kind ? PF_F32 : PF_I32, 2, shape, 1) >= 0 &&
            pf_module_forward(&y, e, m, x, NULL) >= 0)
            pf_tensor_release(&y);
        pf_tensor_release(&x);
    }
    if (pf_stream_open(&stream, e, m) >= 0) {
        int32_t next;
        if (pf_stream_feed(stream, ids, 3) >= 0) pf_stream_sample(stream, NULL, &next);
        pf_stream_close(&stream);
    }
}

/* Within limits that are set anew, as much work as before does it again. */
static void again(pf_module *m, pf_optimizer *o, const pf_config *tokenizer) {
    pf_engine *e = fuzz_engine_anew(8 * WORK);
    pf_module *same = NULL;
    if (pf_checkpoint_save(e, MADE, 1, m, o, NULL, tokenizer, 0) < 0 ||
        pf_checkpoint_load(e, MADE, &same, NULL, NULL, NULL) < 0) {
        fprintf(stderr, "%s\n", pf_last_error());
        __builtin_trap();
    }
    pf_module_release(&same);
    if (pf_checkpoint_restore(e, MADE, m, o, NULL, NULL) < 0) {
        fprintf(stderr, "%s\n", pf_last_error());
        __builtin_trap();
    }
    pf_file_remove(e, MADE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine_anew(WORK);
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_config *state = NULL, *tokenizer = NULL, *info = NULL;
    pf_state *carried = NULL;
    if (pf_file_make_folder(e, FOLDER) < 0) __builtin_trap();
    lay(e, data, size);
    if (pf_inspect(&info, e, FOLDER) >= 0) pf_config_free(info);
    if (pf_checkpoint_load(e, FOLDER, &m, &o, &state, &tokenizer) >= 0) {
        compute(e, m);
        if (pf_checkpoint_carried(&carried, e, FOLDER, m) >= 0) pf_state_close(&carried);
        again(m, o, tokenizer);
        fuzz_good++;
    } else if (pf_model_load(&m, fuzz_engine_anew(WORK), FOLDER) >= 0) {
        compute(e, m);
    }
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_config_free(state);
    pf_config_free(tokenizer);
    fuzz_engine_anew(0);
    pf_file_remove(e, FOLDER);
    return 0;
}

/* ---- mutations ---- */

static size_t change_part(const part *p, uint8_t *data, size_t max_size, unsigned seed) {
    bool json = strstr(p->name, ".json");
    return json ? change_json(data, p->size, max_size, seed)
                : change_tensors(data, p->size, max_size, seed);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static uint8_t changed[FUZZ_MOST];
    part p, chosen = {0};
    unsigned n = 0;
    fuzz_engine_anew(0);
    for (size_t at = 0; part_at(&p, data, size, at); at = p.at + p.size) {
        if (seed % ++n == 0) chosen = p; /* the last of those that divide it: any may be */
    }
    if (n == 0 || seed / 64 % 64 == 0) return LLVMFuzzerMutate(data, size, max_size);
    size_t rest = size - chosen.at - chosen.size, most = max_size - chosen.at - rest;
    if (most > sizeof changed || chosen.size > most) return size;
    memcpy(changed, data + chosen.at, chosen.size);
    size_t now = change_part(&chosen, changed, most, seed / 64);
    memmove(data + chosen.at + now, data + chosen.at + chosen.size, rest);
    if (now) memcpy(data + chosen.at, changed, now);
    set_length(data + chosen.at - HEAD, now);
    return chosen.at + now + rest;
}
