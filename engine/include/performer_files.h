/*
 * performer_files.h - the page of Performer's public interface for files: how the engine comes at
 * them, which a host may take into its own hands, and files that lie in memory. performer.h
 * includes it; its manners hold here.
 *
 * Every call that takes a path goes one way to what it names: through the engine's pf_file_access,
 * the host's or the C library's. Nothing else of the engine touches a file.
 *
 * A path that begins with "memory:" ("memory:run/step-7") names a file or folder of the engine's
 * own, in its heap and its budget, whatever access the host gave. All calls take such paths: so
 * tensors, models, whole runs, states, streams and data are loaded from memory and saved to it.
 * They are gone when the engine closes.
 */
#ifndef PERFORMER_FILES_H
#define PERFORMER_FILES_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- access to files -------------------------------------------------------------------
 * Functions that answer 0 or more, or the negative of a number of errno.h: -ENOENT (not there),
 * -EEXIST, -ENOSPC, -EINTR (was not done: ask again), -ENOSYS (is not offered) and their like. The
 * engine's message says what it was about to do, with which path, and what the number means, or in
 * its place the text that the function left with pf_set_error.
 * They are called by the thread that called the engine. Paths are as the caller of the engine wrote
 * them, with "/" between their parts. */

typedef enum {
    PF_ENTRY_FILE,   /* bytes that can be read anywhere */
    PF_ENTRY_FOLDER, /* names of files and folders */
    PF_ENTRY_LINK,   /* stands for another path */
    PF_ENTRY_STREAM, /* a pipe or its like: is read once, front to back */
    PF_ENTRY_OTHER   /* a device: neither is read nor written */
} pf_entry_kind;

typedef struct {
    size_t size;
    pf_entry_kind kind;
    int64_t bytes;           /* of a file */
    int64_t modified;        /* when, in nanoseconds; a change must change it. 0: not known */
    uint64_t volume, number; /* together one of a kind: what two paths name is the same or not */
    unsigned mode;           /* permissions, as POSIX has them; 0: there are none */
} pf_file_info;

typedef enum {
    PF_OPEN_READ,   /* a file, to be read at any place; must not wait for anything */
    PF_OPEN_STREAM, /* the same, or a stream; the path "-" is the standard input */
    PF_OPEN_NEW,    /* an empty file that must not be there yet (-EEXIST), to be written */
    PF_OPEN_FOLDER  /* a folder, to be synced or locked */
} pf_open_how;

/* Called with each name of a folder; a negative answer ends the list, and is its answer. */
typedef int (*pf_entry_fn)(void *to, const char *name);

/* The first four are needed. Where the others are NULL:
 *   write, rename, make_dir, remove   the files can't be written: EROFS
 *   list       no folder can be listed: a run's checkpoint is the one that LATEST names
 *   sync       what was written needs no sync
 *   lock       two writers are not kept apart
 *   look       path by path it is opened and asked; there are no links
 *   read_link  links lead nowhere
 *   exchange   two folders change places by renames, between which a reader finds the old one
 *   map        what would be mapped is read
 * The context and all functions must be good as long as anything that was made in the engine. */
struct pf_file_access {
    size_t size;
    void *context;
    /* *file: what the others are given. mode: permissions of a new file, 0 for the usual ones. */
    int (*open)(void *context, const char *path, pf_open_how how, unsigned mode, void **file);
    int (*about)(void *context, void *file, pf_file_info *info); /* fills all but size */
    /* At most `bytes` from `offset`: how many; 0: the end. Of a stream the offset is where the last
     * one ended; -EAGAIN says that nothing came for a while (a tenth of a second), so that the
     * engine can look whether it is to go on. */
    int64_t (*read_at)(void *context, void *file, int64_t offset, void *out, size_t bytes);
    int (*close)(void *context, void *file); /* the file is closed whatever is answered */
    /* Behind what was written: how many of `bytes`, at least one. */
    int64_t (*write)(void *context, void *file, const void *in, size_t bytes);
    /* Brings a file's bytes, or a folder's names, to where they outlast a loss of power. */
    int (*sync)(void *context, void *file);
    /* The folder is this file's alone until it is closed, or its process has ended. Does not wait:
     * -EWOULDBLOCK. Needs `volume` and `number`. */
    int (*lock)(void *context, void *file);
    /* What stands at a path, links not followed. */
    int (*look)(void *context, const char *path, pf_file_info *info);
    /* The path that a link stands for, without a 0: how many bytes. */
    int64_t (*read_link)(void *context, const char *path, char *out, size_t bytes);
    /* Each name once, but "." and ".."; `each` may remove what it is told of. */
    int (*list)(void *context, const char *path, pf_entry_fn each, void *to);
    /* In one step, also where `to` is there: a file, or a folder that holds nothing. A folder with
     * something in it is in the way (-ENOTEMPTY). */
    int (*rename)(void *context, const char *from, const char *to);
    int (*exchange)(void *context, const char *a, const char *b); /* in one step */
    int (*make_dir)(void *context, const char *path);
    int (*remove)(void *context,
                  const char *path); /* a file, a link, a folder that holds nothing */
    /* The bytes of a file that is open for reading, as they lie there, until unmap. Who gives them
     * sees to it that they stay what they are. */
    int (*map)(void *context, void *file, size_t bytes, const void **data);
    void (*unmap)(void *context, const void *data, size_t bytes);
};

/* The C library's, to be called by a host's own. */
PF_API const pf_file_access *pf_file_system(void);
/* The engine's access from now on; NULL: the C library's. Copied. Files that are open go on. */
PF_API int pf_engine_files(pf_engine *engine, const pf_file_access *PF_NULLABLE access);
/* For a while: whatever is opened goes to `access`, "memory:" too, as for a script that is given no
 * files but these. It is borrowed, also for what stays open in it. NULL: to the engine's own again.
 * Gives what stood so before, for who puts it back. */
PF_API const pf_file_access *pf_engine_lend_files(pf_engine *engine,
                                                  const pf_file_access *PF_NULLABLE access);

/* ---- single files ----------------------------------------------------------------------
 * Through the engine's access, or in memory. */

PF_API int pf_file_size(pf_engine *engine, const char *path, int64_t *bytes);
/* Exactly so many bytes from `offset`; PF_EFORMAT where the file ends before, and the message says
 * how many it has. */
PF_API int pf_file_read(pf_engine *engine, const char *path, int64_t offset, void *out,
                        size_t bytes);
/* All of the file, in one step: written beside, synced, renamed. */
PF_API int pf_file_write(pf_engine *engine, const char *path, const void *PF_NULLABLE data,
                         size_t bytes);
/* A file, or a folder with all that is in it. */
PF_API int pf_file_remove(pf_engine *engine, const char *path);
PF_API int pf_file_make_folder(pf_engine *engine, const char *path); /* with those above it */
PF_API int pf_file_list(pf_engine *engine, const char *path, pf_entry_fn each,
                        void *PF_NULLABLE to);

/* A file in memory of the caller's own bytes, which are not copied: they must stay as they are
 * until the file is removed or replaced, or the engine closes. The folder that it is in must be
 * there (pf_file_make_folder); a model is all files of its checkpoint folder. */
PF_API int pf_memory_lend(pf_engine *engine, const char *path, const void *data, size_t bytes);
/* Where the bytes of a file in memory lie: borrowed until it is removed or replaced. */
PF_API int pf_memory_get(pf_engine *engine, const char *path, const void **data, size_t *bytes);

/* A disk in memory by itself, as an access that a host hands on: to the engine, or to whom it lets
 * have no other files. It knows paths that begin with "memory:" alone, and is in the engine's heap.
 * The access is borrowed, and nothing of it is open when the files are closed. */
typedef struct pf_memory_files pf_memory_files;
PF_API int pf_memory_files_open(pf_memory_files **files, pf_engine *engine);
PF_API const pf_file_access *pf_memory_files_access(const pf_memory_files *files);
PF_API void pf_memory_files_close(pf_memory_files **files);

#ifdef __cplusplus
}
#endif

#endif
