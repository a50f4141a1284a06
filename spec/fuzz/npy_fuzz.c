/* npy_fuzz.c - any bytes as a .npy and as a .npz file: an error, or tensors that are the same when
 * they are saved and loaded again. */
#include "fuzz_file.h"

#define AGAIN "memory:again"

const char *const fuzz_words[] = {
    "descr",  "fortran_order", "shape",       "True",  "False", "'<f4'",
    "'>i8'",  "'|b1'",         "'<f2'",       "()",    "(3,)",  "PK\3\4",
    "PK\1\2", "PK\5\6",        "\x93NUMPY\1", "a.npy", NULL};

/* A file of the engine's own as an input. */
static void give_file(const char *path, void (*give)(const uint8_t *data, size_t size)) {
    uint8_t bytes[FUZZ_MOST];
    size_t size = fuzz_bytes(path, bytes, sizeof bytes);
    if (size > 0) give(bytes, size);
}

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const types[] = {"u8", "i16", "i64", "f16", "f32", "f64"};
    pf_engine *e = fuzz_engine();
    pf_tensor *t = NULL;
    if (pf_tensor_full(&t, e, PF_F32, 2, (int64_t[]){2, 3}, 7) < 0) __builtin_trap();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (pf_npy_save(e, AGAIN, t, types[i]) >= 0) give_file(AGAIN, give);
    const pf_named list[] = {{"a", t}, {"b", t}};
    for (int n = 0; n <= 2; n++)
        for (int deflated = 0; deflated < 2; deflated++)
            if (pf_npz_save(e, AGAIN, list, n, NULL, deflated) >= 0) give_file(AGAIN, give);
    pf_tensor_release(&t);
}

static void one(pf_engine *e, const char *path) {
    pf_tensor *t = NULL, *same = NULL;
    if (pf_npy_load(&t, e, path) < 0) return;
    if (pf_npy_save(e, AGAIN, t, NULL) < 0 || pf_npy_load(&same, e, AGAIN) < 0) __builtin_trap();
    if (pf_tensor_numel(t) != pf_tensor_numel(same)) __builtin_trap();
    size_t bytes = (size_t)pf_tensor_numel(t) * pf_dtype_size(pf_tensor_dtype(t));
    if (bytes > 0 && memcmp(pf_tensor_data(t), pf_tensor_data(same), bytes) != 0) __builtin_trap();
    pf_tensor_release(&t);
    pf_tensor_release(&same);
    fuzz_good++;
}

/* Names that others give are taken as they are; those that would leave a folder are not written. */
static bool is_refused(int status) {
    return status == PF_EINVAL && strstr(pf_last_error(), "can't be a name");
}

static void several(pf_engine *e, const char *path) {
    pf_named *tensors = NULL, *same = NULL;
    int n = 0, again = 0;
    if (pf_npz_load(e, path, &tensors, &n) < 0) return;
    int status = pf_npz_save(e, AGAIN, tensors, n, NULL, true);
    if (status < 0 && !is_refused(status)) __builtin_trap();
    if (status < 0) {
        pf_named_free(tensors, n);
        return;
    }
    if (pf_npz_load(e, AGAIN, &same, &again) < 0 || again != n) __builtin_trap();
    pf_named_free(same, again);
    pf_named_free(tensors, n);
    fuzz_good++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine();
    const char *path = fuzz_path(data, size);
    one(e, path);
    several(e, path);
    return 0;
}
