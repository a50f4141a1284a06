/*
 * kernel_test.c - kernels as objects: what options can name (open kernels, by name and by handle,
 * with given projections), whose they are when engines close, states that take their sizes late,
 * and what failing allocations leave behind.
 */
#include "host.h"
#include "kernel_support.h"

/* ---- names and handles ---- */

static void test_names(pf_engine *e) {
    mine first = {0}, second = {0};
    pf_kernel *a = mine_of(e, "mine", &first), *b = mine_of(e, "mine", &second), *found = NULL;
    pf_config *named = options_of("{'name': 'mine'}"), *of[2] = {NULL};
    pf_kernel *const both[2] = {a, b};
    CHECK_FAILS(PF_EINVAL, pf_kernel_open(&found, e, named, NULL));
    CHECK(!found && strstr(pf_last_error(), "mine"));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pf_kernel_config(&of[i], both[i]));
        CHECK_OK(pf_kernel_open(&found, e, of[i], NULL));
        CHECK(found == both[i]);
        pf_kernel_release(&found);
    }
    pf_kernel_release(&b);
    CHECK(second.released == 1 && first.released == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_kernel_open(&found, e, of[1], NULL));
    CHECK_OK(pf_kernel_open(&found, e, named, NULL)); /* one has the name now */
    CHECK(found == a);
    pf_kernel_release(&found);

    /* What is open is taken as it is. */
    pf_tensor *w = matrix(e, 4, D);
    CHECK_FAILS(PF_EINVAL, pf_kernel_open(&found, e, named, w));
    CHECK_FAILS(PF_EINVAL, pf_kernel_open(&found, e, of[0], w));
    CHECK(!found);
    pf_tensor_release(&w);
    pf_kernel_release(&a);
    CHECK(first.released == 1);
    CHECK_FAILS(PF_ENOTFOUND, pf_kernel_open(&found, e, of[0], NULL));
    CHECK_FAILS(PF_ENOTFOUND, pf_kernel_open(&found, e, named, NULL));
    mine none = {0};
    CHECK_FAILS(PF_EINVAL, open_mine(&found, e, "relu", &none));
    CHECK_FAILS(PF_EINVAL, open_mine(&found, e, "given", &none));
    CHECK_FAILS(PF_EINVAL, open_mine(&found, e, NULL, &none));
    CHECK_FAILS(PF_EINVAL, pf_kernel_open_host(&found, e, "mine", NULL));
    CHECK(!found && none.released == 0);
    pf_config_free(named), pf_config_free(of[0]), pf_config_free(of[1]);

    /* One named like a kind of attention is not taken for that. */
    a = mine_of(e, "exact", &none);
    for (int handle = 0; handle < 2; handle++) {
        pf_config *o = options_of("{'dim': 8, 'heads': 2}"), *kernel = NULL;
        pf_module *m = NULL;
        if (handle) CHECK_OK(pf_kernel_config(&kernel, a));
        CHECK_OK(pf_config_set(o, "kernel", kernel ? kernel : options_of("{'name': 'exact'}")));
        CHECK_FAILS(PF_EINVAL, pf_module_new(&m, e, "attention", o, NULL, 0));
        CHECK(!m && strstr(pf_last_error(), "exact"));
        pf_config_free(o);
    }
    pf_kernel_release(&a);
    CHECK(none.released == 1);
}

/* A handle is of one engine: in another it finds nothing, whatever is open there. */
static void test_two_engines(pf_engine *e) {
    pf_engine *other = engine_of(1, 3), *third = engine_of(1, 3);
    pf_kernel *found = NULL, *there[2], *alike[2];
    pf_config *handle = NULL;
    for (int i = 0; i < 2; i++) {
        there[i] = kernel_of(other, "{'name': 'elu'}");
        alike[i] = kernel_of(third, "{'name': 'relu'}");
        CHECK_OK(pf_kernel_config(&handle, there[i]));
        CHECK_FAILS(PF_ENOTFOUND, pf_kernel_open(&found, third, handle, NULL));
        pf_config_free(handle);
    }
    /* The engine goes first: a kernel without one is in no list, and is whole all the same. */
    pf_engine_close(&other);
    CHECK_OK(pf_kernel_config(&handle, there[1]));
    CHECK(pf_config_get(handle, "handle") == NULL && pf_config_get(handle, "name") != NULL);
    pf_config_free(handle);
    for (int i = 0; i < 2; i++) pf_kernel_release(&there[i]), pf_kernel_release(&alike[i]);
    pf_engine_close(&third);

    mine m = {0};
    other = engine_of(1, 3);
    pf_kernel *host = mine_of(other, "mine", &m);
    pf_state *s = state_of(other, host), *t = state_of(e, host);
    CHECK(move_both(e, t, s, 3)); /* either engine may run it */
    pf_engine_close(&other);
    CHECK(move_both(e, t, s, 1));
    pf_kernel_release(&host), pf_state_close(&t);
    CHECK(m.released == 0);
    pf_state_close(&s);
    CHECK(m.released == 1);
}

/* ---- given projections ---- */

static void test_given(pf_engine *e) {
    enum { M = 16 };
    pf_projection_options draw = {.size = sizeof draw, .features = M, .head_dim = D, .seed = 3};
    pf_tensor *w = NULL, *each = NULL, *out = NULL;
    pf_config *options = options_of("{'name': 'softmax'}"), *heads = NULL;
    pf_kernel *drawn = kernel_of(e, "{'features': 16, 'head_dim': 4, 'seed': 3}"), *given = NULL;
    pf_prediction p = {.size = sizeof p}, g = {.size = sizeof g};
    CHECK_OK(pf_projection_draw(&w, e, &draw));
    draw.heads = H;
    CHECK_OK(pf_projection_draw(&each, e, &draw));
    CHECK_OK(pf_kernel_open(&given, e, options, w));
    CHECK_OK(pf_tensor_fill(w, 0)); /* it has a copy */
    CHECK_OK(pf_kernel_projection(&out, NULL, e, given, 0, 0));
    CHECK(out && pf_tensor_size(out, 0) == M && pf_f32(out)[0] != 0);
    pf_tensor_release(&out);

    /* Nobody knows how its rows lie: they count as independent. */
    CHECK_OK(pf_kernel_predict(&p, drawn, 0, 2, 1));
    CHECK_OK(pf_kernel_predict(&g, given, 0, 2, 1));
    CHECK(p.coupled_rel_mse < p.rel_mse && g.rel_mse == p.rel_mse);
    CHECK(g.coupled_rel_mse == g.rel_mse);
    CHECK_FAILS(PF_EINVAL, pf_kernel_predict(&g, given, D + 1, 2, 1));
    pf_kernel_release(&given);

    /* One a head of keys, for twice as many heads of queries. */
    CHECK_OK(pf_kernel_open(&given, e, options, each));
    rows x = rows_of(e, 2 * H, L);
    pf_survey_options survey = {.size = sizeof survey, .draws = 5};
    CHECK_OK(pf_kernel_survey(&heads, e, given, x.q, x.k, &survey));
    CHECK(pf_config_size(heads) == 2 * H);
    for (int h = 0; h < pf_config_size(heads); h++) {
        const pf_config *head = pf_config_at(heads, h);
        CHECK(pf_config_number(pf_config_get(head, "measured_rel_mse")) > 0);
        CHECK(pf_config_number(pf_config_get(head, "measured_deviation")) == 0);
    }
    pf_config_free(heads);
    free_rows(&x);
    pf_state *s = NULL;
    pf_attention_state_options o = {.size = sizeof o,
                                    .kernel = given,
                                    .batch = B,
                                    .heads = H + 1,
                                    .head_dim = D,
                                    .value_dim = DV};
    CHECK_FAILS(PF_ESHAPE, pf_attention_state_open(&s, e, &o));
    CHECK_FAILS(PF_EINVAL, (o.head_dim = D + 1, pf_attention_state_open(&s, e, &o)));
    pf_kernel_release(&given);

    static const char *const wrong[] = {"{'name': 'softmax', 'features': 15}",
                                        "{'name': 'softmax', 'head_dim': 5}"};
    for (int i = 0; i < 2; i++) {
        pf_config *bad = options_of(wrong[i]);
        CHECK_FAILS(PF_ESHAPE, pf_kernel_open(&given, e, bad, w));
        pf_config_free(bad);
    }
    CHECK(!given);
    pf_tensor_release(&w), pf_tensor_release(&each);
    pf_kernel_release(&drawn);
    pf_config_free(options);
}

/* A layer takes a copy of the given one, also of a kernel that only moved its tilt. */
static void test_given_layer(pf_engine *e) {
    pf_projection_options draw = {
        .size = sizeof draw, .features = 6, .head_dim = D, .heads = H, .seed = 8};
    pf_tensor *w = NULL;
    pf_config *options = options_of("{'name': 'softmax_plus', 'tilt': -0.1}");
    pf_kernel *given = NULL, *moved = NULL;
    CHECK_OK(pf_projection_draw(&w, e, &draw));
    CHECK_OK(pf_kernel_open(&given, e, options, w));
    CHECK_OK(pf_kernel_tilted(&moved, e, given, -0.2));
    pf_kernel *const both[2] = {given, moved};
    for (int i = 0; i < 2; i++) {
        pf_config *handle = NULL;
        CHECK_OK(pf_kernel_config(&handle, both[i]));
        pf_module *m = attention_of(e, handle);
        pf_tensor *own = m ? pf_module_tensor(m, "projection") : NULL;
        size_t bytes = (size_t)(H * 6 * D) * sizeof(float);
        CHECK(own && pf_same_shape(own, w) && memcmp(pf_f32(own), pf_f32(w), bytes) == 0);
        CHECK(own && pf_f32(own) != pf_f32(w));
        pf_module_release(&m);
        pf_tensor *same = NULL;
        CHECK_OK(pf_kernel_projection(&same, NULL, e, both[i], D, H));
        CHECK(same && memcmp(pf_f32(same), pf_f32(w), bytes) == 0);
        pf_tensor_release(&same);
    }
    pf_kernel_release(&given), pf_kernel_release(&moved);
    pf_tensor_release(&w);
    pf_config_free(options);
}

/* ---- states without sizes ---- */

/* States that take their sizes from their first keys meet those that have them. */
static void test_unsized(pf_engine *e) {
    pf_kernel *relu = kernel_of(e, "{'name': 'relu'}"), *elu = kernel_of(e, "{'name': 'elu'}");
    pf_kernel *given = kernel_of(e, "{'name': 'given'}");
    pf_tensor *print = NULL;
    CHECK_OK(pf_tensor_full(&print, e, PF_F32, 1, (int64_t[]){1}, 7));
    pf_kernel *const kernels[] = {relu, NULL, given};
    for (int i = 0; i < PF_COUNT(kernels); i++) {
        pf_attention_state_options o = {
            .size = sizeof o, .kernel = kernels[i], .fingerprint = i == 2 ? print : NULL};
        pf_state *late = NULL, *other = NULL, *sized = NULL, *twin = NULL;
        CHECK_OK(pf_attention_state_open(&late, e, &o));
        CHECK_OK(pf_attention_state_open(&twin, e, &o));
        o.fingerprint = NULL, o.kernel = elu;
        CHECK_OK(pf_attention_state_open(&other, e, &o));
        o = (pf_attention_state_options){.size = sizeof o,
                                         .kernel = kernels[i],
                                         .fingerprint = i == 2 ? print : NULL,
                                         .batch = B,
                                         .heads = H,
                                         .head_dim = D,
                                         .value_dim = DV};
        CHECK_OK(pf_attention_state_open(&sized, e, &o));
        CHECK(move_both(e, sized, twin, 4));
        CHECK_OK(pf_state_merge(e, twin, late)); /* it has seen nothing */
        CHECK_FAILS(PF_EINVAL, pf_state_merge(e, other, sized));
        CHECK_FAILS(PF_EINVAL, pf_state_merge(e, sized, other));
        CHECK_OK(pf_state_merge(e, late, sized));
        CHECK(pf_state_position(late) == 4 && move_both(e, late, twin, 1));
        CHECK_OK(pf_state_merge(e, late, twin));
        pf_state_close(&late), pf_state_close(&other);
        pf_state_close(&sized), pf_state_close(&twin);
    }
    pf_tensor_release(&print);
    pf_kernel_release(&relu), pf_kernel_release(&elu), pf_kernel_release(&given);
}

/* ---- failing allocations ---- */

/* Opens, binds and builds; *opened: the host's kernel was. */
static int work(pf_engine *e, mine *m, const pf_config *softmax, const pf_config *layer,
                int *opened) {
    pf_kernel *own = NULL, *host = NULL, *given = NULL, *moved = NULL, *bound = NULL;
    pf_tensor *w = NULL;
    pf_module *module = NULL;
    pf_state *s = NULL;
    pf_items *items = NULL;
    pf_attention_state_options o = {
        .size = sizeof o, .batch = 1, .heads = H, .head_dim = D, .value_dim = DV};
    pf_items_options of_items = {.size = sizeof of_items, .dim = D};
    int status = open_mine(&host, e, "mine", m);
    *opened = status >= 0;
    if (status >= 0) status = pf_kernel_open(&own, e, softmax, NULL);
    if (status >= 0) status = pf_kernel_bind(&bound, e, own, D, H);
    pf_kernel_release(&bound);
    if (status >= 0) status = pf_kernel_projection(&w, NULL, e, own, D, H);
    if (status >= 0) status = pf_kernel_open(&given, e, softmax, w);
    if (status >= 0) status = pf_kernel_tilted(&moved, e, given, -0.1);
    if (status >= 0) status = pf_kernel_bind(&bound, e, moved, D, H);
    pf_kernel_release(&bound);
    if (status >= 0) status = pf_kernel_build(&bound, e, softmax, D, H, 1);
    if (status >= 0) status = pf_module_new(&module, e, "attention", layer, NULL, 0);
    if (status >= 0) status = pf_attention_state_open(&s, e, (o.kernel = own, &o));
    pf_state_close(&s);
    if (status >= 0) status = pf_attention_state_open(&s, e, (o.kernel = host, &o));
    if (status >= 0) status = pf_items_open(&items, e, (of_items.kernel = host, &of_items));
    pf_kernel_release(&own), pf_kernel_release(&host), pf_kernel_release(&given);
    pf_kernel_release(&moved), pf_kernel_release(&bound);
    pf_tensor_release(&w);
    pf_module_release(&module);
    pf_state_close(&s);
    pf_items_close(&items);
    return status;
}

static void test_poor(void) {
    pf_config *softmax =
        options_of("{'name': 'softmax_plus', 'features': 6, 'rows': 'hadamard', 'seed': 3}");
    pf_config *layer =
        options_of("{'dim': 8, 'heads': 2, 'causal': true, 'kernel': {'name': 'mine'}}");
    int failures = 0, status = PF_ENOMEM;
    for (long n = 1; n < 4000 && status < 0; n++) {
        host_memory host = {0};
        pf_options options = host_options(&host);
        pf_engine *e = NULL;
        mine m = {0};
        int opened = 0;
        options.threads = 1;
        CHECK_OK(pf_engine_open(&e, &options));
        if (n % 2) CHECK_OK(pf_tensor_full(&m.gain, e, PF_F32, 1, (int64_t[]){D}, 1));
        pf_heap_trim(e->heap);
        host.fail_at = host.calls + n, host.fail_on = 1;
        status = work(e, &m, softmax, layer, &opened);
        host.fail_at = 0;
        failures += status < 0;
        CHECK(status >= 0 || (status == PF_ENOMEM && pf_last_error()[0]));
        CHECK(m.released == opened);
        pf_tensor_release(&m.gain);
        pf_engine_close(&e);
        CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
    }
    CHECK(status >= 0 && failures > 20);
    pf_config_free(softmax), pf_config_free(layer);
}

/* Options without their size say nothing that could be trusted: refused by every call, where NULL
 * is all defaults. */
static void test_options_without_size(pf_engine *e) {
    const int64_t shape[] = {1, 1, 2, 4};
    pf_tensor *x, *out;
    pf_state *state;
    pf_items *items;
    pf_kernel *kernel;
    pf_config *heads;
    pf_attention_options attention = {.attention = "exact"};
    pf_attention_state_options states = {.batch = 1, .heads = 1, .head_dim = 4, .value_dim = 4};
    pf_items_options of_items = {.dim = 4};
    pf_weights_options weights = {.attention = "exact"};
    pf_survey_options surveys = {.causal = true};
    pf_host_map map = {0};
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 4, shape, 0.5));
    CHECK(pf_attention_call(&out, NULL, e, x, x, x, &attention) == PF_EINVAL && !out);
    CHECK(strstr(pf_last_error(), "attention: a struct's size is 0"));
    CHECK(pf_attention_state_open(&state, e, &states) == PF_EINVAL && !state);
    CHECK(pf_items_open(&items, e, &of_items) == PF_EINVAL && !items);
    CHECK(pf_attention_log_partition(&out, e, x, x, &weights) == PF_EINVAL && !out);
    CHECK(pf_attention_weights(&out, NULL, NULL, e, x, x, &weights) == PF_EINVAL && !out);
    CHECK_OK(pf_kernel_open(&kernel, e, NULL, NULL));
    CHECK(pf_kernel_survey(&heads, e, kernel, x, x, &surveys) == PF_EINVAL && !heads);
    pf_kernel_release(&kernel);
    CHECK(pf_kernel_open_host(&kernel, e, "sizeless", &map) == PF_EINVAL && !kernel);
    CHECK_OK(pf_attention_call(&out, NULL, e, x, x, x, NULL));
    pf_tensor_release(&out);
    CHECK_OK(pf_attention_state_open(&state, e, NULL));
    pf_state_close(&state);
    pf_tensor_release(&x);
}

int main(void) {
    pf_engine *e = engine_of(2, 7);
    test_names(e);
    test_two_engines(e);
    test_given(e);
    test_given_layer(e);
    test_unsized(e);
    test_poor();
    test_options_without_size(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
