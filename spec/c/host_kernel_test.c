/*
 * host_kernel_test.c - a kernel of the host's own does all that the built-in `elu` does: whole rows
 * and their gradients, streams, items, weights, log-partitions, layers, files of states; its
 * release comes once, when nothing needs it. Files and maps that are not what they say are refused.
 */
#include "kernel_support.h"
#include "scratch.h"
#include "seal.h"

static char folder[256];

/* ---- whole rows ---- */
/* out, and the gradients of q, k and v of a loss sum(out^2). */
static void run_rows(pf_engine *e, const pf_attention_options *o, const rows *x, pf_tensor **out) {
    pf_tensor *leaves[3] = {x->q, x->k, x->v}, *y = NULL, *seed = NULL;
    pf_tape *tape = NULL;
    for (int i = 0; i < 3; i++) CHECK_OK(pf_tensor_require_grad(leaves[i], true));
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_attention_call(&y, NULL, e, x->q, x->k, x->v, o));
    CHECK_OK(pf_tensor_detach(&out[0], e, y));
    CHECK_OK(pf_tensor_detach(&seed, e, y));
    CHECK_OK(pf_tape_backward(tape, y, seed));
    for (int i = 0; i < 3; i++) {
        pf_tensor *grad = NULL;
        CHECK_OK(pf_tensor_grad(&grad, e, leaves[i]));
        CHECK_OK(pf_tensor_detach(&out[1 + i], e, grad));
        pf_tensor_release(&grad);
        pf_tensor_clear_grad(leaves[i]);
        CHECK_OK(pf_tensor_require_grad(leaves[i], false));
    }
    pf_tensor_release(&y), pf_tensor_release(&seed);
    pf_tape_close(&tape);
}

static void test_rows(pf_engine *e) {
    mine m = {.factor = 3};
    pf_kernel *own = kernel_of(e, "{'name': 'elu'}"), *host = mine_of(e, "mine", &m);
    pf_tensor *decay = NULL, *mask = NULL, *exit[3] = {NULL}, *out = NULL;
    CHECK_OK(pf_tensor_full(&decay, e, PF_F32, 1, (int64_t[]){H}, 0.1));
    CHECK_OK(pf_tensor_full(&mask, e, PF_I32, 2, (int64_t[]){B, L}, 1));
    pf_i32(mask)[3] = 0;
    const pf_attention_options forms[] = {
        {.size = sizeof *forms},
        {.size = sizeof *forms, .causal = true},
        {.size = sizeof *forms, .mask = mask},
        {.size = sizeof *forms, .causal = true, .decay = decay},
    };
    for (int f = 0; f < PF_COUNT(forms); f++) {
        rows x = rows_of(e, f % 2 ? 2 * H : H, L);
        pf_attention_options o = forms[f];
        pf_tensor *a[4] = {NULL}, *b[4] = {NULL};
        o.kernel = own;
        run_rows(e, &o, &x, a);
        o.kernel = host;
        run_rows(e, &o, &x, b);
        CHECK(close_to(&b[0], &a[0], 1e-6));
        for (int i = 1; i < 4; i++) CHECK(close_to(&b[i], &a[i], 1e-5));
        free_rows(&x);
    }
    rows x = rows_of(e, H, L);
    pf_attention_options o = {.size = sizeof o, .kernel = host, .causal = true};
    CHECK_OK(pf_attention_call(&out, exit, e, x.q, x.k, x.v, &o));
    CHECK(pf_tensor_rank(exit[0]) == 4 && pf_tensor_size(exit[0], 2) == D);
    o.attention = "exact", o.kernel = NULL; /* no state of fixed size: none to begin from */
    memcpy(o.entry, exit, sizeof o.entry);
    pf_tensor_release(&out);
    CHECK_FAILS(PF_EINVAL, pf_attention_call(&out, NULL, e, x.q, x.k, x.v, &o));
    o = (pf_attention_options){.size = sizeof o, .kernel = host, .causal = true};
    for (int i = 0; i < 3; i++) pf_tensor_release(&exit[i]);
    pf_tensor_release(&out);
    m.fails = true;
    CHECK_FAILS(PF_EHOST, pf_attention_call(&out, NULL, e, x.q, x.k, x.v, &o));
    CHECK(!out && strstr(pf_last_error(), "the map says no"));
    m.fails = false; /* a host has codes, and no way to leave a message of its own */
    for (m.code = PF_EHOST; m.code > -99; m.code -= 60) {
        CHECK_FAILS(m.code, pf_attention_call(&out, NULL, e, x.q, x.k, x.v, &o));
        CHECK(!out && strstr(pf_last_error(), "'mine'") && !strstr(pf_last_error(), "says no"));
    }
    CHECK_OK(pf_attention_call(&out, NULL, e, x.q, x.k, x.v, NULL)); /* all as by default */
    pf_tensor_release(&out);
    free_rows(&x);
    pf_tensor_release(&decay), pf_tensor_release(&mask);
    pf_kernel_release(&own), pf_kernel_release(&host);
    CHECK(m.released == 1);
}

/* ---- asking a kernel ---- */

static void test_asking(pf_engine *e) {
    mine m = {0};
    pf_kernel *own = kernel_of(e, "{'name': 'elu'}"), *host = mine_of(e, "mine", &m);
    pf_tensor *x = normals(e, B, H, L, D), *a = NULL, *b = NULL, *factors = NULL;
    pf_config *settings = NULL;
    pf_prediction p = {.size = sizeof p};
    CHECK(pf_kernel_name(host) && strcmp(pf_kernel_name(host), "mine") == 0);
    CHECK_OK(pf_kernel_features(&a, e, own, PF_SIDE_KEY, x));
    CHECK_OK(pf_kernel_features(&b, e, host, PF_SIDE_KEY, x));
    CHECK(close_to(&b, &a, 1e-6));
    CHECK_OK(pf_kernel_projection(&a, &factors, e, host, D, H));
    CHECK(!a && !factors);
    CHECK_FAILS(PF_EINVAL, pf_kernel_settings(&settings, host, D));
    CHECK_FAILS(PF_EINVAL, pf_kernel_predict(&p, host, D, 1, 1));
    CHECK_FAILS(PF_EINVAL, pf_kernel_survey(&settings, e, host, x, x, NULL));
    pf_kernel_release(&own);
    CHECK_FAILS(PF_EINVAL, pf_kernel_tilted(&own, e, host, 0.1));
    CHECK(!settings && !own);
    pf_tensor_release(&x);
    pf_kernel_release(&host);
}

/* ---- streams ---- */

static void test_streams(pf_engine *e) {
    mine m = {0};
    pf_kernel *own = kernel_of(e, "{'name': 'elu'}"), *host = mine_of(e, "mine", &m);
    pf_state *s = state_of(e, own), *t = state_of(e, host), *s2 = NULL, *t2 = NULL;
    pf_kernel_release(&host); /* the states keep it */
    CHECK(m.released == 0);
    CHECK(move_both(e, s, t, 5));
    for (int i = 0; i < 4; i++) CHECK(move_both(e, s, t, 1));
    CHECK_OK(pf_state_fork(&s2, e, s));
    CHECK_OK(pf_state_fork(&t2, e, t));
    CHECK(move_both(e, s, t, 3) && move_both(e, s2, t2, 1));
    CHECK_OK(pf_state_merge(e, s, s2));
    CHECK_OK(pf_state_merge(e, t, t2));
    CHECK(move_both(e, s, t, 1) && pf_state_position(t) == 5 + 4 + 3 + 5 + 4 + 1 + 1);
    CHECK_FAILS(PF_EINVAL, pf_state_merge(e, s, t));
    pf_attention_state_options o = {.size = sizeof o};
    CHECK_OK(pf_attention_state_info(t, &o));
    CHECK_OK(pf_attention_state_check(e, t2, &o));
    CHECK_FAILS(PF_EINVAL, pf_attention_state_check(e, s, &o));
    pf_state_close(&s), pf_state_close(&s2), pf_state_close(&t);
    CHECK(m.released == 0);
    pf_state_close(&t2);
    CHECK(m.released == 1);
    pf_kernel_release(&own);
}

/* ---- items, weights, log-partitions ---- */

static pf_items *items_of(pf_engine *e, pf_kernel *kernel) {
    pf_items_options o = {.size = sizeof o, .kernel = kernel, .dim = D, .value_dim = DV};
    pf_items *items = NULL;
    CHECK_OK(pf_items_open(&items, e, &o));
    return items;
}

static void test_items(pf_engine *e) {
    mine m = {0};
    pf_kernel *own = kernel_of(e, "{'name': 'elu'}"), *host = mine_of(e, "mine", &m);
    pf_items *a = items_of(e, own), *b = items_of(e, host);
    pf_tensor *k = matrix(e, 40, D), *v = matrix(e, 40, DV), *q = matrix(e, 6, D);
    pf_tensor *more = matrix(e, 3, D), *worth = matrix(e, 3, DV), *x = NULL, *y = NULL;
    CHECK_OK(pf_items_add(a, e, k, v));
    CHECK_OK(pf_items_add(b, e, k, v));
    CHECK_OK(pf_items_add(b, e, more, worth));
    CHECK_OK(pf_items_remove(b, e, more, worth));
    CHECK(pf_items_count(b) == 40 && pf_items_bytes(a) == pf_items_bytes(b));
    CHECK_OK(pf_items_log_partition(&x, a, e, q));
    CHECK_OK(pf_items_log_partition(&y, b, e, q));
    CHECK(close_to(&y, &x, 1e-6));
    CHECK_OK(pf_items_expectation(&x, a, e, q));
    CHECK_OK(pf_items_expectation(&y, b, e, q));
    CHECK(close_to(&y, &x, 1e-6));
    CHECK_OK(pf_items_probability(&x, a, e, q, k, 0));
    CHECK_OK(pf_items_probability(&y, b, e, q, k, 0));
    CHECK(close_to(&y, &x, 1e-6));
    pf_items_close(&a);
    pf_kernel_release(&own), pf_kernel_release(&host);
    CHECK(m.released == 0);
    pf_items_close(&b);
    CHECK(m.released == 1);
    pf_tensor_release(&k), pf_tensor_release(&v), pf_tensor_release(&q);
    pf_tensor_release(&more), pf_tensor_release(&worth);
}

static void test_weights(pf_engine *e) {
    static const int64_t at[] = {8, 0, 3}, keys[] = {2, 0, 1};
    mine m = {0};
    pf_kernel *both[2] = {kernel_of(e, "{'name': 'elu'}"), mine_of(e, "mine", &m)};
    rows x = rows_of(e, H, L);
    pf_tensor *got[2][6] = {{NULL}};
    for (int i = 0; i < 2; i++) {
        pf_tensor **g = got[i];
        pf_weights_options o = {.size = sizeof o, .kernel = both[i], .causal = true};
        CHECK_OK(pf_attention_log_partition(&g[0], e, x.q, x.k, &o));
        o.rows = at, o.n_rows = 3;
        CHECK_OK(pf_attention_weights(&g[1], NULL, &g[2], e, x.q, x.k, &o));
        o.columns = keys, o.n_columns = 3, o.paired = true;
        CHECK_OK(pf_attention_weights(&g[3], NULL, NULL, e, x.q, x.k, &o));
        o.columns = NULL, o.paired = false, o.top = 2;
        CHECK_OK(pf_attention_weights(&g[4], &g[5], NULL, e, x.q, x.k, &o));
    }
    CHECK(memcmp(pf_i32(got[0][5]), pf_i32(got[1][5]), B * H * 3 * 2 * sizeof(int32_t)) == 0);
    pf_tensor_release(&got[0][5]), pf_tensor_release(&got[1][5]);
    for (int i = 0; i < 5; i++) CHECK(close_to(&got[1][i], &got[0][i], 1e-6));
    free_rows(&x);
    pf_kernel_release(&both[0]), pf_kernel_release(&both[1]);
    CHECK(m.released == 1);
}

/* ---- layers ---- */

static pf_tensor *forward_rows(pf_engine *e, pf_module *m, pf_tensor *x) {
    pf_tensor *y = NULL;
    CHECK_OK(pf_module_forward(&y, e, m, x, NULL));
    return y;
}

/* Row by row, (1, L, 8). */
static pf_tensor *streamed(pf_engine *e, pf_module *m, pf_tensor *x) {
    pf_tensor *all = NULL, *row = NULL, *y = NULL;
    pf_state *s = NULL;
    CHECK_OK(pf_tensor_full(&all, e, PF_F32, 3, x->shape, 0));
    CHECK_OK(pf_tensor_empty(&row, e, PF_F32, 2, (int64_t[]){1, 8}));
    CHECK_OK(pf_module_state(&s, e, m, 1));
    for (int64_t i = 0; i < x->shape[1]; i++) {
        CHECK_OK(pf_tensor_write(row, pf_f32(x) + i * 8, 8 * sizeof(float)));
        CHECK_OK(pf_module_step(&y, e, m, row, s));
        CHECK_OK(pf_tensor_read(y, pf_f32(all) + i * 8, 8 * sizeof(float)));
        pf_tensor_release(&y);
    }
    pf_state_close(&s);
    pf_tensor_release(&row);
    return all;
}

static void test_layers(pf_engine *e) {
    mine m = {0};
    pf_kernel *host = mine_of(e, "mine", &m);
    pf_config *handle = NULL, *tree = NULL;
    pf_tensor *x = NULL;
    CHECK_OK(pf_tensor_rand(&x, e, 3, (int64_t[]){1, L, 8}, true));
    CHECK_OK(pf_kernel_config(&handle, host));
    pf_module *own = attention_of(e, options_of("{'name': 'elu'}"));
    pf_module *named = attention_of(e, options_of("{'name': 'mine'}"));
    pf_module *held = attention_of(e, handle), *built = NULL;
    pf_module *const layers[] = {named, held};
    for (int i = 0; i < 2; i++) {
        pf_tensor *a = forward_rows(e, own, x), *b = forward_rows(e, layers[i], x);
        CHECK(close_to(&b, &a, 1e-6));
        a = forward_rows(e, own, x), b = streamed(e, layers[i], x);
        CHECK(close_to(&b, &a, 1e-5));
        CHECK_OK(pf_module_tree(&tree, layers[i])); /* plain data: the name, and no handle */
        char *text = NULL;
        CHECK_OK(pf_json_write(&text, tree, false));
        CHECK(text && strstr(text, "\"mine\"") && !strstr(text, "handle"));
        pf_text_free(text);
        pf_seed(e, 5);
        CHECK_OK(pf_module_build(&built, e, tree));
        a = forward_rows(e, own, x), b = forward_rows(e, built, x);
        CHECK(close_to(&b, &a, 1e-6));
        pf_module_release(&built);
        if (i == 0) pf_config_free(tree);
    }
    pf_kernel_release(&host), pf_module_release(&named);
    CHECK(m.released == 0); /* a layer has it */
    CHECK_OK(pf_module_build(&built, e, tree));
    pf_module_release(&built), pf_module_release(&held);
    CHECK(m.released == 1);
    CHECK_FAILS(PF_ENOTFOUND, pf_module_build(&built, e, tree));
    CHECK(!built && strstr(pf_last_error(), "mine"));
    pf_config_free(tree);
    pf_module_release(&own);
    pf_tensor_release(&x);
}

/* What the map learns: a layer's own tensor, and each of its layers' the same one. */
static void test_parameters(pf_engine *e) {
    mine m = {0};
    CHECK_OK(pf_tensor_full(&m.gain, e, PF_F32, 1, (int64_t[]){D}, 1));
    pf_kernel *host = mine_of(e, "mine", &m), *none = NULL;
    pf_module *a = attention_of(e, options_of("{'name': 'mine'}"));
    pf_module *b = attention_of(e, options_of("{'name': 'mine'}"));
    CHECK(pf_module_tensor(a, "parameters.gain") == m.gain);
    CHECK(pf_module_tensor(b, "parameters.gain") == m.gain);

    /* Its gradient against the difference of the loss, sum(y^2) / 2. */
    pf_tensor *x = NULL, *y = NULL, *seed = NULL, *grad = NULL;
    pf_tape *tape = NULL;
    CHECK_OK(pf_tensor_rand(&x, e, 3, (int64_t[]){1, L, 8}, true));
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_forward(&y, e, a, x, NULL));
    CHECK_OK(pf_tensor_detach(&seed, e, y));
    CHECK_OK(pf_tape_backward(tape, y, seed));
    CHECK_OK(pf_tensor_grad(&grad, e, m.gain));
    pf_tensor_release(&y), pf_tensor_release(&seed);
    double slope = 0, size = 0, told = grad ? (double)pf_f32(grad)[1] : NAN;
    pf_tensor_release(&grad);
    pf_tape_close(&tape);
    for (int side = -1; side <= 1; side += 2) {
        pf_f32(m.gain)[1] = 1 + (float)side * 0x1p-6f;
        y = forward_rows(e, a, x);
        for (int64_t i = 0; i < L * 8; i++) {
            double value = pf_f32(y)[i];
            slope += side * value * value / 2 / 0x1p-5;
            size += value * value / 2;
        }
        pf_tensor_release(&y);
    }
    CHECK(fabs(told - slope) <= 1e-3 * fabs(slope) + 1e-4 * size);
    CHECK(fabs(told) > 1e-5 * size);

    pf_host_map broken = {.size = sizeof broken, .map = elu_map, .n_parameters = 1};
    CHECK_FAILS(PF_EINVAL, pf_kernel_open_host(&none, e, "broken", &broken));
    broken.parameters = &(pf_named){"gain", NULL};
    CHECK_FAILS(PF_EINVAL, pf_kernel_open_host(&none, e, "broken", &broken));
    broken.n_parameters = -1;
    CHECK_FAILS(PF_EINVAL, pf_kernel_open_host(&none, e, "broken", &broken));
    CHECK(!none);
    pf_kernel_release(&host);
    pf_module_release(&a), pf_module_release(&b);
    CHECK(m.released == 1);
    pf_tensor_release(&m.gain), pf_tensor_release(&x);
}

/* A row in parts, and blocks that run again: the gradients of a model with the built-in one. */
static void test_slices(pf_engine *e) {
    static const char *const savers[] = {"recompute", "reversible"};
    mine m = {0};
    pf_kernel *host = mine_of(e, "mine", &m);
    for (int i = 0; i < 4; i++) {
        double loss[2] = {0}, norm[2] = {0};
        for (int own = 0; own < 2; own++) {
            char more[160];
            snprintf(more, sizeof more,
                     "'causal': true, 'decay': 1, '%s': true, 'kernel': {'name': '%s'}",
                     savers[i % 2], own ? "elu" : "mine");
            pf_seed(e, 5);
            pf_module *model = small_model(e, more);
            pf_tensor *ids = some_ids(e, 2, 48, 1);
            pf_pass pass = {.size = sizeof pass, .training = true, .step = 16};
            const pf_slicing how = {.size = sizeof how, .slices = i < 2 ? 1 : 3};
            CHECK_OK(pf_module_backward_sliced(&loss[own], e, model, ids, ids, &pass, &how));
            for (int t = 0; t < pf_module_tensor_count(model); t++) {
                pf_tensor *leaf = NULL;
                CHECK_OK(pf_module_tensor_at(model, t, NULL, &leaf, NULL));
                for (int64_t k = 0; leaf->grad && k < pf_tensor_numel(leaf->grad); k++) {
                    double g = 0;
                    CHECK_OK(pf_tensor_get(leaf->grad, k, &g));
                    norm[own] += g * g;
                }
            }
            pf_tensor_release(&ids);
            pf_module_release(&model);
        }
        CHECK(loss[1] > 0 && fabs(loss[0] - loss[1]) <= 1e-6 * loss[1]);
        CHECK(norm[1] > 0 && fabs(norm[0] - norm[1]) <= 1e-4 * norm[1]);
    }
    pf_kernel_release(&host);
    CHECK(m.released == 1);
}

/* ---- files ---- */

static pf_attention_state_options with(pf_kernel *kernel) {
    return (pf_attention_state_options){.size = sizeof(pf_attention_state_options),
                                        .kernel = kernel};
}

/* Features may be wider than the rows that they are made of. */
static void test_wide_files(pf_engine *e) {
    const char *path = scratch_path("%s/wide.safetensors", folder);
    mine m = {.wide_at = 1};
    pf_kernel *host = mine_of(e, "wide", &m);
    pf_state *s = state_of(e, host), *t = state_of(e, host), *loaded = NULL, *again = NULL;
    pf_attention_state_options o = with(host);
    CHECK(move_both(e, s, t, 6) && s->tensor[0]->shape[2] == 2 * D);
    CHECK_OK(pf_state_save(e, s, path));
    CHECK_OK(pf_state_load(&loaded, e, path, &o));
    CHECK(move_both(e, s, loaded, 1) && move_both(e, s, loaded, 2));
    CHECK_OK(pf_state_save(e, loaded, path)); /* a loaded one says the same again */
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&again, e, path, NULL));
    CHECK_OK(pf_state_load(&again, e, path, &o));
    CHECK(move_both(e, s, again, 1));
    pf_state_close(&s), pf_state_close(&t), pf_state_close(&loaded), pf_state_close(&again);
    pf_kernel_release(&host);
    CHECK(m.released == 1);
}

static void test_files(pf_engine *e) {
    const char *path = scratch_path("%s/mine.safetensors", folder);
    mine m = {0}, other = {.factor = 2};
    pf_kernel *host = mine_of(e, "mine", &m), *twice = mine_of(e, "twice", &other);
    pf_kernel *elu = kernel_of(e, "{'name': 'elu'}");
    pf_state *s = state_of(e, host), *t = state_of(e, host), *loaded = NULL;
    CHECK(move_both(e, s, t, 6));
    CHECK_OK(pf_state_save(e, s, path));
    pf_attention_state_options o = with(host);
    CHECK_OK(pf_state_load(&loaded, e, path, &o));
    CHECK_OK(pf_attention_state_info(loaded, &o));
    CHECK(pf_state_position(loaded) == 6 && o.head_dim == D && pf_kernel_is_host(o.kernel));
    CHECK(move_both(e, s, loaded, 1) && move_both(e, s, loaded, 3));
    CHECK_OK(pf_state_merge(e, loaded, s));
    pf_state_close(&loaded);

    o = with(twice); /* other features */
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    o = with(elu); /* no map of the host's */
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    CHECK(!loaded);

    /* Without the kernel its sums would take rows for features. */
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, NULL));
    CHECK(!loaded && strstr(pf_last_error(), "'mine'"));
    pf_state_close(&s), pf_state_close(&t), pf_state_close(&loaded);
    pf_kernel_release(&host), pf_kernel_release(&twice), pf_kernel_release(&elu);
    CHECK(m.released == 1 && other.released == 1);
}

/* Files that somebody made say what their kernel is not. */
static void test_made_files(pf_engine *e) {
    static const char *const widths[] = {"0", "-3", "1e18", "5", "1048577"};
    const char *path = scratch_path("%s/made.safetensors", folder);
    mine m = {0};
    pf_kernel *host = mine_of(e, "mine", &m);
    pf_attention_state_options o = with(host), exact = {.size = sizeof exact,
                                                        .attention = "exact",
                                                        .batch = B,
                                                        .heads = H,
                                                        .head_dim = D,
                                                        .value_dim = DV};
    pf_state *s = NULL, *loaded = NULL;
    CHECK_OK(pf_attention_state_open(&s, e, &exact));
    CHECK_OK(pf_state_save(e, s, path));
    pf_state_close(&s);
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    CHECK(strstr(pf_last_error(), "exact") != NULL);

    s = state_of(e, host);
    CHECK_OK(pf_state_save(e, s, path));
    o.heads = H + 1;
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    o.heads = H, o.head_dim = 2 * D;
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    o.head_dim = 0;
    for (int i = 0; i <= PF_COUNT(widths); i++) {
        char words[80];
        pf_named *list = NULL;
        pf_config *meta = NULL;
        int n = 0;
        CHECK_OK(pf_safetensors_load(e, path, &list, &n, &meta));
        snprintf(words, sizeof words, "{\"name\": \"given\", \"width\": %s}",
                 i ? widths[i - 1] : "4");
        CHECK_OK(pf_config_set_string(meta, "kernel", words));
        const char *made = scratch_path("%s/other.safetensors", folder);
        CHECK_OK(seal(e, NULL, list, n, meta, made));
        if (i == 0) CHECK_OK(pf_state_load(&loaded, e, made, &o));
        if (i > 0) CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, made, &o));
        pf_state_close(&loaded);
        pf_named_free(list, n), pf_config_free(meta);
    }

    /* The right numbers of the features, and sums of twice as many. */
    pf_named *list = NULL;
    pf_config *meta = NULL;
    int n = 0;
    CHECK_OK(pf_safetensors_load(e, path, &list, &n, &meta));
    for (int i = 0; i < n; i++) {
        pf_tensor *t = list[i].tensor, *wide = NULL;
        int64_t shape[4];
        if (pf_tensor_rank(t) < 3) continue;
        for (int d = 0; d < pf_tensor_rank(t); d++) shape[d] = pf_tensor_size(t, d);
        shape[2] *= 2;
        CHECK_OK(pf_tensor_full(&wide, e, PF_F32, pf_tensor_rank(t), shape, 0));
        pf_tensor_release(&list[i].tensor);
        list[i].tensor = wide;
    }
    CHECK_OK(pf_config_set_string(meta, "head_dim", "8"));
    CHECK_OK(seal(e, NULL, list, n, meta, path));
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    pf_named_free(list, n), pf_config_free(meta);
    pf_state_close(&s);
    pf_kernel_release(&host);
    CHECK(m.released == 1 && !loaded);
}

/* ---- maps that misbehave ---- */

/* Features of another width than those before are refused wherever they come. */
static void test_widths(pf_engine *e) {
    mine keys = {.wide_keys = 1}, later = {0};
    pf_kernel *a = mine_of(e, "keys", &keys), *b = mine_of(e, "later", &later);
    rows x = rows_of(e, H, 1);
    pf_tensor *out = NULL, *k = matrix(e, 5, D), *v = matrix(e, 5, DV);
    static const int64_t at[] = {0};
    pf_weights_options w = {.size = sizeof w, .kernel = a, .rows = at, .n_rows = 1};
    pf_attention_options o = {.size = sizeof o, .kernel = a};
    CHECK_FAILS(PF_ESHAPE, pf_attention_call(&out, NULL, e, x.q, x.k, x.v, &o));
    CHECK_FAILS(PF_ESHAPE, pf_attention_weights(&out, NULL, NULL, e, x.q, x.k, &w));
    CHECK_FAILS(PF_ESHAPE, pf_attention_log_partition(&out, e, x.q, x.k, &w));
    pf_items *items = items_of(e, a);
    CHECK_OK(pf_items_add(items, e, k, v));
    CHECK_FAILS(PF_ESHAPE, pf_items_log_partition(&out, items, e, k));
    pf_items_close(&items);
    pf_state *s = state_of(e, a);
    CHECK_FAILS(PF_ESHAPE, pf_attention_step(&out, e, s, x.q, x.k, x.v));
    CHECK_FAILS(PF_ESHAPE, pf_attention_prefill(&out, e, s, x.q, x.k, x.v));
    CHECK(!out && pf_state_position(s) == 0);
    pf_state_close(&s);

    s = state_of(e, b);
    items = items_of(e, b);
    CHECK_OK(pf_attention_step(&out, e, s, x.q, x.k, x.v));
    pf_tensor_release(&out);
    later.wide_at = later.calls + 1;
    CHECK_FAILS(PF_ESHAPE, pf_attention_step(&out, e, s, x.q, x.k, x.v));
    CHECK_FAILS(PF_ESHAPE, pf_attention_prefill(&out, e, s, x.q, x.k, x.v));
    CHECK_FAILS(PF_ESHAPE, pf_items_add(items, e, k, v));
    CHECK(!out && pf_state_position(s) == 1 && pf_items_count(items) == 0);
    later.wide_at = 0;
    CHECK_OK(pf_attention_step(&out, e, s, x.q, x.k, x.v));
    pf_tensor_release(&out);
    pf_state_close(&s);
    pf_items_close(&items);
    free_rows(&x);
    pf_tensor_release(&k), pf_tensor_release(&v);
    pf_kernel_release(&a), pf_kernel_release(&b);
    CHECK(keys.released == 1 && later.released == 1);
}

int main(void) {
    pf_engine *e = engine_of(2, 7);
    scratch_open(folder, sizeof folder);
    test_rows(e);
    test_asking(e);
    test_streams(e);
    test_items(e);
    test_weights(e);
    test_layers(e);
    test_parameters(e);
    test_slices(e);
    test_files(e);
    test_wide_files(e);
    test_made_files(e);
    test_widths(e);
    pf_engine_close(&e);
    scratch_remove(folder);
    return CHECK_REPORT();
}
