/*
 * kernel_attrs.c - see kernel_attrs.h: the one check of what an op was given as a kernel, and
 * the one place where attributes and inputs become an encoding.
 *
 * Shapes are checked by the op's shape rule, numbers when the encoding is made: they may be read
 * only then.
 */
#include "kernel_attrs.h"

/* Of a host's map the operator sees features: identity stands where a map must. */
void pf_kernel_to_attrs(const pf_kernel *kernel, pf_attr *attrs) {
    const pf_kernel_spec *spec = &kernel->spec;
    const pf_map *map = pf_kernel_given(kernel) ? &pf_map_identity : spec->map;
    attrs[PF_KERNEL_MAP].i = 0;
    while (pf_map_at((int)attrs[PF_KERNEL_MAP].i) != map) attrs[PF_KERNEL_MAP].i++;
#define PF_NUMBER(name, value, least, most, text) attrs[PF_KERNEL_AT_##name].f = spec->numbers.name;
#include "numbers.def"
#undef PF_NUMBER
}

static pf_numbers numbers_of(const pf_attr *attrs) {
    return (pf_numbers){
#define PF_NUMBER(name, value, least, most, text) .name = attrs[PF_KERNEL_AT_##name].f,
#include "numbers.def"
#undef PF_NUMBER
    };
}

void pf_kernel_to_inputs(const pf_kernel *kernel, pf_tensor **in) {
    in[PF_KERNEL_PROJECTION] = kernel->projection;
    in[PF_KERNEL_TILTS] = kernel->tilts;
    in[PF_KERNEL_FACTORS] = kernel->factors;
}

/* ---- the check ---- */

static const pf_map *map_of(const pf_call *c, int first_attr) {
    return pf_map_at((int)c->attr[first_attr + PF_KERNEL_MAP].i);
}

/* Softmax maps are nothing without one, the others go either way. */
static int check_projection(const pf_call *c, const pf_map *map, const pf_tensor *w, int64_t heads,
                            int64_t d) {
    if (w) return pf_projection_check(c->op->name, w, heads, d);
    if (!map->softmax) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: the map '%s' needs a projection (features, head_dim); draw one "
                   "with a kernel",
                   c->op->name, map->name);
}

/* The attribute `tilt` and the input `tilts` (heads), for maps that take them. */
static int check_tilt(const pf_call *c, const pf_map *map, double tilt, const pf_tensor *tilts,
                      int64_t heads) {
    if (!(tilt < 0.25)) {
        return pf_fail(PF_EINVAL, "%s: tilt must be below 1/4, got %g", c->op->name, tilt);
    }
    if (!tilts && tilt == 0) return PF_OK;
    if (!map->tilted) {
        return pf_fail(PF_EINVAL, "%s: the map '%s' takes no tilt; softmax_plus does", c->op->name,
                       map->name);
    }
    if (!tilts) return PF_OK;
    PF_TRY(pf_tensor_check(tilts, PF_F32, c->op->name, "tilts"));
    if (tilts->rank == 1 && tilts->shape[0] == heads) return PF_OK;
    return pf_shape_fail(c, "tilts must be (heads) = [%lld]", (long long)heads);
}

/* factors (blocks, rounds + 1, d), or such a one a head, beside the projection that they give. */
static int check_factors(const pf_call *c, const pf_tensor *t, const pf_tensor *w, int64_t heads,
                         int64_t m, int64_t d) {
    if (!t) return PF_OK;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "factors"));
    int64_t want[4] = {heads, pf_hadamard_blocks(m, d), pf_hadamard_rounds(d) + 1, d};
    int shared = t->rank == 3;
    bool fits = w && (shared || t->rank == 4);
    for (int i = shared; fits && i < 4; i++) fits = t->shape[i - shared] == want[i];
    if (fits) return PF_OK;
    return pf_shape_fail(c, "factors must be %s, or such a one a head, beside the projection",
                         pf_shape_text(3, want + 1));
}

int pf_call_kernel_check(const pf_call *c, int first_attr, int first_in, int64_t heads, int64_t d,
                         int64_t *r) {
    const pf_map *map = map_of(c, first_attr);
    pf_tensor *const *in = c->in + first_in;
    const pf_tensor *w = in[PF_KERNEL_PROJECTION];
    PF_TRY(check_projection(c, map, w, heads, d));
    int64_t m = w ? w->shape[w->rank - 2] : d;
    PF_TRY(
        check_tilt(c, map, c->attr[first_attr + PF_KERNEL_AT_tilt].f, in[PF_KERNEL_TILTS], heads));
    PF_TRY(check_factors(c, in[PF_KERNEL_FACTORS], w, heads, m, d));
    *r = m * map->width;
    return PF_OK;
}

/* ---- the encoding ---- */

/* Without one u is x itself, and m the width of the rows. */
static int take_projection(pf_encoding *n, pf_call *c, const pf_tensor *w) {
    pf_tensor *flat;
    n->m = n->d;
    if (!w) return PF_OK;
    PF_TRY(pf_call_compact(c, w, &flat));
    n->projected = true;
    n->m = w->shape[w->rank - 2];
    n->w = pf_f32(flat);
    n->w_head = w->rank == 3 ? n->m * n->d : 0;
    return PF_OK;
}

static int take_tilts(pf_encoding *n, pf_call *c, const pf_tensor *tilts, int64_t heads) {
    pf_tensor *flat;
    if (!tilts) return PF_OK;
    PF_TRY(pf_call_compact(c, tilts, &flat));
    n->tilts = pf_f32(flat);
    for (int64_t h = 0; h < heads; h++) {
        if (n->tilts[h] < 0.25f) continue; /* a NaN fails too */
        return pf_fail(PF_EINVAL, "%s: tilts must be below 1/4, one head has %g", c->op->name,
                       (double)n->tilts[h]);
    }
    return PF_OK;
}

/* Shared by all heads, or so many of them a head. */
static int take_factors(pf_encoding *n, pf_call *c, const pf_tensor *factors, int64_t heads) {
    pf_tensor *flat;
    if (!factors || !n->projected) return PF_OK;
    PF_TRY(pf_call_compact(c, factors, &flat));
    n->factors = pf_f32(flat);
    n->factors_head = factors->rank == 4 && heads > 0 ? pf_tensor_numel(factors) / heads : 0;
    return PF_OK;
}

int pf_call_encoding(pf_encoding *n, pf_call *c, int first_attr, int first_in, int64_t heads,
                     int64_t d) {
    pf_tensor *const *in = c->in + first_in;
    *n = (pf_encoding){.kern = c->engine->kern,
                       .map = map_of(c, first_attr),
                       .numbers = numbers_of(c->attr + first_attr),
                       .d = d};
    PF_TRY(take_projection(n, c, in[PF_KERNEL_PROJECTION]));
    PF_TRY(take_tilts(n, c, in[PF_KERNEL_TILTS], heads));
    PF_TRY(take_factors(n, c, in[PF_KERNEL_FACTORS], heads));
    pf_encoding_settle(n);
    return PF_OK;
}

double pf_call_kernel_products(const pf_call *c, int first_in, double rows, int64_t d, double *m) {
    const pf_tensor *projection = c->in[first_in + PF_KERNEL_PROJECTION];
    *m = projection ? (double)projection->shape[projection->rank - 2] : (double)d;
    return projection ? rows * *m * (double)d : 0;
}
