/*
 * map.h - a feature map: the seam behind which one kernel differs from another.
 *
 * Encode rows of queries or keys into features and one log-shift a row, and pull gradients
 * back. The linear-attention operator and everything else that sums features never asks which
 * map it has. maps.def lists the maps; each row stands beside its functions (map_*.c).
 */
#ifndef PF_MAP_H
#define PF_MAP_H

#include "kern.h"
#include "projection.h"

/* The numbers of a kernel (numbers.def), as they are given or, in a spec, resolved. */
typedef struct pf_numbers {
#define PF_NUMBER(name, value, least, most, text) double name;
#include "numbers.def"
#undef PF_NUMBER
} pf_numbers;

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
pf_map_args pf_map_args_of(const pf_map *map, const struct pf_kern *kern, int64_t m,
                           const pf_numbers *numbers);
/* The tilt A of one head: w (m, d) its projection, bias (m) filled and kept by args. */
void pf_map_tilt(pf_map_args *args, double tilt, const float *w, int64_t d, float *bias);

const pf_map *pf_map_find(const char *name);
const pf_map *pf_map_at(int index);

#define PF_MAP(name) extern const pf_map pf_map_##name;
#include "maps.def"
#undef PF_MAP
extern const pf_map pf_map_given; /* not in the list: linear_attention's */

/* "|softmax|..." and, without the first bar, the choices of an op attribute. */
extern const char pf_map_names[];
#define PF_MAP_CHOICES (pf_map_names + 1)

/* x = scale * q: what `scale` 0 stands for. */
double pf_map_scale(const pf_map *map, double scale, int64_t head_dim);

/* Whose defaults: ours, or those of a published version. */
#define PF_PRESET_CHOICES "own|authors|pytorch"

/* What a preset says of a map for heads of head_dim; each an option's default. */
typedef struct pf_preset {
    double scale, eps;
    bool project;
    int64_t features; /* where projected and not given */
} pf_preset;
pf_preset pf_preset_of(const char *name, const pf_map *map, int64_t head_dim);

#endif
