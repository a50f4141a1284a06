/* groups_test.c - what a C host says and asks of training beside a rule: groups of parameters,
 * averages, schedules, and all or nothing where memory is short. */
#include "nn_support.h"
#include "scarce.h"

/* One step by a gradient of ones. */
static void step(pf_engine *e, pf_module *m, pf_optimizer *o, double lr) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
        if (!t->grad) {
            CHECK_OK(pf_tensor_make_lasting(&t->grad, e->heap, PF_F32, t->rank, t->shape));
        }
        CHECK_OK(pf_tensor_fill(t->grad, 1));
        t->grad_stale = false;
    }
    CHECK_OK(pf_optimizer_step(o, e, lr, 0, NULL));
}

static double number(pf_module *m, const char *name) {
    double value = NAN;
    CHECK_OK(pf_tensor_get(pf_module_tensor(m, name), 0, &value));
    return value;
}

/* An optimizer of a linear layer whose numbers are all 1. */
static pf_optimizer *of_ones(pf_engine *e, pf_module **m, const char *options) {
    pf_optimizer *o = NULL;
    pf_config *c = options_of(options);
    *m = layer_of(e, "linear", "{'from': 2, 'to': 1}");
    CHECK_OK(pf_tensor_fill(pf_module_tensor(*m, "weight"), 1));
    CHECK_OK(pf_tensor_fill(pf_module_tensor(*m, "bias"), 1));
    CHECK_OK(pf_optimizer_new(&o, e, *m, c));
    pf_config_free(c);
    return o;
}

static void test_groups(pf_engine *e) {
    pf_module *m;
    pf_optimizer *o = of_ones(e, &m,
                              "{'type': 'sgd', 'momentum': 0, 'groups': [{'match': 'weight', "
                              "'lr_scale': 0.5, 'decay': 0.4}]}");
    step(e, m, o, 0.1);
    CHECK(fabs(number(m, "weight") - (1 - 0.05 * 0.4 - 0.05)) < 1e-6);
    CHECK(fabs(number(m, "bias") - 0.9) < 1e-6);
    pf_optimizer_close(&o);
    static const char *const wrong[][2] = {
        {"{'groups': [{'match': 'weigth'}]}", "groups[0]: 'match' = 'weigth' fits no parameter"},
        {"{'groups': [{'lr_scale': 1}]}", "groups[0]: option 'match' is required"},
        {"{'groups': [{'match': 'bias', 'betas': 1}]}", "unknown option 'betas'"},
        {"{'groups': {'match': 'bias'}}", "'groups' must be a list of maps"},
        {"{'ema': 1}", "'ema' must be a number from 0"},
    };
    for (int i = 0; i < PF_COUNT(wrong); i++) {
        pf_config *c = options_of(wrong[i][0]);
        CHECK_FAILS(PF_EINVAL, pf_optimizer_new(&o, e, m, c));
        CHECK(!o && strstr(pf_last_error(), wrong[i][1]));
        pf_config_free(c);
    }
    pf_module_release(&m);
}

static void test_average(pf_engine *e) {
    pf_module *m;
    pf_optimizer *o = of_ones(e, &m, "{'type': 'sgd', 'momentum': 0, 'ema': 0.1}");
    pf_named *list;
    int n;
    CHECK(pf_optimizer_has_average(o) && !pf_optimizer_has_average(NULL));
    step(e, m, o, 1); /* 0, and the average 1 + (1 - 0.1) (0 - 1) */
    CHECK_OK(pf_optimizer_use_average(o, true));
    CHECK(fabs(number(m, "weight") - 0.1) < 1e-6 && fabs(number(m, "bias") - 0.1) < 1e-6);
    CHECK_FAILS(PF_ESTATE, pf_optimizer_step(o, e, 1, 0, NULL));
    CHECK_FAILS(PF_ESTATE, pf_optimizer_tensors(o, &list, &n));
    CHECK_OK(pf_optimizer_use_average(o, false));
    CHECK(number(m, "weight") == 0 && number(m, "bias") == 0);
    CHECK_OK(pf_optimizer_use_average(o, true));
    pf_optimizer_close(&o);
    CHECK(number(m, "weight") == 0);
    pf_module_release(&m);
    o = of_ones(e, &m, "{}");
    CHECK(!pf_optimizer_has_average(o));
    CHECK_FAILS(PF_ESTATE, pf_optimizer_use_average(o, true));
    pf_optimizer_close(&o);
    pf_module_release(&m);
}

static void test_schedules(void) {
    static const struct {
        const char *options;
        uint64_t step;
        double rate;
    } good[] = {
        {"{'type': 'cosine', 'peak': 1, 'floor': 0.1, 'warmup': 10, 'steps': 100}", 55, 0.55},
        {"{'type': 'linear', 'peak': 2, 'steps': 10}", 5, 1},
        {"{'type': 'constant', 'peak': 3, 'warmup': 10}", 5, 1.5},
        {"{'type': 'step', 'peak': 1, 'every': 10, 'factor': 0.5}", 10, 1},
        {"{'type': 'step', 'peak': 1, 'every': 10, 'factor': 0.5}", 11, 0.5},
        {"{'type': 'wsd', 'peak': 1, 'steps': 100}", 80, 1},
        {"{'type': 'wsd', 'peak': 1, 'steps': 100}", 85, 0.5},
    };
    static const char *const bad[][2] = {
        {"{'type': 'cosin'}", "there is no 'cosin' (did you mean 'cosine'?)"},
        {"{'peak': 1}", "there is no '?'"},
        {"{'type': 'linear', 'peak': 1}", "schedule.linear: option 'steps' is required"},
        {"{'type': 'constant', 'peak': 1, 'floor': 0}", "unknown option 'floor'"},
    };
    double rate;
    for (int i = 0; i < PF_COUNT(good); i++) {
        pf_config *c = options_of(good[i].options);
        CHECK_OK(pf_schedule_rate(&rate, c, good[i].step));
        CHECK(fabs(rate - good[i].rate) < 1e-12);
        pf_config_free(c);
    }
    for (int i = 0; i < PF_COUNT(bad); i++) {
        pf_config *c = options_of(bad[i][0]);
        CHECK_FAILS(PF_EINVAL, pf_schedule_rate(&rate, c, 1));
        CHECK(strstr(pf_last_error(), bad[i][1]));
        pf_config_free(c);
    }
}

/* Making and stepping an optimizer with all that it can keep: all or nothing, nothing lost. */
static void test_memory(void) {
    static const char text[] = "{'type': 'muon', 'ema': 0.9, 'groups': [{'match': 'bias'}]}";
    scarce s = {0};
    pf_engine *e = scarce_engine(&s);
    pf_module *m = layer_of(e, "linear", "{'from': 8, 'to': 4}");
    pf_config *c = options_of(text);
    CHECK(pf_module_tensor_count(m) == 2); /* the list of names is made once */
    int64_t failed = 0, before = s.live;
    for (int64_t n = 0; n < 1000; n++) {
        pf_optimizer *o = NULL;
        scarce_begins(&s, n);
        int status = pf_optimizer_new(&o, e, m, c);
        scarce_ends(&s);
        if (status >= 0) {
            pf_optimizer_close(&o);
            break;
        }
        CHECK(status == PF_ENOMEM && !o && s.live == before);
        failed++;
    }
    CHECK(failed > 8);
    pf_optimizer *o = NULL;
    CHECK_OK(pf_optimizer_new(&o, e, m, c));
    step(e, m, o, 0.1);
    for (int64_t n = 0; n < 100; n++) {
        double held = number(m, "weight");
        for (int i = 0; i < 2; i++) {
            pf_tensor *t;
            CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
            t->grad_stale = false;
        }
        scarce_begins(&s, n);
        int status = pf_optimizer_step(o, e, 0.1, 0, NULL);
        scarce_ends(&s);
        if (status >= 0) break;
        CHECK(status == PF_ENOMEM && number(m, "weight") == held && pf_optimizer_steps(o) == 1);
    }
    CHECK(pf_optimizer_steps(o) == 2);
    pf_config_free(c);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_engine_close(&e);
    CHECK(s.live == 0);
}

int main(void) {
    pf_engine *e = engine_of(1, 11);
    test_memory();
    test_groups(e);
    test_average(e);
    test_schedules();
    pf_engine_close(&e);
    return CHECK_REPORT();
}
