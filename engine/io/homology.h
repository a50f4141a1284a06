/*
 * homology.h - a split of sequences by descent: clusters of sequences that are alike, each of which
 * is on one side as a whole, and how near the validation part is to the training part all the same.
 */
#ifndef PF_HOMOLOGY_H
#define PF_HOMOLOGY_H

#include "data.h"

/* Puts whole clusters on a side, up to data->valid_fraction of the sequences in the validation
 * part; sets data->clusters. Two sequences are linked when an alignment of them that does not come
 * by chance has at least `identity` of its columns equal and spans half of the shorter one. */
int pf_data_split_homology(pf_data *data, pf_engine *engine, double identity);

#endif
