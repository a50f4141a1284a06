/*
 * bytes.h - elements as other machines and files have them: types beside the tensors' own, in
 * either order of their bytes.
 */
#ifndef PF_BYTES_H
#define PF_BYTES_H

#include "tensor.h"

typedef struct pf_byte_type {
    const char *name;       /* "bf16" */
    size_t bytes;           /* an element */
    pf_dtype as;            /* what it becomes */
    double low, high;       /* of whole numbers; else both 0 */
    int exponent, fraction; /* bits, of floating point; else both 0 */
} pf_byte_type;

enum { PF_BYTES_BLOCK = 512 }; /* elements that a call of the two below takes at most */

const pf_byte_type *pf_byte_type_find(const char *name); /* NULL, without a message */
/* n elements, at any address, to those of the dtype type->as. How many fitted: of the next one
 * *bad says which number does not. */
int64_t pf_bytes_decode(const pf_byte_type *type, bool big, const void *in, int64_t n, void *out,
                        double *bad);
/* The same to n elements of the type, from those of a dtype. */
int64_t pf_bytes_encode(const pf_byte_type *type, bool big, const pf_dtype_row *from,
                        const void *in, int64_t n, void *out, double *bad);

#endif
