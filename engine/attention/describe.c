/*
 * describe.c - the kinds of attention as plain data (pf_describe), in their order: what a user,
 * a command line or a benchmark has to know of one, so that none asks for it by its name.
 */
#include "attention.h"

/* Names of the inputs that it takes beside q, k and v. */
static int describe_takes(pf_config *row, const pf_attention_kind *kind) {
    pf_config *list;
    PF_TRY(pf_describe_list(&list, row, "takes"));
    for (int i = PF_IN_MASK; i < PF_REACH_INPUTS; i++) {
        if (!(kind->takes >> i & 1)) continue;
        PF_TRY(pf_config_push(list, pf_config_string_beside(list, pf_kind_input_name(i))));
    }
    return PF_OK;
}

static int describe_kind(pf_config *row, const pf_attention_kind *kind) {
    PF_TRY(pf_config_set_string(row, "name", kind->name));
    PF_TRY(pf_config_set_string(row, "doc", kind->doc));
    PF_TRY(pf_config_set_bool(row, "takes_kernel", kind->takes_kernel));
    PF_TRY(describe_takes(row, kind));
    PF_TRY(pf_config_set_bool(row, "edges", kind->edges));
    PF_TRY(pf_config_set_bool(row, "streams", kind->prefill != NULL));
    PF_TRY(pf_config_set_bool(row, "state_grows", kind->state && kind->state->grows));
    PF_TRY(pf_config_set_bool(row, "state_slides", kind->state && kind->state->slides));
    PF_TRY(pf_config_set_bool(row, "carries", kind->carries));
    PF_TRY(pf_config_set_bool(row, "trains_in_parts", kind->part != NULL));
    PF_TRY(pf_config_set_bool(row, "tells_weights", kind->sums != NULL));
    PF_TRY(pf_config_set_bool(row, "auto", kind->from_length != NULL));
    if (kind->rooms) PF_TRY(pf_config_set_string(row, "table", kind->rooms->table));
    int n;
    const pf_option_info *options = pf_kind_options(kind, &n);
    return pf_describe_options(row, options, n);
}

int pf_attention_describe(pf_config *to) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "attention"));
    for (int i = 0; pf_kind_at(i); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(describe_kind(row, pf_kind_at(i)));
    }
    return PF_OK;
}
