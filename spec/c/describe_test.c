/*
 * describe_test.c - pf_describe: every table is in the tree, in its order, and each row says what
 * it is; only the ops need an engine.
 */
#include "check.h"
#include "optim.h"

static const char *text_of(const pf_config *map, const char *key) {
    const char *text = pf_config_string(pf_config_get(map, key));
    return text ? text : "";
}

static const pf_config *row_named(const pf_config *list, const char *key, const char *name) {
    for (int i = 0; i < pf_config_size(list); i++) {
        if (strcmp(text_of(pf_config_at(list, i), key), name) == 0) return pf_config_at(list, i);
    }
    return NULL;
}

/* name, kind and doc of every option; how many. */
static int check_options(const pf_config *owner) {
    const pf_config *options = pf_config_get(owner, "options");
    for (int i = 0; i < pf_config_size(options); i++) {
        const pf_config *o = pf_config_at(options, i);
        CHECK(*text_of(o, "name") && *text_of(o, "kind") && *text_of(o, "doc"));
        CHECK(pf_config_kind_of(pf_config_get(o, "default")) == PF_STRING);
        CHECK(pf_config_kind_of(pf_config_get(o, "required")) == PF_BOOL);
    }
    return pf_config_size(options);
}

/* A list whose rows have a name and a doc, and options where they have any; the options' number. */
static int check_list(const pf_config *tree, const char *key, const char *name) {
    const pf_config *list = pf_config_get(tree, key);
    int options = 0;
    CHECK(pf_config_kind_of(list) == PF_LIST && pf_config_size(list) > 0);
    for (int i = 0; i < pf_config_size(list); i++) {
        const pf_config *row = pf_config_at(list, i);
        CHECK(*text_of(row, name) && *text_of(row, "doc"));
        options += check_options(row);
    }
    return options;
}

static void check_ops(const pf_config *tree, pf_engine *e) {
    const pf_config *ops = pf_config_get(tree, "ops");
    pf_op_info info = {.size = sizeof info};
    CHECK(pf_config_size(ops) == pf_op_count(e));
    for (int i = 0; i < pf_op_count(e); i++) {
        const pf_config *op = pf_config_at(ops, i), *attrs = pf_config_get(op, "attrs");
        CHECK_OK(pf_op_at(e, i, &info));
        CHECK(strcmp(text_of(op, "name"), info.name) == 0 && *text_of(op, "doc"));
        CHECK(pf_config_number(pf_config_get(op, "max_inputs")) == info.max_inputs);
        CHECK(pf_config_size(attrs) == info.n_attrs);
        for (int k = 0; k < info.n_attrs; k++) {
            const pf_config *attr = pf_config_at(attrs, k);
            CHECK(strcmp(text_of(attr, "name"), info.attrs[k].name) == 0);
            CHECK(*text_of(attr, "kind") && *text_of(attr, "doc"));
            CHECK(pf_config_number(pf_config_get(attr, "default")) == info.attrs[k].def);
        }
    }
}

/* Rows as they are known to be. */
static void check_some(const pf_config *tree) {
    const pf_config *norm = row_named(pf_config_get(tree, "layers"), "type", "layernorm");
    const pf_config *eps = row_named(pf_config_get(norm, "options"), "name", "eps");
    CHECK(strcmp(text_of(eps, "kind"), "number") == 0 && atof(text_of(eps, "default")) > 0);
    const pf_config *kernel = pf_config_get(pf_config_get(tree, "kernel"), "options");
    const pf_config *rows = row_named(kernel, "name", "rows");
    CHECK(strcmp(text_of(rows, "default"), "orthogonal") == 0);
    CHECK(strncmp(text_of(rows, "choices"), "orthogonal|", 11) == 0);
    CHECK(strcmp(text_of(row_named(kernel, "name", "per_head"), "default"), "true") == 0);
    const pf_config *trig = row_named(pf_config_get(tree, "maps"), "name", "softmax_trig");
    CHECK(pf_config_number(pf_config_get(trig, "softmax")) == 1);
    CHECK(pf_config_number(pf_config_get(trig, "positive")) == 0);
    const pf_config *exact = row_named(pf_config_get(tree, "attention"), "name", "exact");
    CHECK(pf_config_number(pf_config_get(exact, "takes_kernel")) == 0);
    CHECK(pf_config_number(pf_config_get(exact, "streams")) == 1);
    CHECK(pf_config_number(pf_config_get(exact, "state_grows")) == 1);
    CHECK(pf_config_number(pf_config_get(exact, "trains_in_parts")) == 0);
}

static void check_tree(const pf_config *tree) {
    CHECK(check_list(tree, "layers", "type") > 60);
    CHECK(check_options(pf_config_get(tree, "kernel")) > 10);
    CHECK(check_list(tree, "maps", "name") == 0);
    CHECK(check_list(tree, "attention", "name") > 0);
    CHECK(check_list(tree, "optimizers", "name") > 0);
    CHECK(pf_layer_find(text_of(pf_config_at(pf_config_get(tree, "layers"), 0), "type")));
    check_some(tree);
}

int main(void) {
    pf_engine *e = NULL;
    pf_config *tree = NULL;
    CHECK_OK(pf_describe(&tree, NULL));
    CHECK(!pf_config_get(tree, "ops"));
    check_tree(tree);
    pf_config_free(tree);
    CHECK_OK(pf_engine_open(&e, NULL));
    CHECK_OK(pf_describe(&tree, e));
    check_ops(tree, e);
    check_tree(tree);
    pf_engine_close(&e);
    pf_config_free(tree);
    return CHECK_REPORT();
}
