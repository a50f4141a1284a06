/*
 * performer_transport.h - all that a plugin for ranks knows of Performer: how bytes get from one
 * rank to another. Six functions, none of which waits but close, for all ranks, and cancel, for a
 * second. A plugin is a shared library with the function pf_transport_open; libperformer_mpi.so is
 * one, and on a cluster it is made of mpi.c alone, with the MPI that is there:
 *
 *     mpicc -shared -fPIC -O2 $(pkg-config --cflags performer) -o libperformer_mpi.so \
 *         $(pkg-config --variable=mpi performer)
 *
 * What must hold: messages of a pair of ranks with one tag arrive whole, in the order in which they
 * were sent and go to what awaits them in the order in which it was posted, as long as they were;
 * memory that was handed in is the transport's until its ticket is done or given up. 0 is success,
 * anything else a failure after which nothing more is asked but cancel and abort. One thread calls
 * it.
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
    int (*send)(void *self, int to, int tag, const void *data, size_t bytes, int *ticket);
    int (*receive)(void *self, int from, int tag, void *data, size_t bytes, int *ticket);
    /* Makes progress; a ticket that is done is gone. */
    int (*test)(void *self, int ticket, int *done);
    /* Gives up every ticket: takes back what has not begun, and waits a second at most for what
     * has. Returns how many messages still hold their memory, until the process ends; 0 is what
     * the caller hopes for. */
    int (*cancel)(void *self);
    void (*abort)(void *self, int code); /* ends every rank; may return */
    void (*close)(void *self);           /* of a talk that is whole: all ranks come */
} pf_transport;

/* What a plugin exports. timeout: seconds that it may wait for the other ranks. 0, and a transport
 * that is the caller's until `close`; else a sentence in message (bytes). */
int pf_transport_open(pf_transport **transport, double timeout, char *message, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
