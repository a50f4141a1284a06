/*
 * map_host.c - maps of the host's own: callbacks that make features of rows by ops, before the
 * operator sees them. To everything else such a kernel is one whose features are given.
 *
 * What a map learns with belongs to its kernel: leaves, that every layer which takes the kernel
 * counts among its own tensors.
 */
#include <string.h>

#include "kernel.h"

/* ---- opening ---- */

static int check_parameters(const pf_host_map *map) {
    bool good = map->n_parameters >= 0 && (map->n_parameters == 0 || map->parameters);
    for (int i = 0; good && i < map->n_parameters; i++) {
        good = map->parameters[i].name && map->parameters[i].tensor;
    }
    return good ? PF_OK : pf_fail(PF_EINVAL, "kernel: a parameter is a name and a tensor");
}

/* Frees what pf_kernel_open_host took, and tells the host that its map is not needed any more. */
static void drop_host(pf_kernel *k) {
    for (int i = 0; i < k->n_parameters; i++) {
        char *name = (char *)(uintptr_t)k->parameters[i].name;
        if (name) pf_heap_free(k->heap, name, strlen(name) + 1);
        pf_tensor_release(&k->parameters[i].tensor);
    }
    if (k->parameters) {
        pf_heap_free(k->heap, k->parameters, (size_t)k->n_parameters * sizeof *k->parameters);
    }
    if (k->host.release) k->host.release(k->host.context);
}

/* Names are copied, tensors retained and made leaves. */
static int take_parameters(pf_kernel *k, const pf_host_map *map) {
    PF_TRY(check_parameters(map));
    size_t bytes = (size_t)map->n_parameters * sizeof *k->parameters;
    if (map->n_parameters == 0) return PF_OK;
    k->parameters = pf_heap_zalloc(k->heap, bytes);
    if (!k->parameters) return PF_ENOMEM;
    k->n_parameters = map->n_parameters;
    for (int i = 0; i < map->n_parameters; i++) {
        const pf_named *from = &map->parameters[i];
        size_t length = strlen(from->name) + 1;
        char *name = pf_heap_alloc(k->heap, length);
        if (!name) return PF_ENOMEM;
        memcpy(name, from->name, length);
        k->parameters[i] = (pf_named){name, pf_tensor_retain(from->tensor)};
        PF_TRY(pf_tensor_require_grad(from->tensor, true));
    }
    return PF_OK;
}

/* The host's context is taken over last: a failure before leaves it with the host. */
static int open_host(pf_kernel *k, pf_engine *e, const char *name, const pf_host_map *map) {
    k->spec = (pf_kernel_spec){.map = &pf_map_given, .numbers.scale = 1};
    PF_TRY(pf_config_set_string(k->options, "name", name));
    k->drop = drop_host;
    PF_TRY(take_parameters(k, map));
    PF_TRY(pf_kernel_enlist(k, e));
    k->host = *map;
    k->host.parameters = NULL;
    return PF_OK;
}

int pf_kernel_open_host(pf_kernel **kernel, pf_engine *engine, const char *name,
                        const pf_host_map *map) {
    PF_OUT(kernel);
    PF_OPEN(engine);
    PF_NEED(name, map);
    pf_host_map own = {0};
    PF_TRY(pf_options_take(&own, sizeof own, map, "kernel"));
    if (!own.map) return pf_fail(PF_EINVAL, "kernel: a host's kernel needs a map");
    if (pf_map_find(name) || strcmp(name, pf_map_given.name) == 0) {
        return pf_fail(PF_EINVAL, "kernel: '%s' is the name of a feature map; choose another",
                       name);
    }
    PF_TRY(pf_kernel_make(kernel, engine, NULL));
    int status = open_host(*kernel, engine, name, &own);
    if (status < 0) pf_kernel_release(kernel);
    return status;
}

/* ---- rows ---- */

/* The kernel that was opened around the map; bound ones point to it. */
static const pf_kernel *owner_of(const pf_kernel *k) {
    while (!k->host.map && k->source) k = k->source;
    return k->host.map ? k : NULL;
}

static const pf_host_map *host_of(const pf_kernel *k) {
    const pf_kernel *owner = owner_of(k);
    return owner ? &owner->host : NULL;
}

bool pf_kernel_is_host(const pf_kernel *kernel) { return kernel && host_of(kernel); }

const pf_named *pf_kernel_parameters(const pf_kernel *kernel, int *n) {
    const pf_kernel *owner = owner_of(kernel);
    *n = owner ? owner->n_parameters : 0;
    return owner ? owner->parameters : NULL;
}

/* phi must be (B, H, L, r) of x (B, H, L, d). */
static int check_features(const pf_tensor *phi, const pf_tensor *x, const char *name) {
    if (!phi) return pf_fail(PF_EHOST, "kernel '%s': its map returned no tensor", name);
    PF_TRY(pf_tensor_check(phi, PF_F32, name, "features"));
    bool fits = phi->rank == 4;
    for (int i = 0; fits && i < 3; i++) fits = phi->shape[i] == x->shape[i];
    if (fits && phi->shape[3] >= 1) return PF_OK;
    return pf_fail(PF_ESHAPE,
                   "kernel '%s': its map made %s of %s; features are (batch, heads, "
                   "length, width), alike but for the width",
                   name, pf_shape_of(phi), pf_shape_of(x));
}

int pf_kernel_rows(pf_tensor **rows, pf_engine *e, const pf_kernel *kernel, pf_side side,
                   pf_tensor *x) {
    const pf_host_map *host = host_of(kernel);
    *rows = NULL;
    if (!host) {
        *rows = pf_tensor_retain(x);
        return PF_OK;
    }
    uint64_t before = pf_failures();
    int status = host->map(host->context, e, side, x, rows);
    if (status < 0) {
        pf_callback_failed(status, before, "kernel '%s': its map", pf_kernel_name(kernel));
    }
    if (status >= 0) status = check_features(*rows, x, pf_kernel_name(kernel));
    if (status < 0) pf_tensor_release(rows);
    return status;
}

/* A map that changes its width between two calls would be read past its end by loops that no op
 * checks. */
int pf_kernel_rows_wide(pf_tensor **rows, pf_engine *e, const pf_kernel *kernel, pf_side side,
                        pf_tensor *x, int64_t width) {
    PF_TRY(pf_kernel_rows(rows, e, kernel, side, x));
    int64_t r = (*rows)->shape[3];
    if (r == width || !pf_kernel_is_host(kernel)) return PF_OK;
    pf_tensor_release(rows);
    return pf_fail(PF_ESHAPE, "kernel '%s': its map made features of width %lld, and %lld before",
                   pf_kernel_name(kernel), (long long)r, (long long)width);
}
