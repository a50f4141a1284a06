/*
 * optimizer.h - inside the floor train/ only: what an optimizer holds. Each parameter has an entry
 * with the tensors that are kept of it, and belongs to a group, whose options its rule reads.
 */
#ifndef PF_OPTIMIZER_H
#define PF_OPTIMIZER_H

#include "rule.h"

enum {
    PF_KEPT_MAX = PF_MOMENTS_MAX + 1, /* of a parameter: its moments, then its average */
    PF_PARTS = 3                      /* of a linear layer that gives queries, keys and values */
};

/* A tensor that is kept of a parameter, in files as "<param>.<word>": like the parameter, or where
 * that is dealt the numbers that are this rank's, in a row. */
typedef struct pf_kept {
    char *name;
    pf_tensor *tensor;
} pf_kept;

/* One trained parameter. */
typedef struct pf_entry {
    char *name;       /* its path */
    pf_tensor *param; /* retained */
    pf_kept kept[PF_KEPT_MAX];
    int n_kept;
    int moments;            /* so many of them are the rule's; one more is the average */
    int group;              /* its place in the optimizer's list, twins behind it */
    bool linear;            /* the weight of a linear layer inside the model, of nothing else */
    bool other;             /* of something else */
    bool whole;             /* the rule takes it as a whole matrix, or as several */
    bool table;             /* a step reads a few rows of it, its layer says */
    bool touched;           /* a step moves the rows alone that have a gradient (touched.c) */
    int64_t part[PF_PARTS]; /* rows of each of these: 0, 0, 0 is one */
    bool dealt;             /* to ranks: else, with one or of a table, each has all of it */
    int64_t own_first, own; /* what this rank keeps moments of, and moves: so many numbers */
} pf_entry;

/* Parameters that are treated alike. */
typedef struct pf_group {
    pf_config *options; /* all that holds for them, for the rule to read */
    double lr_scale;
    const char *rows; /* "touched", "all", or NULL: by the parameter; borrowed */
    pf_update update; /* what is the same for all of them in a step */
} pf_group;

struct pf_optimizer {
    pf_heap *heap;
    pf_module *module; /* retained */
    const pf_optimizer_rule *rule;
    pf_config *options;
    pf_entry *entry;
    int n, capacity; /* entries; there is room for buffers, too */
    pf_group *group; /* the last one is of all that no other takes; then a twin of each, of those
                      * of its parameters that move in touched rows */
    int n_groups;    /* without the twins */
    double ema;      /* rate of the averages; 0: there are none */
    bool averaged;   /* averages and weights have changed places (average.c) */
    float *room;     /* for whole matrices, or NULL */
    size_t room_bytes;
    uint64_t steps;         /* that are over */
    struct pf_lanes *lanes; /* NULL: a step is one (lanes.c) */
    struct pf_shard *shard; /* NULL: made where there is one rank (shard.h) */
    bool all_rows; /* saved when no row knew it had none: tables move whole unless options say */
    int drawn;     /* projections, in the last step */
};

/* ---- groups.c ---- */
/* Makes the groups that the options ask for. */
int pf_groups_make(pf_optimizer *o);
void pf_groups_free(pf_optimizer *o);
/* The place of the group that a parameter of that name belongs to. */
int pf_group_of(const pf_optimizer *o, const char *name);
/* Marks the entries that are weights of linear layers (the layer `head` of logits is none), and
 * tables. */
int pf_groups_find_kinds(pf_optimizer *o);
/* Decides which entries move in touched rows alone, by the twin of their group. */
int pf_groups_choose_rows(pf_optimizer *o);

/* ---- touched.c ---- */
typedef struct pf_touched {
    pf_tensor *rows; /* i32, ascending: its first n; owned */
    int64_t n;
    double square; /* of all their numbers, the sum */
} pf_touched;
/* The rows of `grad`, param's gradient, that are not zero; what param knows of it holds. */
int pf_touched_find(pf_touched *t, pf_engine *e, const pf_tensor *param, const pf_tensor *grad);
/* The rule's update `all`, of a whole parameter, in those rows of `width` numbers. */
int pf_touched_update(const pf_touched *t, pf_engine *e, const pf_optimizer_rule *rule,
                      const pf_update *all, int64_t width);

/* ---- average.c ---- */
/* Moves what this rank has of a parameter's average on, after its part of step `step`. */
int pf_average_move(const pf_optimizer *o, pf_engine *e, const pf_entry *p, uint64_t step);
/* Takes averages out of the weights' place, where they stand. */
void pf_average_leave(pf_optimizer *o);
/* PF_ESTATE while the averages stand in the weights' place; `what` can't be done then. */
int pf_average_check(const pf_optimizer *o, const char *what);

#endif
