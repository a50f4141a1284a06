/*
 * attention.h - front header of floor 4: feature maps, projections, the attention ops and
 * their streaming state.
 *
 * The feature map is a seam: encode rows of queries or keys into features and one
 * log-shift a row, and pull gradients back. Behind it stands one linear-attention
 * operator, which never asks which map it has.
 */
#ifndef PF_ATTENTION_H
#define PF_ATTENTION_H

#include "calls.h"

typedef enum { PF_SIDE_QUERY, PF_SIDE_KEY } pf_side;

/* What a map needs besides the rows. */
typedef struct pf_map_args {
    const struct pf_kern *kern;
    int64_t m;   /* projections, or head_dim where not projected */
    int64_t r;   /* width of the features */
    float eps;
} pf_map_args;

/*
 * A feature map: phi(x)_a = exp(shift) * f_a, with u = W x the projected (or, without
 * projection, the plain) row and half = |x|^2 / 2, x already scaled.
 */
typedef struct pf_map {
    const char *name, *doc;
    bool softmax;     /* estimates exp(x.y): projected always, scale d^(-1/4) */
    bool positive;    /* features are >= 0 */
    double eps;       /* default of the option eps */
    int width;        /* features per projection */
    /* u (n, m) with stride ld holds the projected rows and becomes the features (n, r),
     * in place; shift[i] the log of what was divided out (0 for maps without). half NULL
     * where the map does not use it. */
    void (*encode)(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                   const float *half, float *shift);
    /* df (n, r) is dLoss/dfeatures and becomes dLoss/du; coef[i] is such that
     * dx_i = (dLoss/du_i) W + coef[i] * x_i. f are the features. */
    void (*pull)(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                 float *df, float *coef);
    /* The plain definition of one row in double, u (m) -> out (r): no stabiliser, for judges. */
    void (*define)(const pf_map_args *args, const double *u, double half, double *out);
} pf_map;

const pf_map *pf_map_find(const char *name);
int pf_map_count(void);
const pf_map *pf_map_at(int index);

/* A kernel: a map with its options resolved. The table of options is the one source of
 * names and defaults for C, Lua and the command line. */
typedef struct pf_kernel {
    const pf_map *map;
    int64_t features;  /* m; 0: not projected */
    int64_t head_dim;
    double scale;      /* x = scale * q */
    double eps;
    uint64_t seed;
    int64_t redraw;    /* training steps between draws; 0: never */
    bool iid, regular;
    bool per_head;
} pf_kernel;
extern const pf_option_info pf_kernel_options[];
extern const int pf_kernel_option_count;
/* options: a map with `name` and any of the table; head_dim fills what depends on it. */
int pf_kernel_resolve(pf_kernel *kernel, const pf_config *options, int64_t head_dim);
/* Draws epoch `epoch` of layer `layer` into *projection ((m, d), or (heads, m, d) where
 * per_head), making it when NULL. Not for kernels without features (*projection stays). */
int pf_kernel_draw(pf_tensor **projection, pf_engine *engine, const pf_kernel *kernel,
                   int64_t heads, uint64_t layer, uint64_t epoch);

/* The op rows of this floor. */
#define PF_OP(name) extern const pf_op pf_op_##name;
#include "attention.def"
#undef PF_OP
int pf_attention_register(pf_engine *engine);

/* Runs the attention of `kernel` (or "exact" / "identity" by `kind`) on (B, H, L, d). */
typedef enum { PF_ATTEND_FAVOR, PF_ATTEND_EXACT, PF_ATTEND_IDENTITY } pf_attend_kind;
typedef struct pf_attend {
    pf_attend_kind kind;
    pf_kernel kernel;      /* FAVOR */
    pf_tensor *projection; /* FAVOR; (m, d) or (H, m, d); NULL: not projected */
    pf_tensor *decay;      /* causal FAVOR and exact; (H) log-decay a token; NULL: none */
    bool causal;
} pf_attend;
int pf_attend_call(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *q, pf_tensor *k,
                   pf_tensor *v, pf_tensor *mask, pf_tensor *documents);

/*
 * Streaming state: a tree, one node a layer that remembers something. A favor node holds
 * S (B, H, r, dv), z (B, H, r), shift (B, H); an exact node the keys and values so far.
 */
enum { PF_STATE_TENSORS = 4 };
struct pf_state {
    pf_heap *heap;
    int64_t batch;
    int64_t position;               /* tokens seen */
    pf_tensor *tensor[PF_STATE_TENSORS];
    struct pf_state **child;
    int n_child;
    void *host;                     /* a host layer's own */
    void (*release_host)(void *context, void *host);
    void *host_context;
    struct pf_attend *attend;       /* of a state that stands alone; owned */
};
int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child);

/* An attention node for (batch, heads, head_dim, value_dim). */
int pf_attend_state(pf_state **state, pf_engine *e, const pf_attend *a, int64_t batch,
                    int64_t heads, int64_t head_dim, int64_t value_dim);
/* q, k, v (B, H, L, d): attends to the state and the new keys causally, moves the state on. */
int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v);
/* The same for L = 1, without chunks: O(r dv) a head. Equal to the parallel form to 1e-5. */
int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state, pf_tensor *q,
                   pf_tensor *k, pf_tensor *v);

#endif
