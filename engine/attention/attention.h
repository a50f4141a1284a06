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

#include "projection.h"

typedef enum { PF_SIDE_QUERY, PF_SIDE_KEY } pf_side;

/* What a map needs besides the rows. Made by pf_map_args_of, and for a head that has a tilt
 * by pf_map_tilt after it. */
typedef struct pf_map_args {
    const struct pf_map *map;
    const struct pf_kern *kern;
    int64_t m; /* projections, or head_dim where not projected */
    int64_t r; /* width of the features */
    float eps, ratio;
    double left_out;   /* log of the factor that encode leaves out of every feature: it cancels
                          in attention, and `define` has it */
    float slope;       /* a tilted map reads slope * u_a + bias[a] for u_a: 1, */
    const float *bias; /* (m), and NULL without a tilt */
} pf_map_args;

/*
 * A feature map: phi(x)_a = exp(left_out + shift) * f_a, with u = W x the projected (or,
 * without projection, the plain) row and half = |x|^2 / 2, x already scaled.
 */
typedef struct pf_map {
    const char *name, *doc;
    bool softmax;  /* estimates exp(x.y): projected always, reads half, scale d^(-1/4) */
    bool shifts;   /* log-shifts are not always 0 */
    bool positive; /* features are >= 0; others may give a denominator of 0 */
    bool regular;  /* rows of the projection have norm sqrt(d) */
    bool tilted;   /* takes a tilt, one number A < 1/4 a head */
    bool needs_u;  /* pull reads u */
    int function;  /* a pf_unary: f of the generalised maps */
    int root;      /* default of the option ratio: (root m)^(-1/2); 0: 1 */
    double eps;    /* default of the option eps */
    int width;     /* features per projection */
    /* u (n, m) with stride ld holds the projected rows and becomes the features (n, r),
     * in place; shift[i] the log of what was divided out (0 for maps without). half NULL
     * or not read where the map is none of softmax. */
    void (*encode)(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                   const float *half, float *shift);
    /* df (n, r) + c z^T, c (n) and z (r) or both NULL, is dLoss/dfeatures, and df becomes
     * dLoss/du in its first m columns; coef[i] is such that dx_i = (dLoss/du_i) W + coef[i] x_i.
     * f are the features, u (n, m) with stride m the projected rows again, NULL unless needs_u. */
    void (*pull)(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                 const float *u, const float *c, const float *z, float *df, float *coef);
    /* The plain definition of one row in double, for judges: u (m), half -> (r) each,
     * phi_a = sign_a exp(log_a), with sign 0 and log -inf for 0. Nothing is stabilised, and
     * nothing underflows that logarithms hold. */
    void (*define)(const pf_map_args *args, const double *u, double half, double *log,
                   double *sign);
} pf_map;

/* df (n, r; ld) += c z^T, for pulls that do not take it in as they go; c NULL: nothing. */
void pf_map_join(const pf_map_args *args, int64_t n, int64_t ld, const float *c, const float *z,
                 float *df);

/* eps < 0 and ratio 0 stand for the map's own. */
pf_map_args pf_map_args_of(const pf_map *map, const struct pf_kern *kern, int64_t m, double eps,
                           double ratio);
/* The tilt A of one head: w (m, d) its projection, bias (m) filled and kept by args. */
void pf_map_tilt(pf_map_args *args, double tilt, const float *w, int64_t d, float *bias);

const pf_map *pf_map_find(const char *name);
int pf_map_count(void);
const pf_map *pf_map_at(int index);

/* A kernel: a map with its options resolved. The table of options is the one source of
 * names and defaults for C, Lua and the command line. */
typedef struct pf_kernel {
    const pf_map *map;
    int64_t features; /* m; 0: not projected */
    int64_t head_dim;
    double scale; /* x = scale * q */
    double eps;
    double ratio; /* phi = ratio f(u) + eps; 0: the map's own */
    double tilt;  /* A of softmax_plus, for all heads that have none of their own */
    uint64_t seed;
    int64_t redraw;   /* training steps between draws; 0: never */
    pf_row_kind rows; /* of the projection; given: a model's buffer, set from outside */
    pf_norm_kind norms;
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
/* The same draw's factors where its rows are a Hadamard product that is worth them
 * (pf_projector_factored); else *factors stays. */
int pf_kernel_factors(pf_tensor **factors, pf_engine *engine, const pf_kernel *kernel,
                      int64_t heads, uint64_t layer, uint64_t epoch);

/* error_theory.c: the error of `kernel` (softmax, resolved with head_dim) at |x + y|^2 = sum and
 * |x - y|^2 = difference. */
void pf_kernel_error(pf_prediction *prediction, const pf_kernel *kernel, double sum,
                     double difference);

/* The op rows of this floor. */
#define PF_OP(name) extern const pf_op pf_op_##name;
#include "attention.def"
#undef PF_OP
int pf_attention_register(pf_engine *engine);

/* Runs the attention of `kernel` (or "exact" / "identity" by `kind`): q (B, H, L, d), k and v
 * (B, Hk, L, d) with H a multiple of Hk; what has heads below has Hk of them. */
typedef enum { PF_ATTEND_FAVOR, PF_ATTEND_EXACT, PF_ATTEND_IDENTITY } pf_attend_kind;
typedef struct pf_attend {
    pf_attend_kind kind;
    pf_kernel kernel;      /* FAVOR */
    pf_tensor *projection; /* FAVOR; (m, d) or (H, m, d); NULL: not projected */
    pf_tensor *factors;    /* FAVOR; of a Hadamard product; NULL: none */
    pf_tensor *decay;      /* causal FAVOR and exact; (H) log-decay a token; NULL: none */
    pf_tensor *tilts;      /* FAVOR, tilted maps; (H); NULL: the kernel's tilt */
    bool causal;
} pf_attend;
int pf_attend_call(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *q, pf_tensor *k,
                   pf_tensor *v, pf_tensor *mask, pf_tensor *documents, pf_tensor *prefix);

/*
 * Streaming state: a tree, one node a layer that remembers something. What the tensors mean
 * is the business of whoever opened the node; all have the batch as first dimension.
 *
 * A favor node holds S (B, H, r, dv), z (B, H, r), shift (B, H), and the same sums of its
 * last `recent` steps apart (stream.c); an exact node the keys and values so far.
 */
enum { PF_STATE_TENSORS = 5 };
typedef struct pf_state_kind {
    const char *name;
    const char *tensor[PF_STATE_TENSORS]; /* names, for files and messages */
    bool grows;                           /* rows beyond `position` (dimension 2) are spare room */
} pf_state_kind;

/* What a state of attention alone is made of; shared by its forks. */
typedef struct pf_alone {
    atomic_int refs;
    pf_heap *heap;
    pf_attend attend;
    pf_config *kernel; /* name and options */
    int64_t heads, head_dim, value_dim;
    pf_tensor *fingerprint; /* numbers that two equal kernels share; NULL: none */
} pf_alone;
pf_alone *pf_alone_retain(pf_alone *alone);
void pf_alone_release(pf_alone **alone); /* takes NULL */
/* Fails, saying why, unless states of the two may stand for each other. */
int pf_alone_alike(const pf_alone *a, const pf_alone *b);

struct pf_state {
    pf_heap *heap;
    const pf_state_kind *kind; /* NULL: holds no tensor */
    int64_t batch;
    int64_t position; /* tokens seen */
    int64_t recent;   /* favor: steps that the second sums hold */
    pf_tensor *tensor[PF_STATE_TENSORS];
    struct pf_state **child;
    int n_child;
    void *host; /* a host layer's own, with the layer's calls */
    pf_host_layer layer;
    pf_alone *alone; /* of a state that stands alone; retained */
};
int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child);

/* An attention node for (batch, heads, head_dim, value_dim); heads: of keys and values. */
int pf_attend_state(pf_state **state, pf_engine *e, const pf_attend *a, int64_t batch,
                    int64_t heads, int64_t head_dim, int64_t value_dim);
/* q (B, H, L, d), k, v (B, Hkv, L, d): attends to the state and the new keys causally, moves
 * the state on. H is a multiple of Hkv: a group of query heads shares its keys. */
int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v);
/* The same for L = 1, without chunks: O(r dv) a head. Equal to the parallel form to 1e-5. */
int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state, pf_tensor *q,
                   pf_tensor *k, pf_tensor *v);

/* A slice of a longer sequence in training (part.c): attends to the state, whose tensors are part
 * of the graph, and puts those that it leaves in their place. mask, documents (B, L), of the slice,
 * or NULL. */
int pf_attend_slice(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                    pf_tensor *q, pf_tensor *k, pf_tensor *v, pf_tensor *mask,
                    pf_tensor *documents);
/* What a state is to begin slices with: nothing that only steps need. */
void pf_slice_begin(pf_state *state);
/* The rows of items that begin anew, where keep[b] is false: a state of nothing, and no gradient.
 * gradient: `state` holds gradients. */
void pf_slice_cut(pf_state *state, const bool *keep, bool gradient);

/* Appends the keys and values of another exact node. */
int pf_exact_append(pf_state *s, const pf_state *later);

/* stream.c: the step of linear attention and its sums. */
extern const pf_state_kind pf_state_favor;
enum { PF_S, PF_Z, PF_SHIFT, PF_S_RECENT, PF_Z_RECENT };
int pf_favor_open(pf_state *s, const pf_attend *a, int64_t heads, int64_t d, int64_t dv);
/* The recent sums into the others: after it S, z, shift are an entry state of the operator. */
int pf_favor_settle(pf_state *s, pf_engine *e, const pf_attend *a);
/* The exit state of the operator (taken over) becomes the settled state. */
void pf_favor_take(pf_state *s, pf_tensor **exit);
int pf_favor_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s, pf_tensor *q,
                  pf_tensor *k, pf_tensor *v);
/* s <- s and then `later`, both settled and alike. */
int pf_favor_merge(pf_state *s, pf_engine *e, const pf_attend *a, const pf_state *later);
/* Numbers of `a` that change with map, options, projection or decay: (heads, n). */
int pf_favor_fingerprint(pf_tensor **t, pf_engine *e, const pf_attend *a, int64_t heads, int64_t d);

#endif
