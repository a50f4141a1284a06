/*
 * describe.c - what a kernel can be, as plain data (pf_describe): its options, and the feature
 * maps in the order of the ops' choices.
 */
#include "kernel.h"

static int describe_map(pf_config *row, const pf_map *map) {
    PF_TRY(pf_config_set_string(row, "name", map->name));
    PF_TRY(pf_config_set_string(row, "doc", map->doc));
    PF_TRY(pf_config_set_bool(row, "softmax", map->softmax));
    PF_TRY(pf_config_set_bool(row, "positive", map->positive));
    PF_TRY(pf_config_set_bool(row, "tilted", map->tilted));
    PF_TRY(pf_config_set_bool(row, "regular", map->regular));
    PF_TRY(pf_config_set_number(row, "eps", map->eps));
    return pf_config_set_number(row, "width", map->width);
}

int pf_kernels_describe(pf_config *to) {
    pf_config *kernel, *list, *row;
    PF_TRY(pf_describe_map(&kernel, to, "kernel"));
    PF_TRY(pf_describe_options(kernel, pf_kernel_option_table, pf_kernel_option_count));
    PF_TRY(pf_describe_list(&list, to, "maps"));
    for (int i = 0; pf_map_at(i); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(describe_map(row, pf_map_at(i)));
    }
    return PF_OK;
}
