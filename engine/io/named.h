/* named.h - what holds of the names in a list of tensors before it becomes a file. */
#ifndef PF_NAMED_H
#define PF_NAMED_H

#include "tensor.h"

/* PF_EINVAL: two have one name. None is NULL. */
int pf_named_differ(const pf_named *tensors, int n, pf_heap *heap);

#endif
