/* room.h - how much memory data may take where nobody has said. */
#ifndef PF_ROOM_H
#define PF_ROOM_H

#include "runtime.h"

/* Bytes: half of what this machine has, or the container that we are in. */
size_t pf_half_of_memory(void);

#endif
