/*
 * kernel.c - kernels as objects: opened from options, bound to the heads that they serve,
 * drawn and drawn again. What must hold: a draw is keyed by (seed, layer, head, epoch) alone,
 * so equal options give equal bits whoever asks; a projection that was given is never drawn.
 *
 * Who has what: an opened kernel (pf_kernel_open) has options, and a projection where one was
 * given. It keeps a bound one for every (head_dim, heads) that was asked for, with the projection
 * that was drawn then. A bound kernel that shares another's draws (a tilt) or map (the host's)
 * retains it as `source`. A layer's kernel (pf_kernel_build) is bound from the start, nobody
 * else's, and draws into the same buffers as training goes on.
 */
#include <string.h>

#include "kernel.h"
#include "projector.h"

/* ---- life ---- */

int pf_kernel_make(pf_kernel **kernel, pf_engine *e, const pf_config *options) {
    pf_kernel *k = pf_heap_zalloc(e->heap, sizeof *k);
    if (!k) return PF_ENOMEM;
    k->heap = pf_heap_retain(e->heap);
    atomic_init(&k->refs, 1);
    k->options = options ? pf_config_copy_in(e->heap, options) : pf_config_new_in(e->heap, PF_MAP);
    if (!k->options) {
        pf_kernel_release(&k);
        return pf_fail(PF_ENOMEM, "kernel: no memory for the options");
    }
    *kernel = k;
    return PF_OK;
}

pf_kernel *pf_kernel_retain(pf_kernel *kernel) {
    if (kernel) atomic_fetch_add(&kernel->refs, 1);
    return kernel;
}

bool pf_kernel_shared(const pf_kernel *kernel) { return kernel && atomic_load(&kernel->refs) > 1; }

/* Bound kernels go with the one that was opened, unless somebody still works with them. */
void pf_kernel_release(pf_kernel **kernel) {
    pf_kernel *k = kernel ? *kernel : NULL;
    if (kernel) *kernel = NULL;
    if (!k || atomic_fetch_sub(&k->refs, 1) != 1) return;
    pf_kernel_leave(k);
    for (int64_t i = 0; i < k->n_bound; i++) pf_kernel_release(&k->bound[i]);
    if (k->bound) pf_heap_free(k->heap, k->bound, (size_t)k->cap_bound * sizeof *k->bound);
    pf_tensor_release(&k->projection);
    pf_tensor_release(&k->factors);
    pf_tensor_release(&k->tilts);
    pf_config_free(k->options);
    if (k->drop) k->drop(k);
    pf_kernel_release(&k->source);
    pf_heap *heap = k->heap;
    pf_heap_free(heap, k, sizeof *k);
    pf_heap_release(heap);
}

/* ---- given projections ---- */

int pf_projection_check(const char *where, const pf_tensor *w, int64_t heads, int64_t d) {
    PF_TRY(pf_tensor_check(w, PF_F32, where, "projection"));
    bool fits = (w->rank == 2 || (w->rank == 3 && (heads == 0 || w->shape[0] == heads))) &&
                w->shape[w->rank - 1] == d && w->shape[w->rank - 2] >= 1;
    if (fits) return PF_OK;
    if (heads == 0) {
        return pf_fail(PF_ESHAPE,
                       "%s: projection is %s, must be (features, %lld) or (heads, "
                       "features, %lld)",
                       where, pf_shape_of(w), (long long)d, (long long)d);
    }
    return pf_fail(PF_ESHAPE,
                   "%s: projection is %s, must be (features, %lld) or (%lld, features, "
                   "%lld)",
                   where, pf_shape_of(w), (long long)d, (long long)heads, (long long)d);
}

/* The options and the projection say the same. */
static int check_given(const pf_config *options, const pf_tensor *w) {
    static const char *const names[2] = {"features", "head_dim"};
    PF_TRY(pf_tensor_check(w, PF_F32, "kernel", "projection"));
    if (w->rank != 2 && w->rank != 3) {
        return pf_fail(PF_ESHAPE,
                       "kernel: projection must be (features, head_dim) or (heads, "
                       "features, head_dim), got %s",
                       pf_shape_of(w));
    }
    for (int i = 0; i < 2; i++) {
        const pf_config *value = pf_config_get(options, names[i]);
        double said = value ? pf_config_number(value) : 0;
        int64_t has = w->shape[w->rank - 2 + i];
        if (said == 0 || said == (double)has) continue;
        return pf_fail(PF_ESHAPE, "kernel: %s is %g, the projection has %lld", names[i], said,
                       (long long)has);
    }
    return PF_OK;
}

/* A given projection is copied, and the options say what it is: files and the theory of its error
 * read them. */
static int take_given(pf_kernel *k, pf_engine *e, const pf_tensor *w) {
    PF_TRY(check_given(k->options, w));
    PF_TRY(pf_config_set_number(k->options, "features", (double)w->shape[w->rank - 2]));
    PF_TRY(pf_config_set_number(k->options, "head_dim", (double)w->shape[w->rank - 1]));
    PF_TRY(pf_config_set_bool(k->options, "project", true));
    PF_TRY(pf_config_set_bool(k->options, "per_head", w->rank == 3));
    PF_TRY(pf_config_set_string(k->options, "rows", "given"));
    return pf_tensor_detach(&k->projection, e, w);
}

/* ---- opening ---- */

enum { SOME_WIDTH = 64 }; /* for the checks of options that leave head_dim open */

bool pf_kernel_words_given(const pf_config *words) {
    const pf_config *name = pf_config_get(words, "name");
    const char *text = name ? pf_config_string(name) : NULL;
    return text && strcmp(text, pf_map_given.name) == 0;
}

/* Options of a map of ours, or of features that are given. They are resolved for some width where
 * head_dim is open, so that what is wrong with them is told here and not at the first use. */
static int open_named(pf_kernel *k, pf_engine *e, const pf_tensor *projection) {
    if (pf_kernel_words_given(k->options)) {
        k->spec = (pf_kernel_spec){.map = &pf_map_given, .numbers.scale = 1};
        return projection ? pf_fail(PF_EINVAL, "kernel: given features take no projection") : PF_OK;
    }
    if (projection) PF_TRY(take_given(k, e, projection));
    pf_kernel_spec spec;
    PF_TRY(pf_kernel_resolve(&k->spec, k->options, 0));
    if (k->spec.head_dim == 0) PF_TRY(pf_kernel_resolve(&spec, k->options, SOME_WIDTH));
    if (k->spec.rows != PF_ROWS_GIVEN || projection) return PF_OK;
    return pf_fail(PF_EINVAL, "kernel: rows = \"given\" needs the projection");
}

int pf_kernel_open(pf_kernel **kernel, pf_engine *engine, const pf_config *options,
                   pf_tensor *projection) {
    PF_OUT(kernel);
    PF_OPEN(engine);
    pf_kernel *open = NULL;
    PF_TRY(pf_kernel_named(&open, engine, options));
    if (open && projection) {
        return pf_fail(PF_EINVAL, "kernel: the options name one that is open, and it takes no "
                                  "other projection");
    }
    if (open) *kernel = pf_kernel_retain(open);
    if (open) return PF_OK;
    PF_TRY(pf_kernel_make(kernel, engine, options));
    int status = open_named(*kernel, engine, projection);
    if (status >= 0) status = pf_kernel_enlist(*kernel, engine);
    if (status < 0) pf_kernel_release(kernel);
    return status;
}

/* The same draws under another tilt: they are its source's. */
int pf_kernel_tilted(pf_kernel **fitted, pf_engine *engine, pf_kernel *kernel, double tilt) {
    PF_OUT(fitted);
    PF_OPEN(engine);
    PF_NEED(kernel);
    if (!kernel->spec.map->tilted) {
        return pf_fail(PF_EINVAL, "kernel: %s takes no tilt; softmax_plus does",
                       kernel->spec.map->name);
    }
    PF_TRY(pf_kernel_make(fitted, engine, kernel->options));
    int status = pf_config_set_number((*fitted)->options, "tilt", tilt);
    if (status >= 0) status = pf_kernel_resolve(&(*fitted)->spec, (*fitted)->options, 0);
    if (status >= 0) status = pf_kernel_enlist(*fitted, engine);
    if (status >= 0)
        (*fitted)->source = pf_kernel_retain(kernel);
    else
        pf_kernel_release(fitted);
    return status;
}

/* ---- drawing ---- */

static pf_drawing drawing_of(const pf_kernel_spec *spec, const pf_engine *e, int64_t heads,
                             uint64_t epoch) {
    return (pf_drawing){.features = spec->features,
                        .head_dim = spec->head_dim,
                        .heads = spec->per_head ? heads : 0,
                        .seed = spec->seed ? spec->seed : e->seed,
                        .layer = spec->layer,
                        .epoch = epoch,
                        .rows = spec->rows,
                        .norms = spec->norms};
}

/* Makes the projection, and its factors where its rows are a Hadamard product that is worth
 * them. */
static int draw(pf_kernel *k, pf_engine *e) {
    const pf_kernel_spec *spec = &k->spec;
    if (spec->features == 0) return PF_OK;
    pf_drawing drawing = drawing_of(spec, e, k->heads, 0);
    PF_TRY(pf_projection_make(&k->projection, e, &drawing));
    bool factored =
        spec->rows == PF_ROWS_HADAMARD && pf_projector_factored(spec->features, spec->head_dim);
    return factored ? pf_factors_make(&k->factors, e, &drawing) : PF_OK;
}

int pf_kernel_draw(pf_tensor **projection, pf_engine *e, const pf_kernel_spec *spec, int64_t heads,
                   uint64_t epoch) {
    pf_drawing drawing = drawing_of(spec, e, heads, epoch);
    if (*projection) return pf_projection_fill(*projection, e, &drawing);
    return pf_projection_make(projection, e, &drawing);
}

int pf_kernel_redraw(pf_kernel *kernel, pf_engine *e, uint64_t epoch) {
    pf_drawing drawing = drawing_of(&kernel->spec, e, kernel->heads, epoch);
    if (kernel->projection) PF_TRY(pf_projection_fill(kernel->projection, e, &drawing));
    return kernel->factors ? pf_factors_fill(kernel->factors, e, &drawing) : PF_OK;
}

/* ---- binding ---- */

int pf_kernel_spec_for(pf_kernel_spec *spec, const pf_kernel *kernel, int64_t head_dim,
                       const char *where) {
    *spec = kernel->spec;
    if (!pf_kernel_given(kernel) && !kernel->is_bound) {
        PF_TRY(pf_kernel_resolve(spec, kernel->options, head_dim));
    }
    if (!spec->map->softmax) {
        return pf_fail(PF_EINVAL,
                       "%s: '%s' features estimate no exp(x.y), so there is no error to "
                       "tell; softmax features do",
                       where, pf_kernel_name(kernel));
    }
    return spec->head_dim > 0 ? PF_OK : pf_fail(PF_EINVAL, "%s: the kernel has no head_dim", where);
}

/* A kernel that was opened with a head_dim serves no other. */
static int check_width(const pf_kernel *k, int64_t head_dim) {
    if (head_dim < 1) {
        return pf_fail(PF_EINVAL, "kernel: give head_dim, the width of the heads");
    }
    if (k->spec.head_dim == 0 || k->spec.head_dim == head_dim) return PF_OK;
    return pf_fail(PF_EINVAL, "kernel: head_dim is %lld, but the heads are %lld wide",
                   (long long)k->spec.head_dim, (long long)head_dim);
}

/* Another's projection and factors, which are its own too. */
static void share(pf_kernel *k, const pf_kernel *from) {
    if (from->projection) k->projection = pf_tensor_retain(from->projection);
    if (from->factors) k->factors = pf_tensor_retain(from->factors);
}

/* Where the projection of a bound kernel comes from: it needs none, it was given, it is another's
 * (of a tilted one: its source's for the same heads), or it is drawn. */
static int fill_bound(pf_kernel *b, pf_engine *e, pf_kernel *from, int64_t head_dim,
                      int64_t heads) {
    b->is_bound = true;
    b->heads = heads;
    b->spec = from->spec;
    b->spec.head_dim = head_dim;
    if (pf_kernel_given(from)) {
        b->source = from->host.map ? pf_kernel_retain(from) : NULL;
        return PF_OK;
    }
    PF_TRY(pf_kernel_resolve(&b->spec, from->options, head_dim));
    if (from->projection) {
        PF_TRY(pf_projection_check("kernel", from->projection, heads, head_dim));
        share(b, from);
        return PF_OK;
    }
    if (!from->source) return draw(b, e);
    pf_kernel *like = NULL;
    PF_TRY(pf_kernel_bind(&like, e, from->source, head_dim, heads));
    share(b, like);
    pf_kernel_release(&like);
    return PF_OK;
}

/* A host's kernel has nothing to draw, so nothing to keep; and kept, it would keep its source. */
static int list_bound(pf_kernel *k, pf_kernel *bound) {
    if (bound->source) return PF_OK;
    PF_TRY(
        pf_heap_grow(k->heap, (void **)&k->bound, &k->cap_bound, k->n_bound + 1, sizeof *k->bound));
    k->bound[k->n_bound++] = pf_kernel_retain(bound);
    return PF_OK;
}

int pf_kernel_bind(pf_kernel **bound, pf_engine *e, pf_kernel *kernel, int64_t head_dim,
                   int64_t heads) {
    *bound = NULL;
    PF_TRY(check_width(kernel, head_dim));
    if (kernel->is_bound) {
        if (kernel->projection)
            PF_TRY(pf_projection_check("kernel", kernel->projection, heads, head_dim));
        *bound = pf_kernel_retain(kernel);
        return PF_OK;
    }
    for (int64_t i = 0; i < kernel->n_bound; i++) {
        pf_kernel *known = kernel->bound[i];
        if (known->spec.head_dim != head_dim || known->heads != heads) continue;
        *bound = pf_kernel_retain(known);
        return PF_OK;
    }
    PF_TRY(pf_kernel_make(bound, e, kernel->options));
    int status = fill_bound(*bound, e, kernel, head_dim, heads);
    if (status >= 0) status = list_bound(kernel, *bound);
    if (status < 0) pf_kernel_release(bound);
    return status;
}

/* A layer's: drawn for its place in the model, or with a copy of the projection that `named` was
 * given. Of a host's kernel the map is all there is. */
static int build(pf_kernel *k, pf_engine *e, pf_kernel *named, int64_t head_dim, int64_t heads,
                 uint64_t layer) {
    if (named && pf_kernel_given(named)) return fill_bound(k, e, named, head_dim, heads);
    k->is_bound = true;
    k->heads = heads;
    PF_TRY(pf_kernel_resolve(&k->spec, k->options, head_dim));
    k->spec.layer = layer;
    PF_TRY(draw(k, e));
    while (named && !named->projection) named = named->source; /* of a tilted one: its source's */
    if (!named || k->spec.rows != PF_ROWS_GIVEN || e->loading) return PF_OK;
    PF_TRY(pf_projection_check("kernel", named->projection, heads, head_dim));
    return pf_tensor_copy(k->projection, named->projection);
}

int pf_kernel_build(pf_kernel **kernel, pf_engine *e, const pf_config *options, int64_t head_dim,
                    int64_t heads, uint64_t layer) {
    pf_kernel *named = NULL;
    *kernel = NULL;
    PF_TRY(pf_kernel_named(&named, e, options));
    int status = pf_kernel_make(kernel, e, named ? named->options : options);
    if (status >= 0) status = build(*kernel, e, named, head_dim, heads, layer);
    if (status < 0) pf_kernel_release(kernel);
    return status;
}

int pf_kernel_restore(pf_kernel **kernel, pf_engine *e, const pf_config *options,
                      pf_tensor *projection, int64_t head_dim, int64_t heads) {
    PF_TRY(pf_kernel_make(kernel, e, options));
    pf_kernel *k = *kernel;
    k->is_bound = true;
    k->heads = heads;
    int status = pf_kernel_resolve(&k->spec, k->options, head_dim);
    if (status >= 0 && projection) {
        status = pf_projection_check("kernel", projection, heads, head_dim);
        if (status >= 0) status = pf_tensor_detach(&k->projection, e, projection);
    } else if (status >= 0 && k->spec.map->softmax) {
        status = pf_fail(PF_EINVAL, "kernel: %s needs a projection", k->spec.map->name);
    }
    if (status < 0) pf_kernel_release(kernel);
    return status;
}
