/*
 * layer_tasks.c - several tasks on one trunk: every head is a layer that reads the states which the
 * trunk makes once. The first head's output is the layer's own, so that it is a layer like any
 * other, streams included; pf_module_outputs gives them all.
 *
 * A task named by the option `own` has no layer: it is the trunk's own head, a language model's.
 */
#include <string.h>

#include "module.h"

static const pf_option_info tasks_options[] = {
    {.name = "names",
     .kind = PF_OPT_TEXTS,
     .required = true,
     .doc = "of the tasks, in the order of their heads, which stand behind the trunk"},
    {.name = "own",
     .kind = PF_OPT_STRING,
     .doc = "the name of a task more, the first: what the trunk's own head gives"},
};

enum { TRUNK, HEADS }; /* children */

static const char *own_of(const pf_module *m) {
    const char *own = pf_option_text(m, "own");
    return own && *own ? own : NULL;
}

static const char *name_of(const pf_module *m, int i) {
    const char *own = own_of(m);
    if (own && i == 0) return own;
    return pf_config_text_at(m->options, "names", own ? i - 1 : i);
}

static int count(const pf_module *m) {
    return pf_config_texts(m->options, "names") + (own_of(m) ? 1 : 0);
}

static int tasks_build(pf_module *m, pf_engine *e) {
    int names = pf_config_texts(m->options, "names"), n = count(m);
    const pf_layer *trunk = m->child[TRUNK].module->type;
    (void)e;
    if (m->n_given - HEADS != names) {
        return pf_fail(PF_EINVAL, "tasks: %d names for %d heads behind the trunk", names,
                       m->n_given - HEADS);
    }
    if (own_of(m) && !trunk->head) {
        return pf_fail(PF_EINVAL,
                       "tasks: own is '%s', but the trunk, a '%s', has no head of its own",
                       own_of(m), trunk->name);
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) {
            if (strcmp(name_of(m, i), name_of(m, k)) != 0) continue;
            return pf_fail(PF_EINVAL, "tasks: there are two called '%s'", name_of(m, i));
        }
    }
    return PF_OK;
}

/* Task i of the states h. */
static int run_task(pf_module *m, pf_engine *e, const pf_run *run, int i, pf_tensor *h,
                    pf_tensor **y) {
    bool own = own_of(m) != NULL;
    if (own && i == 0) return pf_run_head(m, TRUNK, e, run, h, y);
    return pf_run_child(m, HEADS + (own ? i - 1 : i), e, run, h, y);
}

static int tasks_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *h = NULL;
    PF_TRY(pf_run_hidden(m, TRUNK, e, run, x, &h));
    if (run->hidden) {
        *y = h;
        return PF_OK;
    }
    int status = run_task(m, e, run, 0, h, y);
    pf_tensor_release(&h);
    return status;
}

static int tasks_outputs(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    pf_tensor *h = NULL;
    int status = pf_run_hidden(m, TRUNK, e, run, x, &h);
    for (int i = 0; i < count(m) && status >= 0; i++) status = run_task(m, e, run, i, h, &y[i]);
    pf_tensor_release(&h);
    return status;
}

/* A stream runs the first task alone: the others need not be able to. */
static int tasks_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    PF_TRY(pf_state_new(state, e, batch, m->n_child));
    int last = own_of(m) ? TRUNK : HEADS;
    for (int i = 0; i <= last; i++) {
        int status = pf_state_of(m->child[i].module, e, batch, &(*state)->child[i]);
        if (status >= 0) continue;
        pf_state_close(state);
        return status;
    }
    return PF_OK;
}

static int tasks_begin(pf_module *m, pf_engine *e, const pf_run *run) {
    PF_TRY(pf_begin_child(m, TRUNK, e, run));
    return own_of(m) ? PF_OK : pf_begin_child(m, HEADS, e, run);
}

static int64_t tasks_width(const pf_module *m, bool hidden) {
    const pf_module *trunk = m->child[TRUNK].module;
    if (hidden) return pf_module_hidden_width(trunk);
    return pf_module_width(own_of(m) ? trunk : m->child[HEADS].module);
}

const pf_layer pf_layer_tasks = {
    .name = "tasks",
    .doc =
        "Several tasks on one trunk, its first child: every other child is a head that reads what "
        "the trunk makes, (B, L, D). Its own output is the first task's; pf_module_outputs, in "
        "Lua model:outputs(x), gives all by their names. In Lua trunk = a layer, heads = {NAME = "
        "layer}.",
    .options = tasks_options,
    .n_options = PF_COUNT(tasks_options),
    .min_children = 1,
    .max_children = -1,
    .build = tasks_build,
    .width_of = tasks_width,
    .run = tasks_run,
    .outputs = tasks_outputs,
    .output_count = count,
    .output_name = name_of,
    .state = tasks_state,
    .rows = PF_ROWS_TOGETHER,
    .begin = tasks_begin,
};
