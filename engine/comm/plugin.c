/*
 * plugin.c - the transport as a plugin, found when ranks are there: the engine links no MPI.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "comm.h"

enum { PATH_ROOM = 4096 };
static const char PLUGIN[] = "libperformer_mpi.so";

/* The file of this code: a library, or the program that it is linked into, which dladdr knows by
 * the word that it was called with alone. */
static bool find_own_file(char out[PATH_ROOM]) {
    union {
        int (*function)(const pf_engine *engine);
        void *object; /* as dladdr asks for it */
    } self = {.function = pf_comm_ranks};
    Dl_info info, program;
    if (!dladdr(self.object, &info) || !info.dli_fname) return false;
    const void *headers = (const void *)getauxval(AT_PHDR);
    ssize_t n;
    if (dladdr(headers, &program) && program.dli_fbase == info.dli_fbase) {
        n = readlink("/proc/self/exe", out, PATH_ROOM - 1);
        if (n > 0) out[n] = 0;
    } else {
        n = snprintf(out, PATH_ROOM, "%s", info.dli_fname);
    }
    return n > 0 && n < PATH_ROOM && strchr(out, '/');
}

/* The plugin in `where`, as seen from the folder of this code, never from the one that a program is
 * called in. NULL: it is not there. */
static void *load_beside(const char *where) {
    char own[PATH_ROOM], path[2 * PATH_ROOM];
    if (!find_own_file(own)) return NULL;
    *strrchr(own, '/') = 0;
    snprintf(path, sizeof path, "%s/%s%s", own, where, PLUGIN);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
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
