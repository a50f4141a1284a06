/*
 * plugin.c - the transport as a plugin, found when ranks are there: the engine links no MPI. What
 * must hold: a run that a launcher has started several times over never trains several times in one
 * folder for want of the plugin, so what a launcher says is asked first.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"

enum { PATH_ROOM = 4096 };
static const char PLUGIN[] = "libperformer_mpi.so";

int pf_ranks_launched(void) {
    /* Slurm names its tasks in a batch script, too, which is no step of ranks. */
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE"};
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    for (int i = 0; i < PF_COUNT(names); i++) {
        const char *text = getenv(names[i]);
        if (text && atoi(text) > 0) return atoi(text);
    }
    return tasks && atoi(tasks) > 1 ? atoi(tasks) : 0;
}

/* The plugin's path in the folder of this library; false: it is not known. */
static bool beside(char path[PATH_ROOM]) {
    union {
        int (*function)(void);
        void *object; /* as dladdr asks for it */
    } self = {.function = pf_ranks_launched};
    Dl_info info;
    if (!dladdr(self.object, &info) || !info.dli_fname) return false;
    const char *slash = strrchr(info.dli_fname, '/');
    int folder = slash ? (int)(slash - info.dli_fname) : 0;
    return slash &&
           snprintf(path, PATH_ROOM, "%.*s/%s", folder, info.dli_fname, PLUGIN) < PATH_ROOM;
}

static void *load(const char *file) {
    char path[PATH_ROOM];
    if (!file) file = getenv("PERFORMER_TRANSPORT");
    if (file) return dlopen(file, RTLD_NOW | RTLD_LOCAL);
    void *plugin = beside(path) ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    return plugin ? plugin : dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
}

int pf_transport_load(pf_transport **transport, const char *file) {
    char message[PF_COMM_TEXT] = "";
    union {
        void *object;
        int (*function)(pf_transport **transport, char *message, size_t bytes);
    } open;
    *transport = NULL;
    void *plugin = load(file);
    if (!plugin) {
        const char *why = dlerror();
        return pf_fail(PF_ENOTFOUND,
                       "ranks: no transport: %s; build libperformer_mpi.so with the "
                       "MPI of this machine, or name it in PERFORMER_TRANSPORT",
                       why ? why : "it can't be loaded");
    }
    open.object = dlsym(plugin, "pf_transport_open");
    if (!open.object)
        return pf_fail(PF_EFORMAT,
                       "ranks: the file is no transport: it lacks the function that opens one");
    if (open.function(transport, message, sizeof message) != 0 || !*transport) {
        *transport = NULL;
        return pf_fail(PF_EIO, "ranks: the transport does not open: %s", message);
    }
    return PF_OK;
}
