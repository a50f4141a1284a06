/*
 * mapping.h - a file's bytes as they lie on the disk, shared by all that map it, in this process
 * and in others. What must hold: nobody writes to a mapped file in place, nor makes it shorter, as
 * long as it is mapped; of a file that anybody may write to that can't be hoped, and it is refused.
 */
#ifndef PF_MAPPING_H
#define PF_MAPPING_H

#include "file.h"
#include "tensor.h"

typedef struct pf_mapping pf_mapping;

/* All of an open file, counted; it lasts when the file is closed. *mapping NULL and PF_OK: here
 * nothing can be mapped. */
int pf_mapping_open(pf_mapping **mapping, pf_heap *heap, const pf_reader *file);
const char *pf_mapping_data(const pf_mapping *mapping);
pf_lender pf_mapping_lender(pf_mapping *mapping); /* of a part: holds it until it is given back */
void pf_mapping_close(pf_mapping **mapping);

#endif
