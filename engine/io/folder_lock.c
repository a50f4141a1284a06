/*
 * folder_lock.c - see folder_lock.h. A lock belongs to the descriptor that took it, so that
 * an engine's own saves would meet the lock that it holds: what is held stands in a list of the
 * process, by device and inode, since a folder has many paths.
 */
#include "folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#include "file.h"

typedef struct held_run {
    struct held_run *next;
    const pf_heap *heap; /* of the engine that holds it: the same until the engine has closed */
    dev_t device;
    ino_t inode;
    int fd;
} held_run;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static held_run *all;

/* Does this engine (NULL: one of the process) hold the folder that `info` is of? */
static bool is_held(const pf_engine *engine, const struct stat *info) {
    bool found = false;
    pthread_mutex_lock(&mutex);
    for (const held_run *h = all; h && !found; h = h->next) {
        found = (!engine || h->heap == engine->heap) && h->device == info->st_dev &&
                h->inode == info->st_ino;
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

static int open_run(int *fd, struct stat *info, const char *run) {
    const pf_file_ops *io = pf_file_calls();
    do *fd = io->open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (*fd < 0 && errno == EINTR);
    if (*fd < 0) return pf_file_fail("open", run);
    if (io->stat(*fd, info) == 0) return PF_OK;
    int status = pf_file_fail("look at", run);
    io->close(*fd);
    return status;
}

/* 1: locked; 0: the file system has no locks; PF_ESTATE. The descriptor stays open. */
static int lock(int fd, const char *run) {
    int result;
    do result = pf_file_calls()->lock(fd);
    while (result < 0 && errno == EINTR);
    if (result == 0) return 1;
    if (errno != EWOULDBLOCK) return 0;
    return pf_fail(PF_ESTATE, "checkpoint: another writer is at work in %s", run);
}

int pf_folder_lock_take(pf_folder_lock *l, const pf_engine *engine, const char *run) {
    struct stat info;
    *l = (pf_folder_lock){.fd = -1};
    PF_TRY(open_run(&l->fd, &info, run));
    bool held = is_held(engine, &info);
    int status = held ? 0 : lock(l->fd, run);
    l->alone = held || status > 0;
    if (status <= 0) pf_folder_lock_drop(l);
    return status < 0 ? status : PF_OK;
}

void pf_folder_lock_drop(pf_folder_lock *l) {
    if (l->fd >= 0) pf_file_calls()->close(l->fd);
    l->fd = -1;
}

/* ---- for long ---- */

static void let_go(pf_engine *engine, void *marker) {
    (void)marker;
    pthread_mutex_lock(&mutex);
    for (held_run **at = &all; *at;) {
        held_run *h = *at;
        if (h->heap != engine->heap) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        pf_file_calls()->close(h->fd);
        pf_heap_free(engine->heap, h, sizeof *h);
    }
    pthread_mutex_unlock(&mutex);
}

static int remember(pf_engine *engine, int fd, const struct stat *info) {
    held_run *h = pf_heap_alloc(engine->heap, sizeof *h);
    if (!h) return PF_ENOMEM;
    *h = (held_run){.heap = engine->heap, .device = info->st_dev, .inode = info->st_ino, .fd = fd};
    pthread_mutex_lock(&mutex);
    h->next = all;
    all = h;
    pthread_mutex_unlock(&mutex);
    if (!engine->own[PF_OWN_RUNS].thing) pf_engine_own(engine, PF_OWN_RUNS, &all, let_go);
    return PF_OK;
}

int pf_folder_hold(pf_engine *engine, const char *run) {
    struct stat info;
    int fd;
    PF_TRY(pf_dir_make(run));
    PF_TRY(open_run(&fd, &info, run));
    int status = is_held(engine, &info) ? 0 : lock(fd, run);
    if (status > 0) {
        status = remember(engine, fd, &info);
        if (status >= 0) return PF_OK;
    }
    pf_file_calls()->close(fd);
    return status;
}
