/* scenarios_models.h - scenarios of models at work, and of files: streams, states, items, data,
 * checkpoints, plain data. */
#ifndef PF_SCENARIOS_MODELS_H
#define PF_SCENARIOS_MODELS_H

#include "scenarios_compute.h"

/* ---- plain data ---- */

static inline int run_build(world *w) {
    pf_module *m = NULL;
    int status = pf_module_new(&m, w->e, "performer", w->options, NULL, 0);
    if (status >= 0) w->result = sum_module(1, m);
    pf_module_release(&m);
    return status;
}

static inline int run_json(world *w) {
    const char *text =
        "{\"a\": [1, 2.5, \"three\", {\"b\": null}], \"c\": true, \"d\": \"\\u00e9\"}";
    pf_config *tree = NULL, *copy = NULL;
    char *written = NULL;
    int status = pf_json_parse(&tree, text, strlen(text));
    if (status >= 0 && !(copy = pf_config_copy(tree))) status = PF_ENOMEM;
    for (int i = 0; i < 40; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%d", i);
        THEN(status, pf_config_set_number(copy, key, i));
    }
    THEN(status, pf_json_write(&written, copy, true));
    w->result = sum_text(1, written ? written : "");
    pf_text_free(written);
    pf_config_free(tree), pf_config_free(copy);
    return status;
}

static inline int run_describe(world *w) {
    pf_config *tree = NULL;
    int status = pf_describe(&tree, w->e);
    w->result = sum_number(1, pf_config_size(tree));
    pf_config_free(tree);
    return status;
}

static inline int run_tokenizer(world *w) {
    int32_t ids[16];
    char text[16];
    size_t n = 16, bytes = sizeof text;
    int status = pf_tokenizer_encode("protein", "ACDEF", 5, ids, &n);
    THEN(status, pf_tokenizer_decode("protein", ids, n, text, &bytes));
    w->result = sum_bytes(1, text, bytes);
    return status;
}

/* ---- streams ---- */

static const int32_t prompt[] = {1, 5, 3, 9, 0, 2, 7};

static inline int set_stream(world *w) {
    int status = set_model(w);
    THEN(status, pf_stream_open(&w->stream, w->e, w->model));
    THEN(status, pf_stream_feed(w->stream, prompt, 3));
    return status;
}

static inline int run_prompt(world *w) {
    int32_t next = 0;
    int status = pf_stream_feed(w->stream, prompt, PF_COUNT(prompt));
    scenario_asleep++; /* the work is the prompt alone */
    if (status >= 0) status = pf_stream_sample(w->stream, NULL, &next);
    scenario_asleep--;
    w->result = sum_number(1, next);
    return status;
}

/* One token a call, each all or nothing: the work is the first of them. */
static inline int run_generate(world *w) {
    const pf_sampling sampling = {
        .size = sizeof sampling, .temperature = 0.9, .top_k = 5, .top_p = 0.9, .seed = 3};
    int32_t next = 0;
    int status = pf_stream_next(w->stream, 4, &sampling, &next);
    w->result = sum_number(1, next);
    return status;
}

static inline int run_fork(world *w) {
    pf_stream *copy = NULL;
    int status = pf_stream_fork(&copy, w->stream);
    THEN(status, pf_stream_reorder(copy, (int64_t[]){0, 0, 0}, 3));
    w->result = sum_stream(1, copy);
    pf_stream_close(&copy);
    return status;
}

/* Where the work fails, what it wrote before is taken away. */
static inline int gone(const char *path, int status) {
    if (status < 0) remove(path);
    return status;
}

static inline int run_save_stream(world *w) {
    const char *path = scratch_path("%s/stream", w->out);
    pf_stream *loaded = NULL;
    int status = pf_stream_save(w->stream, path);
    THEN(status, pf_stream_load(&loaded, w->e, w->model, path));
    w->result = sum_stream(1, loaded);
    pf_stream_close(&loaded);
    return gone(path, status);
}

/* ---- a running batch ---- */

/* Some write, and one has a prompt that is read in pieces. */
static inline int set_serving(world *w) {
    const pf_serving_options o = {.size = sizeof o, .slice = 4};
    int status = set_model(w);
    THEN(status, pf_serving_open(&w->serving, w->e, w->model, &o));
    for (int i = 0; i < 3; i++) {
        int64_t id = 0;
        THEN(status, pf_serving_join(w->serving, prompt, (size_t)(1 + 3 * i), NULL, &id));
        THEN(status, pf_serving_step(w->serving));
    }
    return status;
}

static inline int run_serving(world *w) {
    size_t n = 0;
    int status = pf_serving_step(w->serving);
    const pf_served *made = pf_serving_made(w->serving, &n);
    w->result = sum_number(1, status);
    for (size_t i = 0; i < n; i++) w->result = sum_bytes(w->result, &made[i], sizeof made[i]);
    return status;
}

static inline int run_join(world *w) {
    const pf_sequence_options o = {.size = sizeof o, .tokens = 3, .stops = prompt, .n_stops = 2};
    int64_t id = 0;
    int status = pf_serving_join(w->serving, prompt, PF_COUNT(prompt), &o, &id);
    w->result = sum_number(1, (double)id);
    return status;
}

/* ---- states ---- */

static inline int set_states(world *w) {
    const pf_attention_state_options o = {
        .size = sizeof o, .batch = 1, .heads = HEADS, .head_dim = WIDTH, .value_dim = WIDTH};
    pf_tensor *y = NULL;
    int status = set_heads(w);
    for (int i = 0; i < 2; i++) {
        pf_state **s = i ? &w->later : &w->state;
        THEN(status, pf_attention_state_open(s, w->e, &o));
        THEN(status, pf_attention_prefill(&y, w->e, *s, w->t[0], w->t[1], w->t[2]));
        pf_tensor_release(&y);
    }
    return status;
}

static inline int run_prefill(world *w) {
    pf_tensor *y = NULL;
    int status = pf_attention_prefill(&y, w->e, w->state, w->t[1], w->t[2], w->t[0]);
    w->result = sum_tensor(1, y);
    pf_tensor_release(&y);
    return status;
}

static inline int run_merge(world *w) {
    w->result = 1;
    return pf_state_merge(w->e, w->state, w->later);
}

static inline int run_save_state(world *w) {
    const char *path = scratch_path("%s/state", w->out);
    pf_state *loaded = NULL;
    int status = pf_state_save(w->e, w->state, path);
    THEN(status, pf_state_load(&loaded, w->e, path, NULL));
    w->result = sum_number(1, (double)pf_state_position(loaded));
    pf_state_close(&loaded);
    return gone(path, status);
}

/* ---- items ---- */

static inline int set_items(world *w) {
    const pf_items_options o = {.size = sizeof o, .dim = COLUMNS, .value_dim = COLUMNS};
    int status = set_rows(w);
    THEN(status, pf_items_open(&w->items, w->e, &o));
    THEN(status, pf_items_add(w->items, w->e, w->t[0], w->t[0]));
    return status;
}

static inline int run_add(world *w) {
    w->result = 1;
    return pf_items_add(w->items, w->e, w->t[0], w->t[0]);
}

static inline int run_ask(world *w) {
    pf_tensor *z = NULL, *mean = NULL, *p = NULL;
    int status = pf_items_log_partition(&z, w->items, w->e, w->t[0]);
    THEN(status, pf_items_expectation(&mean, w->items, w->e, w->t[0]));
    THEN(status, pf_items_probability(&p, w->items, w->e, w->t[0], w->t[0], 0));
    w->result = sum_tensor(sum_tensor(sum_tensor(1, z), mean), p);
    pf_tensor_release(&z), pf_tensor_release(&mean), pf_tensor_release(&p);
    return status;
}

/* ---- data ---- */

static inline int set_data(world *w) {
    char text[600];
    const char *more = strcmp(w->what, "shards") != 0 ? ", 'valid_fraction': 0.2" : "";
    snprintf(text, sizeof text, "{'path': '%s/%s', 'length': 32, 'min_tokens': 1%s}", w->files,
             w->what, more);
    w->options = options_of(text);
    return PF_OK;
}

static inline int run_data(world *w) {
    pf_data_info info = {.size = sizeof info};
    pf_batch batch = {.size = sizeof batch};
    pf_data *data = NULL;
    int status = pf_data_open(&data, w->e, w->options);
    THEN(status, pf_data_info_of(data, PF_TRAIN, &info));
    THEN(status, pf_data_batch(&batch, w->e, data, PF_TRAIN, 1, 2, true, 5));
    w->result = sum_tensor(sum_number(1, (double)info.checksum), batch.input);
    pf_batch_release(&batch);
    pf_data_close(&data);
    return status;
}

static inline int set_shard(world *w) {
    char text[600];
    snprintf(text, sizeof text, "{'path': '%s/%s', 'block': 64}", w->files, w->what);
    w->options = options_of(text);
    return PF_OK;
}

static inline int run_shard(world *w) {
    w->result = 1;
    return pf_data_shard(w->e, w->options, scratch_path("%s/shards", w->out));
}

/* ---- files ---- */

static inline int run_save_tensors(world *w) {
    const pf_named list[] = {{"a", w->t[0]}, {"b", w->t[1]}};
    const char *path = scratch_path("%s/two.safetensors", w->out);
    pf_named *loaded = NULL;
    int n = 0, status = pf_safetensors_save(w->e, path, list, 2, NULL);
    THEN(status, pf_safetensors_load(w->e, path, &loaded, &n, NULL));
    w->result = sum_named(1, loaded, n);
    pf_named_free(loaded, n);
    return gone(path, status);
}

/* As numpy has them. */
static inline int run_save_arrays(world *w) {
    const pf_named list[] = {{"a", w->t[0]}, {"b", w->t[1]}};
    const char *path = scratch_path("%s/two.npz", w->out);
    pf_named *loaded = NULL;
    int n = 0, status = pf_npz_save(w->e, path, list, 2, NULL, true);
    THEN(status, pf_npz_load(w->e, path, &loaded, &n));
    w->result = sum_named(1, loaded, n);
    pf_named_free(loaded, n);
    return gone(path, status);
}

static inline int save_run(world *w, const char *run, uint64_t step) {
    return pf_checkpoint_save(w->e, run, step, w->model, w->optimizer, w->options, w->options, 2);
}

/* A run with a first checkpoint. */
static inline int set_run(world *w) {
    int status = set_training(w);
    THEN(status, save_run(w, scratch_path("%s/run", w->out), 1));
    return status;
}

static inline int run_save(world *w) {
    w->result = 1;
    return save_run(w, scratch_path("%s/run", w->out), 2);
}

static inline int run_ship(world *w) {
    const char *folder = scratch_path("%s/shipped", w->out);
    pf_module *m = NULL;
    int status = pf_model_save(w->e, folder, w->model, NULL);
    THEN(status, pf_model_load(&m, w->e, folder));
    if (status >= 0) w->result = sum_module(1, m);
    pf_module_release(&m);
    scratch_remove(folder);
    return status;
}

static inline int run_load(world *w) {
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_config *state = NULL, *tokenizer = NULL;
    int status = pf_checkpoint_load(w->e, scratch_path("%s/%s", w->files, w->what), &m, &o, &state,
                                    &tokenizer);
    if (status >= 0) {
        w->result = sum_config(sum_config(sum_module(1, m), state), tokenizer);
        w->result = sum_optimizer(w->result, o, w->e);
    }
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_config_free(state), pf_config_free(tokenizer);
    return status;
}

static inline int run_restore(world *w) {
    w->result = 1;
    return pf_checkpoint_restore(w->e, scratch_path("%s/run", w->files), w->model, w->optimizer,
                                 NULL, NULL);
}

static inline int run_load_model(world *w) {
    pf_module *m = NULL;
    int status = pf_model_load(&m, w->e, scratch_path("%s/%s", w->files, w->what));
    if (status >= 0) w->result = sum_module(1, m);
    pf_module_release(&m);
    return status;
}

static inline int run_inspect(world *w) {
    pf_config *info = NULL;
    int status = pf_inspect(&info, w->e, scratch_path("%s/%s", w->files, w->what));
    w->result = sum_config(1, info);
    pf_config_free(info);
    return status;
}

/* Files that scenarios read: made once, on an engine of their own. */
static inline void make_files(world *w) {
    scratch_open(w->files, sizeof w->files);
    snprintf(w->out, sizeof w->out, "%s/out", w->files);
    put_texts(w);
    world_begin(w, w->e, "proteins.fasta");
    CHECK_OK(set_shard(w));
    CHECK_OK(pf_data_shard(w->e, w->options, scratch_path("%s/shards", w->files)));
    world_drop(w);
    world_begin(w, w->e, "adamw");
    CHECK_OK(set_training(w));
    CHECK_OK(save_run(w, scratch_path("%s/run", w->files), 1));
    world_drop(w);
}

#endif
