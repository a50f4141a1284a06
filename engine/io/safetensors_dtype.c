/*
 * safetensors_dtype.c - dtypes as files have them: ours, and others, which bytes.c makes ours of.
 */
#include <string.h>

#include "safetensors.h"

/* Those that tensors don't have; the tensors' own are rows of dtype.c. */
static const struct {
    const char *name, *type; /* type: bytes.h's; NULL: known to be shown, and not loaded */
    size_t bytes;
} foreign[] = {
    {"F64", "f64", 8},    {"F16", "f16", 2}, {"BF16", "bf16", 2}, {"I64", "i64", 8},
    {"U64", "u64", 8},    {"U32", "u32", 4}, {"I16", "i16", 2},   {"U16", "u16", 2},
    {"I8", "i8", 1},      {"U8", "u8", 1},   {"BOOL", "u8", 1},   {"F8_E4M3", NULL, 1},
    {"F8_E5M2", NULL, 1}, {"C64", NULL, 8},
};

/* false: no dtype has this name in files. */
bool pf_st_dtype_find(const char *name, pf_st_dtype *type) {
    const pf_dtype_row *row;
    for (int i = 0; (row = pf_dtype_find((pf_dtype)i)) != NULL; i++) {
        *type = (pf_st_dtype){row->file_name, row->bytes, true, (pf_dtype)i, NULL};
        if (!strcmp(type->name, name)) return true;
    }
    for (int i = 0; i < PF_COUNT(foreign); i++) {
        if (strcmp(foreign[i].name, name) != 0) continue;
        const pf_byte_type *from = foreign[i].type ? pf_byte_type_find(foreign[i].type) : NULL;
        *type = (pf_st_dtype){foreign[i].name, foreign[i].bytes, from != NULL,
                              from ? from->as : PF_F32, from};
        return true;
    }
    return false;
}

int pf_st_dtype_loads_as(const pf_st_entry *entry, pf_dtype *dtype) {
    *dtype = entry->dtype.as;
    if (entry->dtype.loads) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "safetensors: '%s' has dtype %s, which can't be loaded; convert it "
                   "to F32 first",
                   entry->name, entry->dtype.name);
}
