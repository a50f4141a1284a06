/* optim_test.c - training: bits, clipping, schedules, redraws, what a checkpoint needs. */
#include "nn_support.h"

/* A step of training on x -> the next of x; returns the loss. */
static double train_step(pf_engine *e, pf_module *m, pf_optimizer *o, pf_tensor *x,
                         pf_tensor *target, uint64_t step, double lr) {
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *loss = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true, .step = step};
    double value = NAN;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_forward(&y, e, m, x, &pass));
    CHECK_OK(pf_cross_entropy(&loss, e, y, target));
    CHECK_OK(pf_tensor_get(loss, 0, &value));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    CHECK_OK(pf_optimizer_step(o, e, lr, 1, NULL));
    return value;
}

/* `steps` steps with `threads`; the last loss, and all weights after it as one sum of bits. */
static double run_training(int threads, const char *kind, int steps, uint64_t *bits) {
    pf_engine *e = engine_of(threads, 21);
    pf_module *m = small_model(e, kind);
    pf_optimizer *o = NULL;
    pf_tensor *x = some_ids(e, 3, 50, 1), *target = some_ids(e, 3, 50, 2);
    double loss = 0;
    CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
    for (int i = 1; i <= steps; i++) loss = train_step(e, m, o, x, target, (uint64_t)i, 1e-2);
    CHECK(pf_optimizer_steps(o) == (uint64_t)steps);
    *bits = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
        const unsigned char *bytes = pf_tensor_data(t);
        for (int64_t k = 0; k < pf_tensor_numel(t) * 4; k++) {
            *bits = *bits * 1099511628211u + bytes[k];
        }
    }
    pf_tensor_release(&x), pf_tensor_release(&target);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_engine_close(&e);
    return loss;
}

static void test_threads(void) {
    static const char *const kinds[] = {"'causal': true, 'conv': 4, 'dropout': 0.1",
                                        "'kernel': {'name': 'relu'}",
                                        "'kernel': {'name': 'exact'}, 'causal': true"};
    for (int i = 0; i < PF_COUNT(kinds); i++) {
        uint64_t one, two, four;
        double a = run_training(1, kinds[i], 5, &one), b = run_training(2, kinds[i], 5, &two);
        double c = run_training(4, kinds[i], 5, &four);
        CHECK(a == b && a == c && one == two && one == four && a > 0);
    }
}

/* Learns a sequence by heart, with every attention. */
static void test_overfit(void) {
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        if (strstr(causal_kinds[i], "identity")) continue; /* never sees the past */
        pf_engine *e = engine_of(1, 21);
        pf_module *m = small_model(e, causal_kinds[i]);
        pf_optimizer *o = NULL;
        pf_tensor *x = some_ids(e, 1, 16, 1), *target = some_ids(e, 1, 16, 2);
        double loss = 9;
        int step = 0;
        CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
        while (loss >= 0.1 && step < 400) {
            loss = train_step(e, m, o, x, target, (uint64_t)++step, 1e-2);
        }
        if (loss >= 0.1) fprintf(stderr, "  %s: %g\n", causal_kinds[i], loss);
        CHECK(loss < 0.1);
        pf_tensor_release(&x), pf_tensor_release(&target);
        pf_optimizer_close(&o);
        pf_module_release(&m);
        pf_engine_close(&e);
    }
}

/* Dropout: other numbers every step, none without training, every call its own. */
static void test_dropout(pf_engine *e) {
    pf_module *layers[2] = {layer_of(e, "dropout", "{'p': 0.5}"), NULL}, *m = NULL;
    layers[1] = layers[0];
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, layers, 2));
    int64_t n = 4000;
    pf_tensor *x = NULL, *y = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 1, &n, 1));
    int kept[3] = {0}, both = 0;
    float *first = NULL;
    for (int i = 0; i < 3; i++) {
        pf_pass pass = {.size = sizeof pass, .training = i < 2, .step = (uint64_t)i};
        CHECK_OK(pf_module_forward(&y, e, m, x, &pass));
        float *v = numbers(y);
        for (int64_t k = 0; k < n; k++) kept[i] += v[k] != 0;
        for (int64_t k = 0; i == 1 && k < n; k++) both += v[k] != 0 && first[k] != 0;
        if (i == 0)
            first = v;
        else
            free(v);
        pf_tensor_release(&y);
    }
    /* a quarter is kept (two calls of one half), and a sixteenth in both steps */
    CHECK(abs(kept[0] - 1000) < 150 && abs(kept[1] - 1000) < 150 && kept[2] == n);
    CHECK(abs(both - 250) < 80);
    free(first);
    pf_tensor_release(&x);
    pf_module_release(&m), pf_module_release(&layers[0]);
}

/* One parameter of two elements, by the formulas. */
static void test_formulas(pf_engine *e) {
    static const char *const options[] = {"{'type': 'adamw', 'beta2': 0.99, 'decay': 0.5}",
                                          "{'type': 'sgd', 'momentum': 0.5, 'decay': 0.5}"};
    for (int kind = 0; kind < 2; kind++) {
        pf_module *m = layer_of(e, "linear", "{'from': 2, 'to': 1}");
        pf_tensor *w = pf_module_tensor(m, "weight"), *b = pf_module_tensor(m, "bias"), *g;
        pf_optimizer *o = NULL;
        pf_config *c = options_of(options[kind]);
        CHECK_OK(pf_optimizer_new(&o, e, m, c));
        double p[3] = {1, -2, 0.5}, mean[3] = {0}, square[3] = {0}, lr = 0.1, norm;
        CHECK_OK(pf_tensor_set(w, 0, p[0]));
        CHECK_OK(pf_tensor_set(w, 1, p[1]));
        CHECK_OK(pf_tensor_set(b, 0, p[2]));
        for (int step = 1; step <= 3; step++) {
            double grad[3] = {3, -4, 12 * step}, size = sqrt(25 + 144 * step * step), clip = 6.5;
            float gw[2] = {3, -4}, gb = (float)(12 * step);
            pf_tensor *parts[2] = {w, b};
            for (int i = 0; i < 2; i++) {
                if (!parts[i]->grad) {
                    CHECK_OK(pf_tensor_make_lasting(&parts[i]->grad, e->heap, PF_F32,
                                                    parts[i]->rank, parts[i]->shape));
                }
                g = parts[i]->grad;
                parts[i]->grad_stale = false;
                CHECK_OK(pf_tensor_write(g, i ? &gb : gw, i ? 4 : 8));
            }
            CHECK_OK(pf_optimizer_step(o, e, lr, clip, &norm));
            CHECK(fabs(norm - size) < 1e-5 * size);
            for (int i = 0; i < 3; i++) {
                double x = grad[i] * clip / size, decay = i < 2 ? 0.5 : 0;
                if (kind == 0) {
                    mean[i] = 0.9 * mean[i] + 0.1 * x;
                    square[i] = 0.99 * square[i] + 0.01 * x * x;
                    p[i] -= lr * (mean[i] / (1 - pow(0.9, step)) /
                                      (sqrt(square[i] / (1 - pow(0.99, step))) + 1e-9) +
                                  decay * p[i]);
                } else {
                    mean[i] = 0.5 * mean[i] + x;
                    p[i] -= lr * (mean[i] + decay * p[i]);
                }
                double got;
                CHECK_OK(pf_tensor_get(i < 2 ? w : b, i % 2, &got));
                CHECK(fabs(got - p[i]) < 2e-6);
            }
            pf_tensor *none = NULL;
            CHECK_OK(pf_tensor_grad(&none, e, w));
            CHECK(!none);
        }
        pf_config_free(c);
        pf_optimizer_close(&o);
        pf_module_release(&m);
    }
}

static void test_not_finite(pf_engine *e) {
    pf_module *m = layer_of(e, "linear", "{'from': 2, 'to': 1}");
    pf_tensor *b = pf_module_tensor(m, "bias");
    pf_optimizer *o = NULL;
    CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
    CHECK_OK(pf_tensor_make_lasting(&b->grad, e->heap, PF_F32, 1, b->shape));
    CHECK_OK(pf_tensor_fill(b->grad, INFINITY));
    CHECK_FAILS(PF_ENUMERIC, pf_optimizer_step(o, e, 1, 1, NULL));
    CHECK(strstr(pf_last_error(), "'bias'"));
    double value;
    CHECK_OK(pf_tensor_get(b, 0, &value));
    CHECK(value == 0 && pf_optimizer_steps(o) == 0);
    pf_config *bad = options_of("{'type': 'adamx'}"), *tree = NULL;
    pf_optimizer *none = NULL;
    CHECK_FAILS(PF_EINVAL, pf_optimizer_new(&none, e, m, bad));
    CHECK(strstr(pf_last_error(), "did you mean 'adamw'?"));
    CHECK_OK(pf_describe(&tree, NULL));
    const pf_config *list = pf_config_get(tree, "optimizers");
    for (int i = 0; i < pf_config_size(list); i++) { /* the message names them all */
        CHECK(strstr(pf_last_error(),
                     pf_config_string(pf_config_get(pf_config_at(list, i), "name"))));
    }
    pf_config_free(tree);
    CHECK_FAILS(PF_EINVAL, pf_optimizer_step(o, e, NAN, 1, NULL));
    pf_config_free(bad);
    /* finite, but its square is not: a mean square would be infinite for good */
    CHECK_OK(pf_tensor_fill(b->grad, 1e20));
    CHECK_FAILS(PF_ENUMERIC, pf_optimizer_step(o, e, 1, 0, NULL));
    CHECK(strstr(pf_last_error(), "beyond float32"));
    CHECK_OK(pf_tensor_get(b, 0, &value));
    CHECK(value == 0 && pf_optimizer_steps(o) == 0);
    CHECK_OK(pf_optimizer_step(o, e, 1, 1, NULL)); /* clipped, it goes */
    CHECK_OK(pf_tensor_get(b, 0, &value));
    CHECK(value < 0 && isfinite(value));
    pf_optimizer_close(&o);
    pf_module_release(&m);
}

/* Training that is saved and restored halfway goes on with the same bits. */
static void test_restore(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true");
    pf_tensor *x = some_ids(e, 2, 20, 1), *target = some_ids(e, 2, 20, 2);
    pf_optimizer *a = NULL, *b = NULL;
    pf_named *list;
    pf_config *config = NULL;
    int n = 0;
    CHECK_OK(pf_optimizer_new(&a, e, m, NULL));
    CHECK_OK(pf_optimizer_new(&b, e, m, NULL));
    for (int i = 1; i < 4; i++) train_step(e, m, a, x, target, (uint64_t)i, 1e-3);
    CHECK_OK(pf_optimizer_tensors(a, &list, &n));
    CHECK_OK(pf_optimizer_config(a, &config));
    CHECK(n == 2 * 14 && strcmp(list[0].name, "embedding.weight.m") == 0 &&
          strcmp(list[1].name, "embedding.weight.v") == 0);
    CHECK_FAILS(PF_EFORMAT, restore_from(b, list, n - 1, config));
    CHECK(pf_optimizer_steps(b) == 0);
    CHECK_OK(restore_from(b, list, n, config));
    CHECK(pf_optimizer_steps(b) == 3);
    pf_named *other;
    CHECK_OK(pf_optimizer_tensors(b, &other, &n));
    for (int i = 0; i < n; i++) {
        float *va = numbers(list[i].tensor), *vb = numbers(other[i].tensor);
        CHECK(memcmp(va, vb, (size_t)pf_tensor_numel(list[i].tensor) * 4) == 0);
        free(va), free(vb);
    }
    pf_heap_free(e->heap, list, (size_t)n * sizeof *list);
    pf_heap_free(e->heap, other, (size_t)n * sizeof *other);
    pf_config_free(config);
    pf_tensor_release(&x), pf_tensor_release(&target);
    pf_optimizer_close(&a), pf_optimizer_close(&b);
    pf_module_release(&m);
}

/* New numbers when a draw is due, the same ones for the same step, none otherwise. */
static void test_redraw(pf_engine *e) {
    pf_module *m = small_model(e, "'kernel': {'features': 24, 'redraw': 10}");
    const char *name;
    pf_tensor *t = NULL;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        CHECK_OK(pf_module_tensor_at(m, i, &name, &t, NULL));
        if (strstr(name, "projection")) break;
    }
    static const struct {
        uint64_t step;
        int drawn;
    } calls[] = {{0, 0}, {1, 0}, {9, 0}, {10, 2}, {11, 0}, {20, 2}, {10, 2}};
    float *kept[PF_COUNT(calls)], *before = numbers(t);
    size_t bytes = (size_t)pf_tensor_numel(t) * sizeof(float);
    for (int i = 0; i < PF_COUNT(calls); i++) {
        int drawn = 0;
        CHECK_OK(pf_module_after_step(e, m, calls[i].step, &drawn));
        kept[i] = numbers(t);
        CHECK(drawn == calls[i].drawn);
        CHECK((memcmp(kept[i], i ? kept[i - 1] : before, bytes) != 0) == (drawn > 0));
    }
    CHECK(memcmp(kept[3], kept[6], bytes) == 0);
    for (int i = 0; i < PF_COUNT(calls); i++) free(kept[i]);
    free(before);
    pf_module_release(&m);
    m = small_model(e, "'kernel': {'features': 24}");
    int drawn = 0;
    CHECK_OK(pf_module_after_step(e, m, 1000, &drawn));
    CHECK(drawn == 0);
    pf_module_release(&m);
}

/* The bits of all buffers, projections and tilts, as one sum. */
static uint64_t buffer_bits(const pf_module *m) {
    uint64_t bits = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        bool trained;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, &trained));
        const unsigned char *bytes = pf_tensor_data(t);
        for (int64_t k = 0; !trained && k < pf_tensor_numel(t) * 4; k++) {
            bits = bits * 1099511628211u + bytes[k];
        }
    }
    return bits;
}

/* A host that calls pf_optimizer_step alone has what follows a step: twins, of which the second
 * sees the same batches, and is moved on by pf_module_after_step. */
static void test_after_step(void) {
    const char *kind = "'causal': true, 'kernel': {'name': 'softmax_plus', 'features': 24, "
                       "'redraw': 16, 'seed': 5}";
    pf_engine *e = engine_of(1, 21);
    pf_module *a = small_model(e, kind), *b = small_model(e, kind);
    pf_config *options = options_of("{'type': 'sgd'}");
    pf_optimizer *oa = NULL;
    pf_tensor *x = some_ids(e, 2, 20, 1), *target = some_ids(e, 2, 20, 2), *tilt = NULL;
    for (int i = 0; i < pf_module_tensor_count(a); i++) { /* the same weights */
        pf_tensor *from, *to;
        CHECK_OK(pf_module_tensor_at(a, i, NULL, &from, NULL));
        CHECK_OK(pf_module_tensor_at(b, i, NULL, &to, NULL));
        CHECK_OK(pf_tensor_copy(to, from));
    }
    CHECK_OK(pf_optimizer_new(&oa, e, a, options));
    uint64_t last = buffer_bits(a);
    CHECK(last == buffer_bits(b));
    for (uint64_t step = 1; step <= 33; step++) {
        int drawn = 0;
        bool looked = step % 16 == 0; /* at queries and keys, which moves the tilts */
        train_step(e, a, oa, x, target, step, 0);
        pf_pass pass = {.size = sizeof pass, .training = true, .step = step};
        pf_tensor *y = NULL;
        CHECK_OK(pf_module_forward(&y, e, b, x, &pass));
        pf_tensor_release(&y);
        CHECK_OK(pf_module_after_step(e, b, step, &drawn));
        CHECK(drawn == (looked ? 2 : 0) && pf_optimizer_drawn(oa) == drawn);
        CHECK(buffer_bits(a) == buffer_bits(b) && (buffer_bits(a) != last) == looked);
        last = buffer_bits(a);
    }
    double moved = 0;
    tilt = pf_module_tensor(pf_module_child(pf_module_child(pf_module_child(a, 1), 0), 1), "tilt");
    CHECK(tilt && pf_tensor_get(tilt, 0, &moved) >= 0 && moved < 0);
    /* a gradient that is not finite: no redraw, though one is due */
    for (int i = 0; i < 14; i++) train_step(e, a, oa, x, target, (uint64_t)(34 + i), 0);
    CHECK(pf_optimizer_steps(oa) == 47);
    pf_tensor *w = pf_module_tensor(pf_module_child(a, 0), "weight");
    CHECK(w->grad && w->grad_stale);
    CHECK_OK(pf_tensor_fill(w->grad, NAN));
    w->grad_stale = false;
    last = buffer_bits(a);
    CHECK_FAILS(PF_ENUMERIC, pf_optimizer_step(oa, e, 0, 0, NULL));
    CHECK(buffer_bits(a) == last && pf_optimizer_steps(oa) == 47 && pf_optimizer_drawn(oa) == 0);
    pf_config_free(options);
    pf_tensor_release(&x), pf_tensor_release(&target);
    pf_optimizer_close(&oa);
    pf_module_release(&a), pf_module_release(&b);
    pf_engine_close(&e);
}

static void test_schedule(void) {
    CHECK(pf_schedule_cosine(1, 10, 100, 1, 0.1) == 0.1);
    CHECK(pf_schedule_cosine(10, 10, 100, 1, 0.1) == 1);
    CHECK(fabs(pf_schedule_cosine(55, 10, 100, 1, 0.1) - 0.55) < 1e-12);
    CHECK(fabs(pf_schedule_cosine(100, 10, 100, 1, 0.1) - 0.1) < 1e-12);
    CHECK(pf_schedule_cosine(500, 10, 100, 1, 0.1) == 0.1);
    CHECK(pf_schedule_cosine(1, 0, 0, 1, 0.1) == 0.1);
}

int main(void) {
    pf_engine *e = engine_of(1, 11);
    test_schedule();
    test_formulas(e);
    test_not_finite(e);
    test_dropout(e);
    test_restore(e);
    test_redraw(e);
    test_after_step();
    test_overfit();
    test_threads();
    pf_engine_close(&e);
    return CHECK_REPORT();
}
