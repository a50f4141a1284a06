/*
 * unload_test.c - a host that loads the libraries at run time, finds functions by name, and lets go
 * of the libraries while an engine is open and its threads sleep in it. Loading changes nothing of
 * floating point. In LIVING_IN_A_HOST.md: [unload.1], [unload.2], [float.4], [versions.1].
 */
#include <dlfcn.h>
#include <fenv.h>
#include <unistd.h>

#include "check.h"
#include "performer.h"

/* The function `name` of `library`, as a pointer to it. */
#define FIND(library, name) find(library, #name, &name##_, sizeof name##_)
#define POINTER(name)       __typeof__(&name) name##_

static void find(void *library, const char *name, void *place, size_t bytes) {
    void *symbol = dlsym(library, name);
    CHECK(symbol != NULL && bytes == sizeof symbol);
    memcpy(place, &symbol, sizeof symbol);
}

static volatile float tiny = 1e-39f;

/* Does a small number stay one, and is a third what it is? */
static bool is_plain(void) { return tiny * 1.0f != 0 && fegetround() == FE_TONEAREST; }

/* What stays open, where a leak checker sees it. */
static struct {
    pf_engine *engine;
    pf_tensor *x, *y;
} kept[4];

static void use(void *library, int turn) {
    POINTER(pf_engine_open_abi);
    POINTER(pf_engine_close);
    POINTER(pf_tensor_rand);
    POINTER(pf_tensor_release);
    POINTER(pf_op_find);
    POINTER(pf_op_apply);
    POINTER(pf_abi_version);
    FIND(library, pf_engine_open_abi), FIND(library, pf_engine_close);
    FIND(library, pf_tensor_rand), FIND(library, pf_tensor_release);
    FIND(library, pf_op_find), FIND(library, pf_op_apply), FIND(library, pf_abi_version);
    const int64_t shape[] = {400, 400};
    pf_options options = pf_options_default();
    pf_engine *e = NULL;
    pf_tensor *x = NULL, *y = NULL;
    options.threads = 4;
    CHECK(pf_abi_version_() == PF_ABI_VERSION);
    CHECK(pf_engine_open_abi_(&e, &options, PF_ABI_VERSION + 1) == PF_EINVAL && !e);
    CHECK(pf_engine_open_abi_(&e, &options, PF_ABI_VERSION) == PF_OK);
    CHECK(pf_tensor_rand_(&x, e, 2, shape, true) == PF_OK);
    CHECK(pf_op_apply_(e, pf_op_find_(e, "matmul"), (pf_tensor *const[]){x, x}, 2, NULL, &y) ==
          PF_OK);
    if (turn < 2) pf_tensor_release_(&x), pf_tensor_release_(&y), pf_engine_close_(&e);
    kept[turn].engine = e, kept[turn].x = x, kept[turn].y = y;
}

int main(void) {
    static const char *const names[] = {PF_LIB "libperformer.so", PF_LIB "libperformer_lua.so"};
    for (int turn = 0; turn < 4; turn++) {
        void *library = dlopen(names[turn % 2], RTLD_NOW | RTLD_LOCAL);
        if (!library) fprintf(stderr, "  %s\n", dlerror());
        CHECK(library && is_plain());
        if (!library) continue;
        use(library, turn);
        CHECK(dlclose(library) == 0);
        usleep(20000); /* threads wake up, or would have */
        CHECK(is_plain());
    }
    return CHECK_REPORT();
}
