/*
 * mpi.c - ranks over MPI, as a plugin (performer_transport.h): the only file that knows MPI, and it
 * knows nothing else of Performer. Written for MPI 3: Open MPI from 4, MPICH from 4.
 *
 * What must hold: no call of MPI waits without an end, since who waits decides when it has waited
 * enough, but those that begin and end MPI, which takes all ranks; errors come back
 * (MPI_ERRORS_RETURN) instead of ending the program; what was given up is written to no more; a
 * program that has initialised MPI itself keeps it, and finalises it itself.
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
#include <time.h>
#include <unistd.h>

#include "performer_transport.h"

/* A message that is not small goes in parts, all at once: Open MPI sends what is below 64 KiB
 * without asking first, and over TCP what is asked waits behind all that goes the same way (a sum
 * of 16 MB over a link of 200 Mbit/s: 0.67 instead of 0.76 s). Both ends cut alike. Long ones go
 * whole: of them there are few, and many parts would take room without end. */
enum { PART = 60000, PARTS = 20 };

/* A message on its way. */
typedef struct {
    MPI_Request request[PARTS];
    int n;     /* parts */
    int bytes; /* expected; -1: sent */
    bool used;
} slot;

typedef struct {
    pf_transport transport;
    MPI_Comm comm;
    slot *slot;
    int n, next;
    char name[64];
} mpi;

static bool ours; /* MPI was initialised here */
static int talks; /* that are open */

/* Between two looks at what others do. */
static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL); }

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

/* How many parts, and the bytes of the i-th. */
static int parts_of(size_t bytes) {
    if (bytes == 0 || bytes > (size_t)PART * PARTS) return 1;
    return (int)((bytes + PART - 1) / PART);
}
static int part_of(size_t bytes, int i) {
    const size_t before = (size_t)i * PART;
    return parts_of(bytes) == 1 || bytes - before < PART ? (int)(bytes - before) : PART;
}

/* What has begun where another part can't is kept, for cancel to give it up. */
static int begin_all(mpi *m, bool out, int rank, int tag, void *data, size_t bytes, int *ticket) {
    const int at = take_slot(m), parts = parts_of(bytes);
    int code = MPI_SUCCESS;
    if (at < 0) return MPI_ERR_NO_MEM;
    slot *s = &m->slot[at];
    s->n = 0, s->bytes = out ? -1 : (int)bytes;
    for (int i = 0; i < parts && code == MPI_SUCCESS; i++) {
        char *part = (char *)data + (size_t)i * PART;
        MPI_Request *request = &s->request[i];
        const int size = part_of(bytes, i);
        code = out ? MPI_Isend(part, size, MPI_BYTE, rank, tag, m->comm, request)
                   : MPI_Irecv(part, size, MPI_BYTE, rank, tag, m->comm, request);
        s->n += code == MPI_SUCCESS;
    }
    s->used = s->n > 0;
    *ticket = at;
    return code;
}

static int mpi_send(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    return begin_all(self, true, to, tag, (void *)(uintptr_t)data, bytes, ticket);
}

static int mpi_receive(void *self, int from, int tag, void *data, size_t bytes, int *ticket) {
    return begin_all(self, false, from, tag, data, bytes, ticket);
}

static int mpi_test(void *self, int ticket, int *done) {
    mpi *m = self;
    slot *s = &m->slot[ticket];
    MPI_Status status[PARTS];
    int code = MPI_Testall(s->n, s->request, done, status), all = 0;
    if (code != MPI_SUCCESS || !*done) return code;
    s->used = false;
    if (s->bytes < 0) return 0;
    for (int i = 0, got = 0; i < s->n && code == MPI_SUCCESS; i++, all += got)
        code = MPI_Get_count(&status[i], MPI_BYTE, &got);
    return code != MPI_SUCCESS ? code : all != s->bytes ? MPI_ERR_TRUNCATE : 0;
}

/* A part that ends, well or not, is gone; how many messages are left. */
static int look_at_all(mpi *m) {
    int left = 0;
    for (int i = 0; i < m->n; i++) {
        slot *s = &m->slot[i];
        bool under_way = false;
        for (int k = 0; k < s->n && s->used; k++) {
            int done = 0;
            if (s->request[k] == MPI_REQUEST_NULL) continue;
            if (MPI_Test(&s->request[k], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
                s->request[k] = MPI_REQUEST_NULL;
            under_way |= s->request[k] != MPI_REQUEST_NULL;
        }
        s->used = under_way;
        left += under_way;
    }
    return left;
}

/* A receive that no message has come for is taken back at once. What has begun ends when both ends
 * look at it, so this one does for as long as the other may need to give up, too. */
static int mpi_cancel(void *self) {
    mpi *m = self;
    const double start = MPI_Wtime();
    for (int i = 0; i < m->n; i++) {
        slot *s = &m->slot[i];
        for (int k = 0; k < s->n && s->used && s->bytes >= 0; k++)
            if (s->request[k] != MPI_REQUEST_NULL) MPI_Cancel(&s->request[k]);
    }
    int left = look_at_all(m);
    for (; left > 0 && MPI_Wtime() - start < 1; left = look_at_all(m)) nap();
    return left;
}

/* ---- beginning and end ---- */

static void mpi_abort(void *self, int code) { MPI_Abort(((mpi *)self)->comm, code); }

static void mpi_close(void *self) {
    mpi *m = self;
    MPI_Comm_free(&m->comm);
    if (--talks == 0 && ours) MPI_Finalize();
    free(m->slot);
    free(m);
}

/* Where a container forbids a process to read another's memory, large messages within a host fail:
 * Open MPI's ("Read -1"), and those over UCX, as Debian's MPICH has them, which ends the program.
 * Tried here on the own memory, and said before MPI begins, to 4.x, 5.x and UCX. What goes over
 * memory then would go over TCP in part, where MPICH's end now and then waits without one for a
 * rank that has left: so not on one host. */
static void mind_containers(void) {
    const char *here = getenv("MPI_LOCALNRANKS"), *all = getenv("PMI_SIZE");
    const int one_host = here && all && strcmp(here, all) == 0;
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1) return;
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    setenv("OMPI_MCA_smsc", "^cma", 0);
    setenv("UCX_TLS", one_host ? "^cma,tcp" : "^cma", 0);
}

/* MPI begins once a process: what was closed by the one that had begun it stays closed. */
static bool is_over(void) {
    int over = 0;
    return MPI_Finalized(&over) == MPI_SUCCESS && over;
}

static int begin(int *level) {
    int there = 0, code = MPI_Initialized(&there);
    if (code == MPI_SUCCESS && there) return MPI_Query_thread(level);
    if (code != MPI_SUCCESS) return code;
    mind_containers();
    code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, level);
    ours = code == MPI_SUCCESS;
    return code;
}

/* Who has begun MPI for a program of one thread is to say that there are more, of which one calls
 * it. */
static bool allows_threads(int level, char *message, size_t bytes) {
    if (level >= MPI_THREAD_FUNNELED) return true;
    snprintf(message, bytes, "MPI has begun for a program of one thread (MPI_THREAD_SINGLE)%s",
             ours ? ", and gives no more; this MPI was built without threads"
                  : "; begin it with MPI_Init_thread and MPI_THREAD_FUNNELED");
    return false;
}

/* A communicator of our own, which is where ranks first speak to each other; false: some have not
 * answered in time. */
static bool join(mpi *m, double timeout, int *code) {
    MPI_Request request;
    int done = 0;
    const double start = MPI_Wtime();
    *code = MPI_Comm_idup(MPI_COMM_WORLD, &m->comm, &request);
    while (*code == MPI_SUCCESS && !done) {
        *code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (done || *code != MPI_SUCCESS) break;
        if (MPI_Wtime() - start > timeout) return false;
        nap();
    }
    if (*code == MPI_SUCCESS) *code = MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN);
    return true;
}

/* The same while the world's errors come back, which else end a program. */
static bool join_quietly(mpi *m, double timeout, int *code) {
    MPI_Errhandler before;
    *code = MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before);
    if (*code != MPI_SUCCESS) return true;
    *code = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    bool came = *code != MPI_SUCCESS || join(m, timeout, code);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, before);
    MPI_Errhandler_free(&before);
    return came;
}

/* "Open MPI 4.1.4", "MPICH 4.0.2" of the library's own long text. */
static void find_name(mpi *m) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = 0;
    const char *name = strstr(text, "Open MPI");
    snprintf(m->name, sizeof m->name, "%.60s", name ? name : text);
    for (char *c = m->name; *c; c++)
        if (*c == '\t') *c = ' ';
    static const char *const between[] = {" v", " Version:"}; /* a name and a number */
    for (int i = 0; i < 2; i++) {
        char *at = strstr(m->name, between[i]), *number = at ? at + strlen(between[i]) : NULL;
        if (number) number += strspn(number, " "), memmove(at + 1, number, strlen(number) + 1);
    }
}

static int find_place(mpi *m) {
    pf_transport *t = &m->transport;
    *t = (pf_transport){.size = sizeof *t,
                        .abi = PF_TRANSPORT_ABI,
                        .self = m,
                        .name = m->name,
                        .send = mpi_send,
                        .receive = mpi_receive,
                        .test = mpi_test,
                        .cancel = mpi_cancel,
                        .abort = mpi_abort,
                        .close = mpi_close};
    int code = MPI_Comm_rank(m->comm, &t->rank);
    return code == MPI_SUCCESS ? MPI_Comm_size(m->comm, &t->ranks) : code;
}

/* MPI's end would wait for the others, who may be why this has failed: it stays begun, for whoever
 * tries again, but where this rank is the only one. */
static int give_up(char *message, size_t bytes, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0, ranks = 0, there = 0;
    MPI_Initialized(&there);
    if (there) MPI_Error_string(code, text, &length);
    snprintf(message, bytes, "MPI's error %d%s%s", code, there ? ": " : "", text);
    if (ours && talks == 0 && MPI_Comm_size(MPI_COMM_WORLD, &ranks) == MPI_SUCCESS && ranks == 1)
        MPI_Finalize();
    return 1;
}

__attribute__((visibility("default"))) int
pf_transport_open(pf_transport **transport, double timeout, char *message, size_t bytes) {
    if (is_over()) {
        snprintf(message, bytes, "MPI has been finalised in this process, and begins once in each");
        return 1;
    }
    int level = MPI_THREAD_FUNNELED;
    mpi *m = calloc(1, sizeof *m);
    int code = m ? begin(&level) : MPI_ERR_NO_MEM;
    if (code == MPI_SUCCESS && !allows_threads(level, message, bytes)) {
        free(m);
        return 1;
    }
    if (code == MPI_SUCCESS && !join_quietly(m, timeout, &code)) {
        snprintf(message, bytes,
                 "no answer from all ranks for %g s: if hosts have networks that the others don't "
                 "reach (docker0, virbr0), name the one that they do: "
                 "OMPI_MCA_btl_tcp_if_include=eth0",
                 timeout);
        return 1; /* m stays: MPI writes to it should they come */
    }
    if (code == MPI_SUCCESS) code = find_place(m);
    if (code != MPI_SUCCESS) {
        free(m);
        return give_up(message, bytes, code);
    }
    find_name(m);
    talks++;
    *transport = &m->transport;
    return 0;
}
