/*
 * npy.h - numpy's arrays in files (.npy, and .npz, a zip file of them): what the header says, held
 * against every rule before it is followed. numpy.lib.format has the format.
 */
#ifndef PF_NPY_H
#define PF_NPY_H

#include "bytes.h"
#include "zip.h"

enum { PF_NPY_MOST = 1 << 16 }; /* bytes of a header */

typedef struct pf_npy {
    const pf_byte_type *type;
    bool big, fortran;
    int rank;
    int64_t shape[PF_MAX_RANK];
} pf_npy;

/* The dictionary of a header, n bytes with a 0 behind them. */
int pf_npy_read_header(pf_npy *npy, const char *header, size_t n);
/* A whole header, magic and all, of a tensor as it lies: *bytes of `out`, which has room for 512.
 */
int pf_npy_write_header(const pf_byte_type *type, int rank, const int64_t *shape, char *out,
                        size_t *bytes);

#endif
