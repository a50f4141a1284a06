/*
 * describe.c - an engine's op table as plain data (pf_describe), in the order of the indices that
 * pf_op_apply takes.
 */
#include "op.h"

/* default: what pf_attr_info says, a number for every kind. */
static int describe_attr(pf_config *row, const pf_attr_info *attr) {
    /* In the order of pf_attr_kind. */
    static const char *const kinds[] = {"int",  "number", "bool",   "dim",    "dims",
                                        "ints", "index",  "choice", "new_dim"};
    PF_TRY(pf_config_set_string(row, "name", attr->name));
    PF_TRY(pf_config_set_string(row, "kind", kinds[attr->kind]));
    PF_TRY(pf_config_set_number(row, "default", attr->def));
    PF_TRY(pf_config_set_bool(row, "required", attr->required));
    PF_TRY(pf_describe_text(row, "choices", attr->choices));
    return pf_describe_text(row, "doc", attr->doc);
}

static int describe_op(pf_config *to, const pf_op_info *op) {
    pf_config *attrs, *row;
    PF_TRY(pf_config_set_string(to, "name", op->name));
    PF_TRY(pf_config_set_string(to, "args", op->args));
    PF_TRY(pf_config_set_string(to, "results", op->results));
    PF_TRY(pf_config_set_string(to, "doc", op->doc));
    PF_TRY(pf_config_set_number(to, "min_inputs", op->min_inputs));
    PF_TRY(pf_config_set_number(to, "max_inputs", op->max_inputs));
    PF_TRY(pf_config_set_number(to, "outputs", op->outputs));
    PF_TRY(pf_config_set_bool(to, "differentiable", op->differentiable));
    PF_TRY(pf_describe_text(to, "in_place", op->in_place));
    PF_TRY(pf_config_set_number(to, "place_inputs", op->place_inputs));
    PF_TRY(pf_config_set_number(to, "place_outputs", op->place_outputs));
    PF_TRY(pf_describe_list(&attrs, to, "attrs"));
    for (int k = 0; k < op->n_attrs; k++) {
        PF_TRY(pf_describe_map(&row, attrs, NULL));
        PF_TRY(describe_attr(row, &op->attrs[k]));
    }
    return PF_OK;
}

int pf_ops_describe(pf_config *to, const pf_engine *engine) {
    pf_config *list, *row;
    pf_op_info op = {.size = sizeof op};
    PF_TRY(pf_describe_list(&list, to, "ops"));
    for (int i = 0; i < pf_op_count(engine); i++) {
        PF_TRY(pf_op_at(engine, i, &op));
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(describe_op(row, &op));
    }
    return PF_OK;
}
