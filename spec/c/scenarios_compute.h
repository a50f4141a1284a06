/* scenarios_compute.h - scenarios of what is computed: ops, gradients, attention, training. */
#ifndef PF_SCENARIOS_COMPUTE_H
#define PF_SCENARIOS_COMPUTE_H

#include "scenarios_world.h"

enum { ROWS = 6, COLUMNS = 8, HEADS = 2, LENGTH = 13, WIDTH = 4 };

static inline int set_nothing(world *w) {
    (void)w;
    return PF_OK;
}

static inline int normal_tensor(pf_tensor **t, world *w, int rank, const int64_t *shape) {
    return pf_tensor_rand(t, w->e, rank, shape, true);
}

/* t: (6, 8), (8, 6), (8) */
static inline int set_rows(world *w) {
    int status = normal_tensor(&w->t[0], w, 2, (int64_t[]){ROWS, COLUMNS});
    THEN(status, normal_tensor(&w->t[1], w, 2, (int64_t[]){COLUMNS, ROWS}));
    THEN(status, normal_tensor(&w->t[2], w, 1, (int64_t[]){COLUMNS}));
    return status;
}

static inline int set_leaves(world *w) {
    int status = set_rows(w);
    for (int i = 0; i < 3; i++) THEN(status, pf_tensor_require_grad(w->t[i], true));
    return status;
}

/* ---- ops ---- */

/* what: its name, and which of the tensors are its inputs. */
static inline int run_op(world *w) {
    char name[32] = "";
    int first = 0, second = -1;
    sscanf(w->what, "%31s %d %d", name, &first, &second);
    pf_tensor *in[2] = {w->t[first], second >= 0 ? w->t[second] : NULL}, *y = NULL;
    pf_attr attrs[PF_MAX_ATTR];
    int op = pf_op_find(w->e, name), status = op;
    THEN(status, pf_op_defaults(w->e, op, attrs));
    THEN(status, pf_op_apply(w->e, op, in, second >= 0 ? 2 : 1, attrs, &y));
    w->result = sum_tensor(1, y);
    pf_tensor_release(&y);
    return status;
}

/* The same in place of the first. */
static inline int run_in_place(world *w) {
    char name[32] = "";
    int first = 0, second = 0;
    sscanf(w->what, "%31s %d %d", name, &first, &second);
    pf_tensor *in[2] = {w->t[first], w->t[second]};
    int op = pf_op_find(w->e, name), status = op;
    THEN(status, pf_op_apply_in_place(w->e, op, in, 2, NULL));
    w->result = sum_tensor(1, in[0]);
    return status;
}

static inline int total(pf_tensor **y, pf_engine *e, pf_tensor *x) {
    pf_attr attrs[PF_MAX_ATTR];
    int op = pf_op_find(e, "sum"), status = op;
    THEN(status, pf_op_defaults(e, op, attrs));
    THEN(status, pf_op_apply(e, op, &x, 1, attrs, y));
    return status;
}

/* Sums what the tensors have for gradients, and clears them. */
static inline void take_gradients(world *w) {
    for (int i = 0; i < WORLD_TENSORS; i++) {
        if (!w->t[i]) continue;
        w->result = sum_tensor(w->result, w->t[i]->grad_stale ? NULL : w->t[i]->grad);
        pf_tensor_clear_grad(w->t[i]);
    }
}

/* norm(gelu(a b) b') of the leaves */
static inline int mlp(pf_tensor **y, pf_engine *e, pf_tensor *const *t) {
    pf_tensor *h[3] = {NULL};
    int status = pf_linear(&h[0], e, t[0], t[0], NULL);
    THEN(status, pf_act(&h[1], e, h[0], 1));
    THEN(status, pf_linear(&h[2], e, h[1], t[1], NULL));
    THEN(status, pf_rmsnorm(y, e, h[2], t[2], 1e-6));
    for (int i = 0; i < 3; i++) pf_tensor_release(&h[i]);
    return status;
}

static inline int run_mlp(world *w) {
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *loss = NULL;
    int status = pf_tape_open(&tape, w->e);
    THEN(status, mlp(&y, w->e, w->t));
    THEN(status, total(&loss, w->e, y));
    THEN(status, pf_tape_backward(tape, loss, NULL));
    w->result = sum_tensor(1, loss);
    pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    if (status >= 0) take_gradients(w);
    return status;
}

static inline int again(void *context, pf_engine *e, pf_tensor *const *inputs, int n,
                        pf_tensor **y) {
    (void)context, (void)n;
    return mlp(y, e, inputs);
}

static inline int run_recompute(world *w) {
    const pf_recomputed f = {.size = sizeof f, .run = again};
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *loss = NULL;
    int status = pf_tape_open(&tape, w->e);
    THEN(status, pf_recompute(&y, w->e, &f, w->t, 3));
    THEN(status, total(&loss, w->e, y));
    THEN(status, pf_tape_backward(tape, loss, NULL));
    w->result = sum_tensor(1, loss);
    pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    if (status >= 0) take_gradients(w);
    return status;
}

static inline int run_gradcheck(world *w) {
    double worst = 0;
    int status = pf_gradcheck(w->e, again, NULL, w->t, 3, 1, &worst);
    w->result = sum_number(1, worst);
    return status;
}

/* ---- attention ---- */

/* q, k, v (1, 2, 13, 4), leaves; what: a kind, and options of it */
static inline int set_heads(world *w) {
    const char *options = w->what ? strchr(w->what, '{') : NULL;
    int status = PF_OK;
    if (options) w->options = options_of(options);
    for (int i = 0; i < 3; i++) {
        THEN(status, normal_tensor(&w->t[i], w, 4, (int64_t[]){1, HEADS, LENGTH, WIDTH}));
        THEN(status, pf_tensor_require_grad(w->t[i], true));
    }
    return status;
}

/* The same, and edges (4, 3). */
static inline int set_graph(world *w) {
    static const int32_t edges[] = {0, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1};
    int status = set_heads(w);
    THEN(status, pf_tensor_empty(&w->t[3], w->e, PF_I32, 2, (int64_t[]){4, 3}));
    THEN(status, pf_tensor_write(w->t[3], edges, sizeof edges));
    return status;
}

static inline int attend(world *w, bool causal) {
    char kind[32] = "";
    sscanf(w->what, "%31s", kind);
    pf_attention_options o = {.size = sizeof o,
                              .attention = kind,
                              .options = w->options,
                              .causal = causal,
                              .edges = w->t[3]};
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *loss = NULL;
    int status = pf_tape_open(&tape, w->e);
    THEN(status, pf_attention_call(&y, NULL, w->e, w->t[0], w->t[1], w->t[2], &o));
    w->result = sum_tensor(1, y);
    THEN(status, total(&loss, w->e, y));
    THEN(status, pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    if (status >= 0) take_gradients(w);
    return status;
}

static inline int run_attention(world *w) { return attend(w, false); }
static inline int run_causal(world *w) { return attend(w, true); }

static inline int run_kernel(world *w) {
    const pf_survey_options o = {.size = sizeof o, .rows = 4, .draws = 2};
    pf_kernel *kernel = NULL;
    pf_tensor *phi = NULL, *projection = NULL;
    pf_config *heads = NULL;
    int status = pf_kernel_open(&kernel, w->e, w->options, NULL);
    THEN(status, pf_kernel_projection(&projection, NULL, w->e, kernel, WIDTH, HEADS));
    THEN(status, pf_kernel_features(&phi, w->e, kernel, PF_SIDE_KEY, w->t[1]));
    THEN(status, pf_kernel_survey(&heads, w->e, kernel, w->t[0], w->t[1], &o));
    w->result = sum_config(sum_tensor(sum_tensor(1, phi), projection), heads);
    pf_config_free(heads);
    pf_tensor_release(&phi), pf_tensor_release(&projection);
    pf_kernel_release(&kernel);
    return status;
}

static inline int run_weights(world *w) {
    const int64_t chosen[] = {0, 5, 12};
    pf_weights_options o = {
        .size = sizeof o, .causal = true, .rows = chosen, .n_rows = 3, .top = 2};
    pf_tensor *weights = NULL, *positions = NULL, *entropy = NULL, *z = NULL;
    int status = pf_attention_weights(&weights, &positions, &entropy, w->e, w->t[0], w->t[1], &o);
    THEN(status, pf_attention_log_partition(&z, w->e, w->t[0], w->t[1], &o));
    w->result = sum_tensor(sum_tensor(sum_tensor(sum_tensor(1, weights), positions), entropy), z);
    pf_tensor_release(&weights), pf_tensor_release(&positions);
    pf_tensor_release(&entropy), pf_tensor_release(&z);
    return status;
}

/* ---- training ---- */

static inline pf_config *model_options(const char *more) {
    char text[512];
    snprintf(text, sizeof text,
             "{'vocab': 11, 'dim': 8, 'layers': 1, 'heads': 2, 'length': 64, %s}", more);
    return options_of(text);
}

static inline int set_options(world *w) {
    w->options = model_options(w->what);
    return PF_OK;
}

static inline int set_model(world *w) {
    w->options = model_options(w->what);
    return pf_module_new(&w->model, w->e, "performer", w->options, NULL, 0);
}

static inline int some_tokens(pf_tensor **t, world *w, int64_t batch, int64_t length, int salt) {
    int status = pf_tensor_empty(t, w->e, PF_I32, 2, (int64_t[]){batch, length});
    for (int64_t i = 0; status >= 0 && i < batch * length; i++) {
        pf_i32(*t)[i] = (int32_t)((i * i * 5 + i + salt) % 11);
    }
    return status;
}

/* A model with an optimizer, ids and targets, behind its first step, so that there are moments. */
static inline int run_step(world *w);
static inline int set_training(world *w) {
    char text[64];
    pf_config *model = model_options("'causal': true, 'kernel': {'name': 'softmax', 'features': "
                                     "8, 'redraw': 2}, 'dropout': 0.1");
    snprintf(text, sizeof text, "{'type': '%s', 'ema': 0.9}", w->what);
    w->options = options_of(text);
    int status = pf_module_new(&w->model, w->e, "performer", model, NULL, 0);
    pf_config_free(model);
    THEN(status, pf_optimizer_new(&w->optimizer, w->e, w->model, w->options));
    THEN(status, some_tokens(&w->t[0], w, 2, 40, 1));
    THEN(status, some_tokens(&w->t[1], w, 2, 40, 3));
    THEN(status, run_step(w));
    return status;
}

static inline void clear_gradients(pf_module *m) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t = NULL;
        if (pf_module_tensor_at(m, i, NULL, &t, NULL) >= 0) pf_tensor_clear_grad(t);
    }
}

static inline pf_pass next_pass(const world *w) {
    return (pf_pass){.size = sizeof(pf_pass),
                     .training = true,
                     .step = pf_optimizer_steps(w->optimizer) + 1,
                     .watch = true};
}

/* A host whose step failed clears what its backward left. */
static inline int run_step(world *w) {
    const pf_pass pass = next_pass(w);
    double norm = 0;
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL;
    int status = pf_tape_open(&tape, w->e);
    THEN(status, pf_module_loss(&loss, w->e, w->model, w->t[0], w->t[1], &pass));
    THEN(status, pf_tape_backward(tape, loss, NULL));
    w->result = sum_tensor(1, loss);
    pf_tensor_release(&loss);
    pf_tape_close(&tape);
    THEN(status, pf_optimizer_step(w->optimizer, w->e, 0.01, 1, &norm));
    w->result = sum_number(w->result, norm);
    if (status < 0) clear_gradients(w->model);
    return status;
}

static inline int run_sliced(world *w) {
    const pf_pass pass = next_pass(w);
    const pf_slicing slicing = {.size = sizeof slicing, .length = 16, .levels = 2};
    double loss = 0, norm = 0;
    int status =
        pf_module_backward_sliced(&loss, w->e, w->model, w->t[0], w->t[1], &pass, &slicing);
    THEN(status, pf_optimizer_step(w->optimizer, w->e, 0.01, 1, &norm));
    w->result = sum_number(sum_number(1, loss), norm);
    if (status < 0) clear_gradients(w->model);
    return status;
}

static inline int run_evaluation(world *w) {
    pf_evaluation result = {.size = sizeof result};
    int status = pf_module_evaluate(&result, w->e, w->model, w->t[0], w->t[1], NULL, 16);
    w->result = sum_number(sum_number(1, result.loss), (double)result.right);
    return status;
}

static inline int run_adapters(world *w) {
    int status = pf_module_adapt(w->e, w->model, "*", 2, 0.5);
    w->result = sum_number(1, status);
    return status;
}

#endif
