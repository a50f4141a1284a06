/*
 * kernel.h - front header of the floor: a kernel as one noun. A map with its options resolved,
 * the projection that it has for heads of keys, and what follows from them: features of rows
 * (encoder.h), numbers that tell it from others, the error of its estimate.
 *
 * A kernel is opened once, from options, with a given projection, or around a map of the
 * host's own. Opened, it does not know for which heads it will work; pf_kernel_bind gives the
 * kernel of so many heads of such a width, drawn at the first asking and kept. A layer owns a
 * bound kernel of its own (pf_kernel_build), whose projection is redrawn in place.
 */
#ifndef PF_KERNEL_H
#define PF_KERNEL_H

#include "map.h"
#include "tape.h"

/* What eps is measured by, in softmax maps: the row's own largest feature, or the published
 * versions' maximum over all keys, which full attention alone can have. */
#define PF_STABILISER_CHOICES "position|reference"
typedef enum {
    PF_BY_POSITION,
    PF_BY_REFERENCE,
    PF_BY_PRESET /* a preset's: the reference's where attention is full, else position */
} pf_stabiliser;

/* The options of a kernel, resolved: all that a draw and the theory of its error need. */
typedef struct pf_kernel_spec {
    const pf_map *map;
    int64_t features;   /* m; 0: not projected */
    int64_t head_dim;   /* d; 0: not known yet */
    pf_numbers numbers; /* scale and eps resolved; ratio 0: the map's own */
    uint64_t seed;      /* 0: the engine's */
    uint64_t layer;
    int64_t redraw;   /* training steps between draws; 0: never */
    pf_row_kind rows; /* of the projection; given: set from outside */
    pf_norm_kind norms;
    bool per_head;
    pf_stabiliser stabiliser;
} pf_kernel_spec;

struct pf_kernel {
    atomic_int refs;
    pf_heap *heap;
    pf_config *options; /* name and options, as files hold them */
    pf_kernel_spec spec;
    bool is_bound;
    int64_t heads;         /* of keys, that it is bound to; 0: one projection for any */
    pf_tensor *projection; /* (m, d) or (heads, m, d); NULL: not projected, or not bound */
    pf_tensor *factors;    /* of a Hadamard product (projection.h); NULL: none */
    pf_tensor *tilts;      /* (heads), a layer's own; NULL: the tilt of the options */
    pf_host_map host;      /* map NULL: one of our own maps */
    pf_named *parameters;  /* that the host's map learns with; names and tensors owned */
    int n_parameters;
    void (*drop)(struct pf_kernel *kernel); /* frees what the host gave (map_host.c); NULL */
    pf_kernel *source; /* retained: whose host map, or whose draws these are; NULL */
    pf_kernel **bound; /* bindings that were asked for; each retained */
    int64_t n_bound, cap_bound;
    /* The engine's list of open kernels (registry.c), by which options name one. */
    uint64_t number;
    pf_kernel *next, **place;
};

/* The table of options is the one source of names and defaults for C, Lua and the command
 * line. */
extern const pf_option_info pf_kernel_option_table[];
extern const int pf_kernel_option_count;
int pf_kernels_describe(pf_config *to); /* sets `kernel` and `maps` of it (pf_describe) */
/* options: a map with `name` and any of the table; head_dim fills what depends on it. */
int pf_kernel_resolve(pf_kernel_spec *spec, const pf_config *options, int64_t head_dim);
/* Options that some kernel has, and no others: for kinds of attention without a kernel, which
 * a command line gives them all the same. */
int pf_kernel_check_names(const pf_config *options, const char *where);

/* *bound: the kernel for `heads` heads of keys of width head_dim, retained. */
int pf_kernel_bind(pf_kernel **bound, pf_engine *e, pf_kernel *kernel, int64_t head_dim,
                   int64_t heads);
/* A bound kernel of one's own, drawn for layer number `layer` at epoch 0; options may name an
 * open kernel of the host's (registry.c), or one with a given projection, which is copied. */
int pf_kernel_build(pf_kernel **kernel, pf_engine *e, const pf_config *options, int64_t head_dim,
                    int64_t heads, uint64_t layer);
/* A bound kernel with the projection that options like these once drew (files of states). */
int pf_kernel_restore(pf_kernel **kernel, pf_engine *e, const pf_config *options,
                      pf_tensor *projection, int64_t head_dim, int64_t heads);
/* Draws into *projection, made when NULL: for those who need many draws. */
int pf_kernel_draw(pf_tensor **projection, pf_engine *e, const pf_kernel_spec *spec, int64_t heads,
                   uint64_t epoch);
/* Draws epoch `epoch` into the projection and the factors that are there. */
int pf_kernel_redraw(pf_kernel *kernel, pf_engine *e, uint64_t epoch);

static inline const char *pf_kernel_name(const pf_kernel *kernel) {
    const pf_config *name = pf_config_get(kernel->options, "name");
    const char *text = name ? pf_config_string(name) : NULL;
    return text ? text : kernel->spec.map->name;
}
/* Who can't have the reference's stabiliser refuses a kernel that was asked for it, and one whose
 * preset has it where attention is `full`. `where` begins the message, `why` says why not. */
int pf_kernel_no_reference(const pf_kernel *kernel, bool full, const char *where, const char *why);
/* Features are made before the operator sees the rows: by the host's map, or by the caller. */
static inline bool pf_kernel_given(const pf_kernel *kernel) {
    return kernel->spec.map == &pf_map_given;
}
/* What the host's map learns with; NULL where there is nothing. */
const pf_named *pf_kernel_parameters(const pf_kernel *kernel, int *n);
/* Rows as the operator takes them: phi (B, H, L, r) where the host maps, else x (B, H, L, d)
 * itself, retained. Ops of the host are recorded. */
int pf_kernel_rows(pf_tensor **rows, pf_engine *e, const pf_kernel *kernel, pf_side side,
                   pf_tensor *x);
/* Features that must be of that width: where no op looks at them. */
int pf_kernel_rows_wide(pf_tensor **rows, pf_engine *e, const pf_kernel *kernel, pf_side side,
                        pf_tensor *x, int64_t width);
/* Options say that features are given: what a file says of a kernel of the host's, too. */
bool pf_kernel_words_given(const pf_config *words);
/* fingerprint.c: r, the width of a bound kernel's features; and numbers that change with map,
 * options, projection or decay ((heads) or NULL): (heads, n). The host's map is asked. */
int pf_kernel_width(int64_t *width, pf_engine *e, const pf_kernel *kernel, int64_t heads);
int pf_kernel_fingerprint(pf_tensor **t, pf_engine *e, const pf_kernel *kernel, int64_t heads,
                          const pf_tensor *decay);

/* The one check of a projection: (features, d), or (heads, features, d); heads 0: any. */
int pf_projection_check(const char *where, const pf_tensor *projection, int64_t heads, int64_t d);
/* A kernel of options alone. */
int pf_kernel_make(pf_kernel **kernel, pf_engine *e, const pf_config *options);

/* registry.c: open kernels by number and by name. *kernel borrowed, or NULL when `options` name
 * none of them. */
int pf_kernel_named(pf_kernel **kernel, pf_engine *e, const pf_config *options);
uint64_t pf_kernel_handle(const pf_kernel *kernel); /* 0: its engine has closed */
int pf_kernel_enlist(pf_kernel *kernel, pf_engine *e);
void pf_kernel_leave(pf_kernel *kernel);

/* The options for heads of head_dim, of a kernel that estimates exp(x.y); else fails. */
int pf_kernel_spec_for(pf_kernel_spec *spec, const pf_kernel *kernel, int64_t head_dim,
                       const char *where);
/* error_theory.c: the error of a softmax kernel, head_dim known, at |x + y|^2 = sum and
 * |x - y|^2 = difference. */
void pf_kernel_error(pf_prediction *prediction, const pf_kernel_spec *spec, double sum,
                     double difference);

/* map[name] = {rel_mse, coupled_rel_mse, bias}, for reports. */
int pf_prediction_report(pf_config *map, const char *name, const pf_prediction *prediction);

#endif
