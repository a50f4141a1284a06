/*
 * plugin.c - the transport as a plugin, found when ranks are there: the engine links no MPI.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"

enum { PATH_ROOM = 4096 };
static const char PLUGIN[] = "libperformer_mpi.so";

/* The plugin in `where`, as seen from the folder of this code: a library, or the program that it is
 * linked into. NULL: it is not there. */
static void *load_beside(const char *where) {
    char path[PATH_ROOM];
    union {
        int (*function)(const pf_engine *engine);
        void *object; /* as dladdr asks for it */
    } self = {.function = pf_comm_ranks};
    Dl_info info;
    if (!dladdr(self.object, &info) || !info.dli_fname) return NULL;
    const char *slash = strrchr(info.dli_fname, '/');
    const int folder = slash ? (int)(slash - info.dli_fname) : 1;
    const int n =
        snprintf(path, PATH_ROOM, "%.*s/%s%s", folder, slash ? info.dli_fname : ".", where, PLUGIN);
    return n < PATH_ROOM ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void *load(const char *file) {
    if (!file) file = getenv("PERFORMER_TRANSPORT");
    if (file) return dlopen(file, RTLD_NOW | RTLD_LOCAL);
    void *plugin = load_beside("");
    if (!plugin) plugin = load_beside("../lib/");
    return plugin ? plugin : dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
}

int pf_transport_load(pf_transport **transport, const char *file, double timeout) {
    char message[PF_COMM_TEXT] = "";
    union {
        void *object;
        int (*function)(pf_transport **transport, double timeout, char *message, size_t bytes);
    } open;
    *transport = NULL;
    void *plugin = load(file);
    if (!plugin) {
        const char *why = dlerror();
        return pf_fail(PF_ENOTFOUND,
                       "no transport: %s; build libperformer_mpi.so with the "
                       "MPI of this machine, or name it in PERFORMER_TRANSPORT",
                       why ? why : "it can't be loaded");
    }
    open.object = dlsym(plugin, "pf_transport_open");
    if (!open.object)
        return pf_fail(PF_EFORMAT,
                       "ranks: the file is no transport: it lacks the function that opens one");
    timeout = timeout > 0 ? timeout : PF_COMM_TIMEOUT;
    if (open.function(transport, timeout, message, sizeof message) != 0 || !*transport) {
        *transport = NULL;
        return pf_fail(PF_EIO, "ranks: the transport does not open: %s", message);
    }
    return PF_OK;
}
