/*
 * gradcheck.c - is a gradient the derivative? Along a few random directions of each input
 * the analytic derivative is held against central differences at several step sizes.
 *
 * What is compared is always a difference of the two: the error e(h) = numeric(h) -
 * analytic, taken with the displacements that float32 really made, and extrapolated from
 * steps h and h/2. The pair of steps that agrees best speaks for the direction; where even
 * that pair disagrees by more than the resolution, the direction is skipped, not failed.
 */
#include <math.h>
#include <string.h>

#include "tape.h"

enum { DIRECTIONS = 4, STEPS = 9 };
static const double first_step = 0.0625; /* times the input's own scale */
static const double resolution = 0.01;   /* of the derivative: below it a direction is judged */

typedef struct {
    pf_engine *engine;
    int (*f)(void *context, pf_engine *engine, pf_tensor *const *inputs, int n, pf_tensor **loss);
    void *context;
    pf_tensor *const *inputs;
    int n;
    uint64_t seed;
    double *weight; /* of each element of the result: the judged number is their sum */
    int64_t results;
    double worst;
    int judged;
} checker;

/* What was before, to be put back: checking must leave an input as it was. */
typedef struct {
    bool checked, required, stale;
    pf_tensor *grad, *rows;
} input_state;

/* The arrays of one input, n elements each. */
typedef struct {
    int64_t n;
    float *x, *plus, *minus, *grad;
    double *way;
} input_work;

static size_t array_bytes(int64_t n, size_t size) { return (size_t)n * size; }

/* ---- evaluating ---- */

/* *result = f(inputs), alive and f32; the caller releases it, also on failure. */
static int run(checker *check, pf_tensor **result) {
    *result = NULL;
    uint64_t before = pf_failures();
    int status = check->f(check->context, check->engine, check->inputs, check->n, result);
    if (status < 0) return pf_callback_failed(status, before, "gradcheck: the function");
    if (!*result) return pf_fail(PF_EINVAL, "gradcheck: the function gave no result");
    return pf_tensor_check(*result, PF_F32, "gradcheck", "result");
}

/* *value = sum of weight * result in double; *noise: what its rounding to float may hide. */
static int weigh(checker *check, const pf_tensor *result, double *value, double *noise) {
    int64_t n = pf_tensor_numel(result);
    if (n != check->results)
        return pf_fail(PF_ESHAPE, "gradcheck: the result changed its shape to %s between two calls",
                       pf_shape_of(result));
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double y;
        PF_TRY(pf_tensor_get(result, i, &y));
        sum += check->weight[i] * y;
        squares += check->weight[i] * y * check->weight[i] * y;
    }
    *value = sum;
    *noise = 0x1p-23 * sqrt(squares);
    return isfinite(sum) ? PF_OK : pf_fail(PF_ENUMERIC, "gradcheck: the result is not finite");
}

/* The judged number at the inputs as they stand; what f makes on the way dies here. */
static int evaluate(checker *check, double *value, double *noise) {
    pf_tape *tape;
    pf_tensor *result = NULL;
    PF_TRY(pf_tape_open(&tape, check->engine));
    pf_tape_pause(check->engine);
    int status = run(check, &result);
    if (status >= 0) status = weigh(check, result, value, noise);
    pf_tensor_release(&result);
    pf_tape_close(&tape);
    return status;
}

/* Weights of the result's elements: 1 for a scalar, else normal. */
static int draw_weights(checker *check, const pf_tensor *result) {
    check->results = pf_tensor_numel(result);
    check->weight = pf_heap_alloc(check->engine->heap, array_bytes(check->results, sizeof(double)));
    if (!check->weight) return PF_ENOMEM;
    pf_rng rng = pf_rng_make(check->seed, PF_DRAW_USER, UINT64_MAX, 0);
    pf_rng_fill_normal_double(&rng, 0, check->results, check->weight);
    for (int64_t i = 0; i < check->results; i++)
        check->weight[i] = check->results == 1 ? 1 : (double)(float)check->weight[i];
    return PF_OK;
}

/* Forward and backward; afterwards the inputs hold their gradients. */
static int differentiate(checker *check) {
    pf_tape *tape;
    pf_tensor *result = NULL, *seed = NULL;
    PF_TRY(pf_tape_open(&tape, check->engine));
    int status = run(check, &result);
    if (status >= 0) status = draw_weights(check, result);
    if (status >= 0)
        status = pf_tensor_make(&seed, check->engine, PF_F32, result->rank, result->shape);
    for (int64_t i = 0; status >= 0 && i < check->results; i++)
        pf_f32(seed)[i] = (float)check->weight[i];
    if (status >= 0) status = pf_tape_backward(tape, result, seed);
    pf_tensor_release(&seed);
    pf_tensor_release(&result);
    pf_tape_close(&tape);
    return status;
}

/* ---- one direction ---- */

/* A quarter of the elements of odd directions, all of the even ones: a single wrong element
 * of many shows in the sparse ones. */
static void draw_direction(const checker *check, int input, int direction, input_work *work) {
    uint64_t id = (uint64_t)input * DIRECTIONS + (uint64_t)direction;
    pf_rng rng = pf_rng_make(check->seed, PF_DRAW_USER, UINT64_MAX, 1 + id);
    pf_rng pick = pf_rng_make(check->seed, PF_DRAW_USER, UINT64_MAX - 1, 1 + id);
    pf_rng_fill_normal_double(&rng, 0, work->n, work->way);
    if (direction % 2 == 0) return;
    int64_t keep = (int64_t)pf_rng_below(&pick, (uint64_t)work->n, (uint64_t)work->n);
    for (int64_t i = 0; i < work->n; i++)
        if (i != keep && pf_rng_below(&pick, (uint64_t)i, 4) != 0) work->way[i] = 0;
}

static double scale_of(const input_work *work) {
    double squares = 0;
    for (int64_t i = 0; i < work->n; i++) squares += (double)work->x[i] * (double)work->x[i];
    double rms = sqrt(squares / (double)work->n);
    return rms > 0 ? rms : 1;
}

typedef struct {
    double error; /* numeric - analytic */
    double numeric, analytic;
    double typical; /* root of the sum of squares: the size to expect of such a derivative */
    double noise;
} difference;

/* Both derivatives from the displacement that plus and minus really have after rounding. */
static int difference_at(checker *check, pf_tensor *input, input_work *work, double h,
                         difference *d) {
    size_t bytes = array_bytes(work->n, sizeof(float));
    double above, below, noise_above, noise_below, analytic = 0, squares = 0;
    for (int64_t i = 0; i < work->n; i++) {
        work->plus[i] = (float)((double)work->x[i] + h * work->way[i]);
        work->minus[i] = (float)((double)work->x[i] - h * work->way[i]);
        double moved = (double)work->plus[i] - (double)work->minus[i];
        double part = (double)work->grad[i] * moved / (2 * h);
        analytic += part;
        squares += part * part;
    }
    PF_TRY(pf_tensor_write(input, work->plus, bytes));
    PF_TRY(evaluate(check, &above, &noise_above));
    PF_TRY(pf_tensor_write(input, work->minus, bytes));
    PF_TRY(evaluate(check, &below, &noise_below));
    d->numeric = (above - below) / (2 * h);
    d->analytic = analytic;
    d->error = d->numeric - analytic;
    d->typical = sqrt(squares);
    d->noise = fmax(noise_above, noise_below) / h;
    return PF_OK;
}

/* Judges one direction by its best pair of steps. */
static int judge_direction(checker *check, pf_tensor *input, input_work *work) {
    double best = INFINITY, error = 0, size = 0, h = first_step * scale_of(work);
    difference wide, narrow;
    PF_TRY(difference_at(check, input, work, h, &wide));
    for (int s = 1; s < STEPS; s++, wide = narrow) {
        h /= 2;
        PF_TRY(difference_at(check, input, work, h, &narrow));
        double doubt = fabs(narrow.error - wide.error) / 3 + narrow.noise;
        if (!(doubt < best) && s > 1) continue;
        best = doubt;
        error = fabs((4 * narrow.error - wide.error) / 3);
        size = fmax(narrow.typical, fmax(fabs(narrow.numeric), fabs(narrow.analytic)));
    }
    if (isfinite(size) && best > resolution * size) return PF_OK; /* can't be told */
    double relative = size > 0 ? error / size : 0;
    if (isnan(relative)) relative = INFINITY;
    if (relative > check->worst) check->worst = relative;
    check->judged++;
    return PF_OK;
}

/* ---- one input ---- */

static int make_work(checker *check, input_work *work, int64_t n) {
    size_t bytes = array_bytes(n, sizeof(float));
    float *block = pf_heap_zalloc(check->engine->heap, 4 * bytes);
    double *way = pf_heap_alloc(check->engine->heap, 2 * bytes);
    *work = (input_work){n, block, NULL, NULL, NULL, way};
    if (!block || !way) return PF_ENOMEM;
    work->plus = block + n;
    work->minus = work->plus + n;
    work->grad = work->minus + n;
    return PF_OK;
}

static void free_work(checker *check, input_work *work) {
    size_t bytes = array_bytes(work->n, sizeof(float));
    pf_heap_free(check->engine->heap, work->x, 4 * bytes);
    pf_heap_free(check->engine->heap, work->way, 2 * bytes);
}

static int judge_directions(checker *check, int index, input_work *work) {
    pf_tensor *input = check->inputs[index];
    size_t bytes = array_bytes(work->n, sizeof(float));
    PF_TRY(pf_tensor_read(input, work->x, bytes));
    if (input->grad && !input->grad_stale) PF_TRY(pf_tensor_read(input->grad, work->grad, bytes));
    int status = PF_OK;
    for (int d = 0; status >= 0 && d < DIRECTIONS; d++) {
        draw_direction(check, index, d, work);
        status = judge_direction(check, input, work);
    }
    int restored = pf_tensor_write(input, work->x, bytes);
    return status < 0 ? status : restored;
}

static int judge_input(checker *check, int index) {
    int64_t n = pf_tensor_numel(check->inputs[index]);
    if (n == 0) return PF_OK;
    input_work work;
    int status = make_work(check, &work, n);
    if (status >= 0) status = judge_directions(check, index, &work);
    free_work(check, &work);
    return status;
}

/* ---- the whole check ---- */

/* Inputs that require a gradient, or all f32 ones when none does. */
static void mark_inputs(checker *check, input_state *state) {
    bool any = false;
    for (int i = 0; i < check->n; i++) any = any || check->inputs[i]->requires_grad;
    for (int i = 0; i < check->n; i++) {
        pf_tensor *t = check->inputs[i];
        state[i] = (input_state){.required = t->requires_grad,
                                 .stale = t->grad_stale,
                                 .grad = t->grad,
                                 .rows = t->grad_rows};
        state[i].checked = t->dtype == PF_F32 && (any ? t->requires_grad : true);
        t->grad = t->grad_rows = NULL;
        t->grad_stale = false;
        t->requires_grad = state[i].checked;
    }
}

static void unmark_inputs(checker *check, input_state *state) {
    for (int i = check->n - 1; i >= 0; i--) {
        pf_tensor *t = check->inputs[i];
        pf_tensor_release(&t->grad);
        pf_tensor_release(&t->grad_rows);
        t->grad = state[i].grad;
        t->grad_rows = state[i].rows;
        t->grad_stale = state[i].stale;
        t->requires_grad = state[i].required;
    }
}

static int check_inputs(pf_tensor *const *inputs, int n) {
    for (int i = 0; i < n; i++) {
        if (!inputs[i]) return pf_fail(PF_EINVAL, "gradcheck: input %s is missing", pf_place(i));
        PF_TRY(pf_tensor_check(inputs[i], inputs[i]->dtype, "gradcheck", "input"));
        if (inputs[i]->tape)
            return pf_fail(PF_ESTATE, "gradcheck: input %s was computed on a tape; detach it first",
                           pf_place(i));
        for (int j = 0; j < i; j++)
            if (inputs[j] == inputs[i])
                return pf_fail(PF_EINVAL, "gradcheck: inputs %s and %s are the same tensor",
                               pf_place(j), pf_place(i));
    }
    return PF_OK;
}

int pf_gradcheck(pf_engine *engine,
                 int (*f)(void *context, pf_engine *engine, pf_tensor *const *inputs, int n,
                          pf_tensor **loss),
                 void *context, pf_tensor *const *inputs, int n, uint64_t seed, double *worst) {
    PF_OPEN(engine);
    PF_NEED(worst);
    PF_NEED_ARRAY(inputs, n);
    *worst = 0;
    if (!f) return pf_fail(PF_EINVAL, "check: f is NULL");
    if (n < 1) return pf_fail(PF_EINVAL, "gradcheck: needs inputs");
    PF_TRY(check_inputs(inputs, n));
    checker check = {
        .engine = engine, .f = f, .context = context, .inputs = inputs, .n = n, .seed = seed};
    size_t bytes = (size_t)n * sizeof(input_state);
    input_state *state = pf_heap_alloc(engine->heap, bytes);
    if (!state) return PF_ENOMEM;
    mark_inputs(&check, state);
    int status = differentiate(&check);
    for (int i = 0; status >= 0 && i < n; i++)
        if (state[i].checked) status = judge_input(&check, i);
    unmark_inputs(&check, state);
    pf_heap_free(engine->heap, state, bytes);
    pf_heap_free(engine->heap, check.weight, array_bytes(check.results, sizeof(double)));
    *worst = check.worst;
    return status < 0 ? status : check.judged;
}
