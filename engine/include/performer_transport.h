/*
 * performer_transport.h - all that a plugin for ranks knows of Performer: how bytes get from one
 * rank to another. Five functions, none of which waits but close, for all ranks. A plugin is a
 * shared library with the function pf_transport_open; libperformer_mpi.so is one, and on a cluster
 * it is made of engine/plugins/mpi.c alone, with the MPI that is there:
 *
 *     mpicc -shared -fPIC -O2 -I include mpi.c -o libperformer_mpi.so
 *
 * What must hold: messages of a pair of ranks with one tag arrive whole and in the order in which
 * they were sent, and as long as they were; memory that was handed in is the transport's until its
 * ticket is done. 0 is success, anything else a failure after which nothing more is asked but abort
 * and close. One thread calls it.
 */
#ifndef PERFORMER_TRANSPORT_H
#define PERFORMER_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

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

/* What a plugin exports. 0, and a transport that is the caller's until `close`; else a sentence in
 * message (bytes). */
int pf_transport_open(pf_transport **transport, char *message, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
