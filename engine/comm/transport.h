/*
 * transport.h - how bytes get from one rank to another: what a plugin for MPI gives, or threads of
 * one process in tests. Five functions, none of which waits.
 *
 * What must hold of one: messages of a pair of ranks with one tag arrive whole and in the order in
 * which they were sent, and as long as they were; memory that was handed in is the transport's
 * until its ticket is done. 0 is success, anything else a failure after which nothing more is
 * asked but abort and close. One thread calls it.
 */
#ifndef PF_TRANSPORT_H
#define PF_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

#define PF_TRANSPORT_ABI   1
#define PF_TRANSPORT_PIECE ((size_t)1 << 30) /* bytes of a message at most: MPI counts in ints */

typedef struct pf_transport {
    size_t size;
    uint32_t abi;
    void *self;
    const char *name; /* "Open MPI 4.1.4" */
    int rank, ranks;
    int local_rank, local_ranks; /* among the ranks of this host */
    int (*send)(void *self, int to, int tag, const void *data, size_t bytes, int *ticket);
    int (*receive)(void *self, int from, int tag, void *data, size_t bytes, int *ticket);
    int (*test)(void *self, int ticket,
                int *done);              /* makes progress; a ticket that is done is gone */
    void (*abort)(void *self, int code); /* ends every rank; may return */
    void (*close)(void *self);
} pf_transport;

#endif
