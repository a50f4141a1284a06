/* scenarios_layers.h - scenarios of single parts: ops with their gradients, and layers that are
 * built, run, run back and streamed. A row's word says which. */
#ifndef PF_SCENARIOS_LAYERS_H
#define PF_SCENARIOS_LAYERS_H

#include "scenarios_models.h"

/* ---- ops ---- */

static inline int whole_tensor(pf_tensor **t, world *w, int rank, const int64_t *shape, int mod) {
    int status = pf_tensor_empty(t, w->e, PF_I32, rank, shape);
    for (int64_t i = 0; status >= 0 && i < pf_tensor_numel(*t); i++)
        pf_i32(*t)[i] = (int32_t)((i * 5 + 1) % mod);
    return status;
}

/* t: leaves (6, 8), (1, 6, 8), (8), (6, 8); i32: 4 (6, 8) of 0 and 1, 5 (6) below 6. */
static inline int set_inputs(world *w) {
    int status = normal_tensor(&w->t[0], w, 2, (int64_t[]){ROWS, COLUMNS});
    THEN(status, normal_tensor(&w->t[1], w, 3, (int64_t[]){1, ROWS, COLUMNS}));
    THEN(status, normal_tensor(&w->t[2], w, 1, (int64_t[]){COLUMNS}));
    THEN(status, normal_tensor(&w->t[3], w, 2, (int64_t[]){ROWS, COLUMNS}));
    for (int i = 0; i < 4; i++) THEN(status, pf_tensor_require_grad(w->t[i], true));
    THEN(status, whole_tensor(&w->t[4], w, 2, (int64_t[]){ROWS, COLUMNS}, 2));
    THEN(status, whole_tensor(&w->t[5], w, 1, (int64_t[]){ROWS}, ROWS));
    return status;
}

/* As set_inputs, of which what has two dimensions lies turned: no rows of it are one piece. */
static inline int set_turned(world *w) {
    int status = set_inputs(w);
    for (int i = 0; i < 5; i++) {
        pf_tensor *turned = NULL, *whole = w->t[i];
        pf_attr dims[PF_MAX_ATTR];
        if (status < 0 || whole->rank != 2) continue;
        int op = pf_op_find(w->e, "transpose");
        status = pf_tensor_empty(&whole, w->e, whole->dtype, 2, (int64_t[]){COLUMNS, ROWS});
        THEN(status, pf_op_defaults(w->e, op, dims));
        THEN(status, pf_op_apply(w->e, op, &whole, 1, dims, &turned));
        THEN(status, pf_tensor_copy(turned, w->t[i]));
        if (i < 4) THEN(status, pf_tensor_require_grad(turned, true));
        pf_tensor_release(&whole);
        pf_tensor_release(&w->t[i]);
        w->t[i] = turned;
    }
    return status;
}

/* "k=2", "shape=8x6" of a row's word, to its attribute. */
static inline int take_attribute(const pf_op_info *op, char *word, pf_attr *attrs) {
    char *value = strchr(word, '=');
    *value++ = '\0';
    for (int k = 0; k < op->n_attrs; k++) {
        if (strcmp(op->attrs[k].name, word) != 0) continue;
        if (op->attrs[k].kind == PF_ATTR_DIMS || op->attrs[k].kind == PF_ATTR_INTS) {
            for (char *at = strtok_r(value, "x", &value); at; at = strtok_r(NULL, "x", &value))
                attrs[k].list[attrs[k].n++] = atoi(at);
        } else if (op->attrs[k].kind == PF_ATTR_FLOAT) {
            attrs[k].f = atof(value);
        } else {
            attrs[k].i = atoi(value);
        }
        return PF_OK;
    }
    return pf_fail(PF_ENOTFOUND, "%s has no %s", op->name, word);
}

typedef struct {
    int op, n;
    pf_op_info info;
    pf_tensor *in[4], *out[8];
    pf_attr attrs[PF_MAX_ATTR];
} op_call;

/* what: "name 0 3 k=2": of which tensors, and attributes. */
static inline int take_call(op_call *c, world *w) {
    char text[96], *rest = NULL;
    snprintf(text, sizeof text, "%s", w->what);
    char *word = strtok_r(text, " ", &rest);
    int status = c->op = pf_op_find(w->e, word);
    THEN(status, pf_op_at(w->e, c->op, &c->info));
    THEN(status, pf_op_defaults(w->e, c->op, c->attrs));
    while (status >= 0 && (word = strtok_r(NULL, " ", &rest)) != NULL) {
        if (strchr(word, '='))
            status = take_attribute(&c->info, word, c->attrs);
        else
            c->in[c->n++] = word[0] == '-' ? NULL : w->t[word[0] - '0'];
    }
    return status;
}

static inline int back_from(world *w, pf_tape *tape, pf_tensor *y) {
    pf_tensor *loss = NULL;
    int status = total(&loss, w->e, y);
    THEN(status, pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&loss);
    return status;
}

static inline int run_op_back(world *w) {
    op_call c = {.info = {.size = sizeof c.info}};
    pf_tape *tape = NULL;
    int status = take_call(&c, w);
    THEN(status, pf_tape_open(&tape, w->e));
    THEN(status, pf_op_apply(w->e, c.op, c.in, c.n, c.attrs, c.out));
    w->result = 1;
    for (int i = 0; i < c.info.outputs; i++) w->result = sum_tensor(w->result, c.out[i]);
    if (c.info.differentiable) THEN(status, back_from(w, tape, c.out[0]));
    for (int i = 0; i < PF_COUNT(c.out); i++) pf_tensor_release(&c.out[i]);
    pf_tape_close(&tape);
    if (status >= 0) take_gradients(w);
    return status;
}

/* ---- layers ---- */

enum { BATCH = 2, STEPS = 12, DIM = 8 };

static inline int build_of(world *w) {
    pf_config *tree = options_of(w->what);
    int status = pf_module_build(&w->model, w->e, tree);
    pf_config_free(tree);
    return status;
}

/* t: 1 ids (2, 12), 2 a mask, 3 memory (2, 5, 8), 4 edges (4, 3). */
static inline int set_around(world *w) {
    static const int32_t edges[] = {0, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1};
    int status = whole_tensor(&w->t[1], w, 2, (int64_t[]){BATCH, STEPS}, 11);
    THEN(status, whole_tensor(&w->t[2], w, 2, (int64_t[]){BATCH, STEPS}, 2));
    THEN(status, normal_tensor(&w->t[3], w, 3, (int64_t[]){BATCH, 5, DIM}));
    THEN(status, pf_tensor_require_grad(w->t[3], true));
    THEN(status, pf_tensor_empty(&w->t[4], w->e, PF_I32, 2, (int64_t[]){4, 3}));
    THEN(status, pf_tensor_write(w->t[4], edges, sizeof edges));
    return status;
}

/* what: a tree, of a layer whose x is rows of numbers, t 0 (2, 12, 8). */
static inline int set_layer(world *w) {
    int status = normal_tensor(&w->t[0], w, 3, (int64_t[]){BATCH, STEPS, DIM});
    THEN(status, pf_tensor_require_grad(w->t[0], true));
    THEN(status, set_around(w));
    THEN(status, build_of(w));
    return status;
}

/* The same of ids. */
static inline int set_reader(world *w) {
    int status = whole_tensor(&w->t[0], w, 2, (int64_t[]){BATCH, STEPS}, 7);
    THEN(status, set_around(w));
    THEN(status, build_of(w));
    return status;
}

/* What the layer reads beside x, of what there is. */
static inline int inputs_for(world *w, pf_named *list) {
    const pf_named known[] = {
        {"memory", w->t[3]}, {"edges", w->t[4]}, {"types", w->t[2]}, {"source", w->t[1]}};
    int n = 0;
    for (int i = 0; i < pf_module_input_count(w->model); i++) {
        const char *name = "";
        CHECK_OK(pf_module_input_at(w->model, i, &name, NULL));
        bool source = !strcmp(pf_module_type(w->model), "encoder_decoder");
        for (int k = 0; k < PF_COUNT(known); k++) {
            bool other = source && !strcmp(name, "memory");
            if (!strcmp(known[k].name, name) && !other) list[n++] = known[k];
        }
    }
    return n;
}

static inline void take_all_gradients(world *w) {
    take_gradients(w);
    for (int i = 0; i < pf_module_tensor_count(w->model); i++) {
        pf_tensor *t = NULL;
        CHECK_OK(pf_module_tensor_at(w->model, i, NULL, &t, NULL));
        w->result = sum_tensor(w->result, t->grad_stale ? NULL : t->grad);
        pf_tensor_clear_grad(t);
    }
}

/* Forward and backward in a training step with dropout, or a host clears what a failure left. */
static inline int pass_layer(world *w, pf_tensor *mask) {
    pf_named list[4];
    pf_pass pass = {.size = sizeof pass, .training = true, .step = 1, .mask = mask};
    pf_tape *tape = NULL;
    pf_tensor *y = NULL;
    scenario_asleep++;
    pass.inputs = list, pass.n_inputs = inputs_for(w, list);
    scenario_asleep--;
    int status = pf_tape_open(&tape, w->e);
    THEN(status, pf_module_forward(&y, w->e, w->model, w->t[0], &pass));
    w->result = sum_tensor(1, y);
    THEN(status, back_from(w, tape, y));
    pf_tensor_release(&y);
    pf_tape_close(&tape);
    if (status >= 0) take_all_gradients(w);
    if (status < 0) clear_gradients(w->model);
    return status;
}
static inline int run_layer(world *w) { return pass_layer(w, NULL); }
static inline int run_masked(world *w) { return pass_layer(w, w->t[2]); }

/* The layer once more from its own tree. */
static inline int run_again(world *w) {
    pf_config *tree = NULL;
    pf_module *m = NULL;
    int status = pf_module_tree(&tree, w->model);
    THEN(status, pf_module_build(&m, w->e, tree));
    if (status >= 0) w->result = sum_module(1, m);
    pf_module_release(&m);
    pf_config_free(tree);
    return status;
}

/* A state of the layer's moves over rows, and a step on; they are the work's own. */
static inline int run_state(world *w) {
    pf_state *state = NULL, *copy = NULL;
    pf_tensor *y = NULL, *z = NULL, *x = NULL;
    int status = pf_module_state(&state, w->e, w->model, BATCH);
    THEN(status, pf_module_prefill(&y, w->e, w->model, w->t[0], state));
    THEN(status, pf_state_fork(&copy, w->e, state));
    THEN(status, pf_state_reorder(w->e, copy, (int64_t[]){1, 0}, 2));
    scenario_asleep++;
    int64_t shape[2] = {BATCH, DIM};
    bool reads = w->t[0]->dtype == PF_I32;
    THEN(status, pf_tensor_full(&x, w->e, w->t[0]->dtype, reads ? 1 : 2, shape, 1));
    scenario_asleep--;
    THEN(status, pf_module_step(&z, w->e, w->model, x, copy));
    w->result = sum_tensor(sum_tensor(1, y), z);
    pf_tensor_release(&y), pf_tensor_release(&z), pf_tensor_release(&x);
    pf_state_close(&copy), pf_state_close(&state);
    return status;
}

/* ---- several calls ---- */

/* A source is read, and a target written. */
static inline int run_translator(world *w) {
    const pf_named source = {"source", w->t[1]};
    pf_stream *s = NULL, *copy = NULL;
    int32_t next[BATCH] = {0};
    int status = pf_stream_open_inputs(&s, w->e, w->model, BATCH, &source, 1);
    THEN(status, pf_stream_feed(s, pf_i32(w->t[0]), STEPS));
    THEN(status, pf_stream_fork(&copy, s));
    THEN(status, pf_stream_reorder(copy, (int64_t[]){1, 0}, 2));
    THEN(status, pf_stream_sample(copy, NULL, next));
    w->result = sum_number(sum_number(1, next[0]), next[1]);
    pf_stream_close(&copy), pf_stream_close(&s);
    return status;
}

/* Two calls of which the second goes on where the first one ended. */
static inline int run_carry(world *w) {
    pf_state *carry = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true, .step = 1, .mask = w->t[2]};
    pf_tensor *loss = NULL;
    int64_t keep = strstr(w->what, "window") ? 4 : 0;
    int status = pf_module_carry(&carry, w->e, w->model, BATCH, keep);
    pass.carry = carry, pass.documents = w->t[2];
    w->result = 1;
    for (int i = 0; i < 2; i++) {
        THEN(status, pf_module_loss(&loss, w->e, w->model, w->t[0], w->t[1], &pass));
        w->result = sum_tensor(w->result, loss);
        pf_tensor_release(&loss);
    }
    pf_state_close(&carry);
    return status;
}

static inline int set_long(world *w) {
    int status = build_of(w);
    THEN(status, whole_tensor(&w->t[0], w, 2, (int64_t[]){BATCH, 3 * 16}, 7));
    THEN(status, whole_tensor(&w->t[1], w, 2, (int64_t[]){BATCH, 3 * 16}, 11));
    return status;
}

/* A training step in slices, and a judgement, of rows that go on; their state is saved between. */
static inline int run_carried(world *w) {
    const pf_slicing slicing = {.size = sizeof slicing, .slices = 3, .levels = 1};
    const char *run = scratch_path("%s/carried", w->out);
    pf_state *carry = NULL, *loaded = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true, .step = 1};
    pf_evaluation judged = {.size = sizeof judged};
    double loss = 0;
    int status = pf_module_carry(&carry, w->e, w->model, BATCH, 0);
    pass.carry = carry;
    THEN(status,
         pf_module_backward_sliced(&loss, w->e, w->model, w->t[0], w->t[1], &pass, &slicing));
    THEN(status, pf_checkpoint_save_carried(w->e, run, 1, w->model, NULL, carry, NULL, NULL, 1));
    THEN(status, pf_checkpoint_carried(&loaded, w->e, run, w->model));
    pass.carry = loaded, pass.training = false;
    THEN(status, pf_module_evaluate(&judged, w->e, w->model, w->t[0], w->t[1], &pass, 16));
    w->result = sum_number(sum_number(1, loss), judged.loss);
    pf_state_close(&carry), pf_state_close(&loaded);
    scenario_asleep++;
    clear_gradients(w->model);
    scratch_remove(scratch_path("%s/carried", w->out));
    scenario_asleep--;
    return status;
}

/* Numbers in a form of another type than memory has. */
static inline int run_bytes(world *w) {
    bool whole = w->what[0] == 'i';
    const pf_named list[] = {{"a", w->t[whole ? 5 : 0]}, {"b", w->t[4]}};
    const char *one = scratch_path("%s/one.npy", w->out), *two = scratch_path("%s/two.npz", w->out);
    pf_tensor *t = NULL;
    pf_named *loaded = NULL;
    int n = 0, status = pf_npy_save(w->e, one, w->t[whole ? 4 : 3], w->what);
    THEN(status, pf_npy_load(&t, w->e, one));
    THEN(status, pf_npz_save(w->e, two, list, 2, w->what, true));
    THEN(status, pf_npz_load(w->e, two, &loaded, &n));
    w->result = sum_named(sum_tensor(1, t), loaded, n);
    pf_named_free(loaded, n);
    pf_tensor_release(&t);
    remove(one);
    remove(two);
    return status;
}

/* Adapters are trained in place of what they stand beside, and become a part of it. */
static inline int set_adapted(world *w) {
    int status = set_reader(w);
    THEN(status, pf_module_adapt(w->e, w->model, "*", 2, 0.5));
    for (int i = 0; status >= 0 && i < pf_module_tensor_count(w->model); i++) {
        pf_tensor *t = NULL;
        bool trained = false;
        CHECK_OK(pf_module_tensor_at(w->model, i, NULL, &t, &trained));
        if (trained) CHECK_OK(pf_tensor_fill(t, 0.1));
    }
    return status;
}
static inline int run_merge_adapters(world *w) {
    int status = pf_module_merge(w->model);
    if (status >= 0) w->result = sum_module(1, w->model);
    return status;
}

/* What attention was seen to do in a step. */
static inline int run_report(world *w) {
    const pf_pass pass = {.size = sizeof pass, .training = true, .step = 1, .watch = true};
    pf_config *lines = NULL;
    pf_tensor *y = NULL;
    int status = pf_module_forward(&y, w->e, w->model, w->t[0], &pass);
    THEN(status, pf_module_attention_report(&lines, w->model));
    w->result = sum_number(1, pf_config_size(lines));
    pf_config_free(lines);
    pf_tensor_release(&y);
    return status;
}

/* The work of two ranks on one, folded. */
static inline int run_lanes(world *w) {
    const pf_pass pass = next_pass(w);
    double norm = 0;
    int status = pf_optimizer_set_lanes(w->optimizer, w->e, 2);
    for (int i = 0; i < 2; i++) {
        double loss = 0;
        THEN(status,
             pf_module_backward_sliced(&loss, w->e, w->model, w->t[0], w->t[1], &pass, NULL));
        THEN(status, pf_optimizer_fold(w->optimizer, w->e));
    }
    THEN(status, pf_optimizer_step(w->optimizer, w->e, 0.01, 1, &norm));
    w->result = sum_number(1, norm);
    scenario_asleep++;
    CHECK_OK(pf_optimizer_set_lanes(w->optimizer, w->e, 1));
    if (status < 0) clear_gradients(w->model);
    scenario_asleep--;
    return status;
}

/* what: a kind and its options, of a state with a decay, or with a table. */
static inline int run_alone(world *w) {
    char kind[32] = "";
    const char *path = scratch_path("%s/state", w->out);
    pf_state *s = NULL, *copy = NULL, *loaded = NULL;
    pf_tensor *y = NULL;
    sscanf(w->what, "%31s", kind);
    pf_attention_state_options o = {.size = sizeof o,
                                    .attention = kind,
                                    .options = w->options,
                                    .batch = 1,
                                    .heads = HEADS,
                                    .head_dim = WIDTH,
                                    .value_dim = WIDTH};
    if (!strcmp(kind, "favor")) o.decay = w->t[3];
    int status = pf_attention_state_open(&s, w->e, &o);
    THEN(status, pf_attention_prefill(&y, w->e, s, w->t[0], w->t[1], w->t[2]));
    THEN(status, pf_state_fork(&copy, w->e, s));
    THEN(status, pf_state_save(w->e, copy, path));
    THEN(status, pf_state_load(&loaded, w->e, path, NULL));
    THEN(status, pf_attention_state_check(w->e, loaded, &o));
    w->result = sum_number(sum_tensor(1, y), (double)pf_state_position(loaded));
    pf_tensor_release(&y);
    pf_state_close(&s), pf_state_close(&copy), pf_state_close(&loaded);
    return gone(path, status);
}

static inline int set_decayed(world *w) {
    int status = set_heads(w);
    THEN(status, pf_tensor_full(&w->t[3], w->e, PF_F32, 1, (int64_t[]){HEADS}, 0.1));
    return status;
}

#endif
