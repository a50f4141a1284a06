/*
 * mpi.c - ranks over MPI, as a plugin (performer_transport.h): the only file that knows MPI, and it
 * knows nothing else of Performer. Written for MPI 3: Open MPI from 4, MPICH from 4.
 *
 * What must hold: between opening and closing no call of MPI waits, since who waits decides when it
 * has waited enough (to open and to close a talk takes all ranks, and waits for them); errors of
 * messages come back (MPI_ERRORS_RETURN) instead of ending the program; a program that has
 * initialised MPI itself keeps it, and finalises it itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "performer_transport.h"

/* A message on its way. */
typedef struct {
    MPI_Request request;
    int bytes; /* expected; -1: sent */
    bool used;
} slot;

typedef struct {
    pf_transport transport;
    MPI_Comm comm;
    bool ours; /* MPI was initialised here */
    slot *slot;
    int n, next;
    char name[64];
} mpi;

/* ---- messages ---- */

static int take_slot(mpi *m) {
    for (int i = 0; i < m->n; i++) {
        int at = (m->next + i) % m->n;
        if (m->slot[at].used) continue;
        m->next = at + 1;
        return at;
    }
    int more = m->n ? 2 * m->n : 64;
    slot *grown = realloc(m->slot, (size_t)more * sizeof *grown);
    if (!grown) return -1;
    memset(grown + m->n, 0, (size_t)(more - m->n) * sizeof *grown);
    m->slot = grown, m->next = m->n + 1;
    int at = m->n;
    m->n = more;
    return at;
}

static int keep(mpi *m, int at, int code, int bytes, int *ticket) {
    if (code != MPI_SUCCESS) return code;
    m->slot[at].used = true;
    m->slot[at].bytes = bytes;
    *ticket = at;
    return 0;
}

static int mpi_send(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    mpi *m = self;
    int at = take_slot(m);
    if (at < 0) return MPI_ERR_NO_MEM;
    int code = MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, m->comm, &m->slot[at].request);
    return keep(m, at, code, -1, ticket);
}

static int mpi_receive(void *self, int from, int tag, void *data, size_t bytes, int *ticket) {
    mpi *m = self;
    int at = take_slot(m);
    if (at < 0) return MPI_ERR_NO_MEM;
    int code = MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag, m->comm, &m->slot[at].request);
    return keep(m, at, code, (int)bytes, ticket);
}

static int mpi_test(void *self, int ticket, int *done) {
    mpi *m = self;
    slot *s = &m->slot[ticket];
    MPI_Status status;
    int got = 0, code = MPI_Test(&s->request, done, &status);
    if (code != MPI_SUCCESS || !*done) return code;
    s->used = false;
    if (s->bytes < 0) return 0;
    code = MPI_Get_count(&status, MPI_BYTE, &got);
    return code != MPI_SUCCESS ? code : got != s->bytes ? MPI_ERR_TRUNCATE : 0;
}

/* ---- beginning and end ---- */

static void mpi_abort(void *self, int code) { MPI_Abort(((mpi *)self)->comm, code); }

static void mpi_close(void *self) {
    mpi *m = self;
    MPI_Comm_free(&m->comm);
    if (m->ours) MPI_Finalize();
    free(m->slot);
    free(m);
}

/* Where a container forbids a process to read another's memory, Open MPI's large messages within a
 * host fail ("Read -1"): tried here on the own memory, and said before MPI begins. */
static void mind_containers(void) {
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1) return;
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    setenv("OMPI_MCA_smsc", "^cma", 0);
}

/* MPI begins once a process: what was closed by the one that had begun it stays closed. */
static bool is_over(void) {
    int over = 0;
    return MPI_Finalized(&over) == MPI_SUCCESS && over;
}

static int begin(mpi *m) {
    int there = 0, level;
    MPI_Initialized(&there);
    if (!there) {
        mind_containers();
        int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
        if (code != MPI_SUCCESS) return code;
        m->ours = true;
    }
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &m->comm);
    if (code != MPI_SUCCESS) return code;
    return MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN);
}

/* "Open MPI 4.1.4" of the library's own long text. */
static void find_name(mpi *m) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = 0;
    const char *name = strstr(text, "Open MPI");
    snprintf(m->name, sizeof m->name, "%.60s", name ? name : text);
    for (char *c = m->name; *c; c++)
        if (*c == '\t') *c = ' ';
    char *v = strstr(m->name, "MPI v"); /* "Open MPI v4.1.4" */
    if (v) memmove(v + 4, v + 5, strlen(v + 5) + 1);
}

static int find_places(mpi *m, pf_transport *t) {
    MPI_Comm host;
    int code = MPI_Comm_rank(m->comm, &t->rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(m->comm, &t->ranks);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    if (code != MPI_SUCCESS) return code;
    MPI_Comm_rank(host, &t->local_rank);
    MPI_Comm_size(host, &t->local_ranks);
    return MPI_Comm_free(&host);
}

__attribute__((visibility("default"))) int pf_transport_open(pf_transport **transport,
                                                             char *message, size_t bytes) {
    if (is_over()) {
        snprintf(message, bytes, "MPI has been finalised in this process, and begins once in each");
        return 1;
    }
    mpi *m = calloc(1, sizeof *m);
    int code = m ? begin(m) : MPI_ERR_NO_MEM;
    if (code == MPI_SUCCESS) {
        m->transport = (pf_transport){.size = sizeof(pf_transport),
                                      .abi = PF_TRANSPORT_ABI,
                                      .self = m,
                                      .name = m->name,
                                      .send = mpi_send,
                                      .receive = mpi_receive,
                                      .test = mpi_test,
                                      .abort = mpi_abort,
                                      .close = mpi_close};
        find_name(m);
        code = find_places(m, &m->transport);
    }
    if (code != MPI_SUCCESS) {
        snprintf(message, bytes, "MPI's error %d", code);
        free(m);
        return 1;
    }
    *transport = &m->transport;
    return 0;
}
