/*
 * performer_comm.h - the page of Performer's public interface for training on several ranks: one
 * process each, on one machine or many, that train one model together. performer.h's manners hold
 * here.
 *
 * What the ranks say goes over a transport (performer_transport.h); MPI is one, a plugin that is
 * found when a launcher (mpirun, srun) has started several. An engine without ranks is rank 0 of
 * one, where each verb here is the identity and costs a comparison.
 *
 * Verbs are collective: every rank calls them in the same order. Each returns the same status on
 * every rank, and of a failure the message names the rank that it happened to. A rank that has
 * failed elsewhere comes to the next verb all the same, with its status in place of its part:
 * pf_comm_agree(engine, status). A rank that doesn't answer in time, or is at another verb, ends
 * the talk for good: from then on all verbs give that status.
 *
 * A step of training over ranks: pf_optimizer_set_lanes once; then for each lane of this rank its
 * forward and backward and pf_optimizer_fold, before the last backward pf_optimizer_overlap, if
 * what it completes is to travel meanwhile; then pf_optimizer_step. The bits are the same for any
 * number of ranks from 1 to that of lanes.
 */
#ifndef PERFORMER_COMM_H
#define PERFORMER_COMM_H

#include "performer.h"
#include "performer_transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- ranks -------------------------------------------------------------------------------- */

typedef struct {
    size_t size;
    const char *PF_NULLABLE file; /* the plugin; NULL: $PERFORMER_TRANSPORT, or MPI's where it is */
    double timeout;               /* seconds a rank is waited for; 0: 60 */
} pf_comm_options;
#define PF_COMM_OPTIONS_DEFAULT ((pf_comm_options){.size = sizeof(pf_comm_options)})

/* How many ranks a launcher (mpirun, Slurm) says that it has started; 0: none has. */
PF_API int pf_comm_launched(void);
/* Which of them this one is, as the launcher says, before anything is opened; 0: none has. */
PF_API int pf_comm_launched_rank(void);
/* The ranks that a launcher has started become the engine's; where none has started several and no
 * file is named, nothing happens: there is one. PF_ENOTFOUND without a plugin, PF_EINVAL where the
 * plugin sees another number of ranks than the launcher. All ranks come here. */
PF_API int pf_comm_launch(pf_engine *engine, const pf_comm_options *PF_NULLABLE options);
/* Ranks over a transport of the host's, which is the engine's from here on, also after a failure.
 * timeout: seconds, 0: 60. host: the name of this machine in messages, NULL: its own. Another
 * version is refused; where processors differ, all engines add by the lowest level of kernels from
 * here on. */
PF_API int pf_comm_open(pf_engine *engine, pf_transport *transport, double timeout,
                        const char *PF_NULLABLE host);
/* All ranks come here; that one has not within the timeout is logged. Closing the engine does it
 * first of all. */
PF_API void pf_comm_close(pf_engine *engine);
/* A verb: rows in segments (pf_optimizer_backward_segments) are shared by so many ranks each, side
 * by side: ranks 0 .. n - 1 have one row, the next n another one at the same time. n divides the
 * ranks, and is the same on all; until it is called all ranks share each row. */
PF_API int pf_comm_row_ranks(pf_engine *engine, int ranks);
/* Ends every rank, with an exit code, where the transport can; for who can't come to the others, of
 * whom none knows of a talk that is lost. It may return, or never: who owns the process leaves with
 * the same code, and has seen to it before that it does so within some seconds (a thread that
 * sleeps and calls _exit). The engine itself never leaves. */
PF_API void pf_comm_abort(pf_engine *engine, int code);

typedef struct {
    size_t size;
    int rank, ranks;             /* 0 of 1 without any */
    int local_rank, local_ranks; /* among those whose machine has this one's name */
    const char *transport;       /* "Open MPI 4.1.4"; NULL: none. Good until the ranks close */
    double waited;               /* seconds, for other ranks, since they opened */
    bool lost;                   /* the talk has ended for good: only pf_comm_abort is left */
    int hosts;                   /* machines, by their names */
    int cpus, cpus_free; /* that this process may use, and could if it were not bound; 0: unknown */
    const char *warnings; /* what may cost bits or time, the same on all ranks, for rank 0 to show:
                             lines that end in \n, or "". Good until the ranks close */
    int row_ranks;        /* that share a row: pf_comm_row_ranks */
} pf_comm_info;
PF_API int pf_comm_about(const pf_engine *engine, pf_comm_info *info);
/* The name of a rank's machine; NULL without ranks. */
PF_API const char *pf_comm_host(const pf_engine *engine, int rank);
/* One rank is about to work alone, reading or writing a large file: from here on a wait of this
 * rank lasts so many seconds at least; 0: as long as the ranks were opened with. */
PF_API void pf_comm_patience(pf_engine *engine, double seconds);
/* What messages call the time: "... of step 281". */
PF_API void pf_comm_at(pf_engine *engine, uint64_t step);

/* ---- verbs -------------------------------------------------------------------------------- */

/* `status`, or that of the lowest rank that failed, with its message: what one rank can't do, none
 * does. */
PF_API int pf_comm_agree(pf_engine *engine, int status);
/* The same at the end of work that has verbs in it: where the last of them has failed, all know
 * that, and nobody is asked again. */
PF_API int pf_comm_settle(pf_engine *engine, int status);

/* The same, and what the ranks say of themselves becomes what all say together. */
typedef struct {
    size_t size;
    uint64_t flags;   /* or-ed */
    int64_t count[4]; /* added; a sum beyond 64 bits fails on all */
    double most;      /* the largest ... */
    int most_of;      /* ... and whose it is, of the lowest rank; set by the call */
} pf_comm_word;
PF_API int pf_comm_agree_on(pf_engine *engine, int status, pf_comm_word *PF_NULLABLE word);

/* Those below begin with pf_comm_agree(status): none moves a byte unless all can.
 * What `root` has at `data` all have there. */
PF_API int pf_comm_share(pf_engine *engine, int status, int root, void *data, size_t bytes);
/* all[r] <- the `bytes` bytes of rank r's `own`: bytes * ranks in all. */
PF_API int pf_comm_collect(pf_engine *engine, int status, const void *own, size_t bytes, void *all);
/* The same where rank r has bytes[r], which everybody knows: one behind the other. */
PF_API int pf_comm_collect_all(pf_engine *engine, int status, const void *own, const size_t *bytes,
                               void *all);

#ifdef __cplusplus
}
#endif

#endif
