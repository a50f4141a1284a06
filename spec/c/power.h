/*
 * power.h - a disk in memory that remembers what was synced, and what is on it when power fails: an
 * access to files, given to engines as a host's.
 *
 * A file has the bytes that were written and those that were synced. A folder has what was synced
 * of its names, and a list of changes since: each gives one or two names to what is to stand under
 * them, so that any of them may have reached the disk without the others. A sync of a folder brings
 * its changes there, in their order; one of a file its bytes, not its name.
 *
 * power_fail makes of it the disk that is found afterwards.
 */
#ifndef PF_POWER_H
#define PF_POWER_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "performer.h"

enum { POWER_NODES = 4096, POWER_NAMES = 64, POWER_CHANGES = 256, POWER_NAME = 72 };

/* What stands under a name of a folder; node 0: nothing. */
typedef struct {
    int folder, node;
    char name[POWER_NAME];
} power_entry;

typedef struct {
    power_entry set[2];
    int n;
} power_change;

typedef struct {
    bool folder;
    char *bytes; /* of a file, as it is now */
    size_t n, synced, capacity;
    power_entry *names; /* (POWER_NAMES) of a folder, as synced */
    int n_names;
} power_node;

typedef struct {
    power_node node[POWER_NODES]; /* 1 is the root, 0 nothing */
    int n_nodes;
    power_change change[POWER_CHANGES]; /* not synced yet, in order */
    int n_changes;
    int open;
    int calls;                    /* that changed something, or synced */
    int syncs, unsync;            /* so far; which of them does nothing (from 0; < 0: all do) */
    void (*after)(void *context); /* after each of the calls, or NULL */
    void *after_context;
    pf_file_access access;
} power_disk;

/* ---- nodes and names ---- */

static inline int power_new(power_disk *d, bool folder) {
    int i = d->n_nodes++;
    if (i >= POWER_NODES) abort();
    d->node[i] = (power_node){.folder = folder};
    if (folder) d->node[i].names = calloc(POWER_NAMES, sizeof(power_entry));
    return i;
}

static inline void power_set_name(power_disk *d, const power_entry *e) {
    power_node *f = &d->node[e->folder];
    int i = 0;
    while (i < f->n_names && strcmp(f->names[i].name, e->name) != 0) i++;
    if (i == POWER_NAMES) abort();
    if (e->node == 0 && i == f->n_names) return;
    f->names[i] = e->node ? *e : f->names[f->n_names - 1];
    if (e->node == 0) f->n_names--;
    if (e->node && i == f->n_names) f->n_names++;
}

/* What stands under a name now: the last change, else what was synced. */
static inline int power_child(const power_disk *d, int folder, const char *name) {
    for (int c = d->n_changes - 1; c >= 0; c--)
        for (int i = d->change[c].n - 1; i >= 0; i--) {
            const power_entry *e = &d->change[c].set[i];
            if (e->folder == folder && strcmp(e->name, name) == 0) return e->node;
        }
    const power_node *f = &d->node[folder];
    for (int i = 0; i < f->n_names; i++)
        if (strcmp(f->names[i].name, name) == 0) return f->names[i].node;
    return 0;
}

/* The folder and the name that a path ends in ("": the folder itself); a negative errno. */
static inline int power_find(const power_disk *d, const char *path, char name[POWER_NAME]) {
    int at = 1;
    name[0] = '\0';
    while (*(path += strspn(path, "/"))) {
        size_t n = strcspn(path, "/");
        if (name[0]) {
            at = power_child(d, at, name);
            if (at == 0) return -ENOENT;
            if (!d->node[at].folder) return -ENOTDIR;
        }
        if (n >= POWER_NAME) return -ENAMETOOLONG;
        memcpy(name, path, n);
        name[n] = '\0';
        if (strcmp(name, ".") == 0) name[0] = '\0';
        path += n;
    }
    return at;
}

static inline int power_node_at(const power_disk *d, const char *path) {
    char name[POWER_NAME];
    int folder = power_find(d, path, name);
    if (folder < 0 || !name[0]) return folder;
    int node = power_child(d, folder, name);
    return node ? node : -ENOENT;
}

/* The names of a folder now, each once: calls `each`. */
static inline int power_each(power_disk *d, int folder, pf_entry_fn each, void *to) {
    static const char *names[POWER_NAMES + 2 * POWER_CHANGES];
    char text[POWER_NAMES][POWER_NAME];
    int n = 0, kept = 0, result = 0;
    for (int i = 0; i < d->node[folder].n_names; i++) names[n++] = d->node[folder].names[i].name;
    for (int c = 0; c < d->n_changes; c++)
        for (int i = 0; i < d->change[c].n; i++)
            if (d->change[c].set[i].folder == folder) names[n++] = d->change[c].set[i].name;
    for (int i = 0; i < n; i++) {
        bool before = false;
        for (int j = 0; j < i; j++) before = before || strcmp(names[i], names[j]) == 0;
        if (before || !power_child(d, folder, names[i])) continue;
        if (kept == POWER_NAMES) abort();
        snprintf(text[kept++], POWER_NAME, "%s", names[i]);
    }
    for (int i = 0; i < kept && result >= 0; i++) result = each(to, text[i]);
    return result;
}

static inline int power_count(void *to, const char *name) { return (void)name, ++*(int *)to, 0; }

static inline bool power_is_empty(power_disk *d, int folder) {
    int n = 0;
    power_each(d, folder, power_count, &n);
    return n == 0;
}

static inline void power_did(power_disk *d) {
    d->calls++;
    if (d->after) d->after(d->after_context);
}

static inline power_change *power_begin(power_disk *d) {
    if (d->n_changes == POWER_CHANGES) abort();
    power_change *c = &d->change[d->n_changes++];
    c->n = 0;
    return c;
}

static inline void power_name(power_change *c, int folder, const char *name, int node) {
    power_entry *e = &c->set[c->n++];
    e->folder = folder;
    e->node = node;
    snprintf(e->name, POWER_NAME, "%s", name);
}

/* ---- the access: a handle is the number of a node ---- */

static inline int power_of(const void *file) { return (int)(intptr_t)file; }

static inline int power_make(power_disk *d, const char *path, bool folder) {
    char name[POWER_NAME];
    int in = power_find(d, path, name);
    if (in < 0) return in;
    if (!name[0] || power_child(d, in, name)) return -EEXIST;
    int node = power_new(d, folder);
    power_name(power_begin(d), in, name, node);
    power_did(d);
    return node;
}

static inline int power_open(void *c, const char *path, pf_open_how how, unsigned mode,
                             void **file) {
    power_disk *d = c;
    (void)mode;
    int node = how == PF_OPEN_NEW ? power_make(d, path, false) : power_node_at(d, path);
    if (node < 0) return node;
    if (how == PF_OPEN_FOLDER && !d->node[node].folder) return -ENOTDIR;
    d->open++;
    *file = (void *)(intptr_t)node;
    return 0;
}

static inline void power_tell(power_disk *d, int node, pf_file_info *info) {
    info->kind = d->node[node].folder ? PF_ENTRY_FOLDER : PF_ENTRY_FILE;
    info->bytes = (int64_t)d->node[node].n;
    info->modified = (int64_t)d->node[node].n + 1;
    info->volume = (uint64_t)(uintptr_t)d;
    info->number = (uint64_t)node;
}

static inline int power_about(void *c, void *file, pf_file_info *info) {
    return power_tell(c, power_of(file), info), 0;
}

static inline int power_look(void *c, const char *path, pf_file_info *info) {
    int node = power_node_at(c, path);
    if (node > 0) power_tell(c, node, info);
    return node < 0 ? node : 0;
}

static inline int64_t power_read_at(void *c, void *file, int64_t at, void *out, size_t n) {
    const power_node *f = &((power_disk *)c)->node[power_of(file)];
    if (f->folder) return -EISDIR;
    size_t left = (size_t)at < f->n ? f->n - (size_t)at : 0, got = n < left ? n : left;
    if (got > 0) memcpy(out, f->bytes + at, got);
    return (int64_t)got;
}

static inline int64_t power_write(void *c, void *file, const void *in, size_t n) {
    power_disk *d = c;
    power_node *f = &d->node[power_of(file)];
    if (f->n + n > f->capacity) {
        f->capacity = 2 * (f->n + n);
        f->bytes = realloc(f->bytes, f->capacity);
        if (!f->bytes) abort();
    }
    memcpy(f->bytes + f->n, in, n);
    f->n += n;
    power_did(d);
    return (int64_t)n;
}

static inline bool power_concerns(const power_change *c, int folder) {
    return c->set[0].folder == folder || (c->n == 2 && c->set[1].folder == folder);
}

static inline int power_sync(void *c, void *file) {
    power_disk *d = c;
    int node = power_of(file), kept = 0;
    if (d->syncs++ != d->unsync) {
        d->node[node].synced = d->node[node].n;
        for (int i = 0; i < d->n_changes && d->node[node].folder; i++) {
            power_change *change = &d->change[i];
            if (!power_concerns(change, node))
                d->change[kept++] = *change;
            else
                for (int k = 0; k < change->n; k++) power_set_name(d, &change->set[k]);
        }
        if (d->node[node].folder) d->n_changes = kept;
    }
    power_did(d);
    return 0;
}

static inline int power_lock(void *c, void *file) { return (void)c, (void)file, 0; }

static inline int power_close(void *c, void *file) {
    return (void)file, ((power_disk *)c)->open--, 0;
}

static inline int power_list(void *c, const char *path, pf_entry_fn each, void *to) {
    power_disk *d = c;
    int node = power_node_at(d, path);
    if (node < 0) return node;
    return d->node[node].folder ? power_each(d, node, each, to) : -ENOTDIR;
}

static inline int power_rename(void *c, const char *from, const char *to) {
    power_disk *d = c;
    char old[POWER_NAME], name[POWER_NAME];
    int node = power_node_at(d, from), in = power_find(d, from, old), into;
    if (node < 0) return node;
    if ((into = power_find(d, to, name)) < 0) return into;
    if (!name[0] || !old[0]) return -EINVAL;
    int there = power_child(d, into, name);
    if (there == node) return 0;
    if (there && d->node[there].folder != d->node[node].folder)
        return d->node[there].folder ? -EISDIR : -ENOTDIR;
    if (there && d->node[there].folder && !power_is_empty(d, there)) return -ENOTEMPTY;
    power_change *change = power_begin(d);
    power_name(change, in, old, 0);
    power_name(change, into, name, node);
    power_did(d);
    return 0;
}

static inline int power_exchange(void *c, const char *a, const char *b) {
    power_disk *d = c;
    char name_a[POWER_NAME], name_b[POWER_NAME];
    int node_a = power_node_at(d, a), node_b = power_node_at(d, b);
    if (node_a < 0 || node_b < 0) return node_a < 0 ? node_a : node_b;
    int in_a = power_find(d, a, name_a), in_b = power_find(d, b, name_b);
    power_change *change = power_begin(d);
    power_name(change, in_a, name_a, node_b);
    power_name(change, in_b, name_b, node_a);
    power_did(d);
    return 0;
}

static inline int power_make_dir(void *c, const char *path) {
    int node = power_make(c, path, true);
    return node < 0 ? node : 0;
}

static inline int power_remove(void *c, const char *path) {
    power_disk *d = c;
    char name[POWER_NAME];
    int node = power_node_at(d, path);
    if (node < 0) return node;
    if (d->node[node].folder && !power_is_empty(d, node)) return -ENOTEMPTY;
    int in = power_find(d, path, name);
    power_name(power_begin(d), in, name, 0);
    power_did(d);
    return 0;
}

/* ---- the disk ---- */

static inline power_disk *power_open_disk(void) {
    static const pf_file_access calls = {
        .size = sizeof calls,
        .open = power_open,
        .about = power_about,
        .read_at = power_read_at,
        .close = power_close,
        .write = power_write,
        .sync = power_sync,
        .lock = power_lock,
        .look = power_look,
        .list = power_list,
        .rename = power_rename,
        .exchange = power_exchange,
        .make_dir = power_make_dir,
        .remove = power_remove,
    };
    power_disk *d = calloc(1, sizeof *d);
    if (!d) abort();
    d->access = calls;
    d->access.context = d;
    d->unsync = -1;
    d->n_nodes = 1;
    power_new(d, true);
    return d;
}

static inline void power_close_disk(power_disk **disk) {
    power_disk *d = *disk;
    for (int i = 1; d && i < d->n_nodes; i++) {
        free(d->node[i].bytes);
        free(d->node[i].names);
    }
    free(d);
    *disk = NULL;
}

/* Another disk with the same on it, where nothing is open and nobody is told anything. */
static inline power_disk *power_copy(const power_disk *from) {
    power_disk *d = power_open_disk();
    pf_file_access access = d->access;
    free(d->node[1].names);
    *d = *from;
    d->access = access;
    d->after = NULL;
    d->open = 0;
    d->unsync = -1;
    for (int i = 1; i < d->n_nodes; i++) {
        power_node *n = &d->node[i];
        if (n->bytes) n->bytes = memcpy(malloc(n->capacity), n->bytes, n->n);
        if (n->names)
            n->names = memcpy(malloc(POWER_NAMES * sizeof *n->names), n->names,
                              POWER_NAMES * sizeof *n->names);
    }
    return d;
}

static inline uint64_t power_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* What becomes of bytes that were not synced: they are lost, or the file has its length and zeros
 * in places, as of a file system that wrote lengths before contents. */
static inline void power_lose_bytes(power_node *n, uint64_t *random) {
    size_t from = n->synced;
    if (from == n->n) return;
    switch (power_random(random) % 3) {
    case 0:
        n->n = from;
        break;
    case 1:
        memset(n->bytes + from, 0, n->n - from);
        break;
    default:
        n->n = from + (size_t)power_random(random) % (n->n - from);
    }
}

/* Kinds of loss: 0: all that was not synced; 1: names, not bytes; 2: bytes, not names; from 3 on
 * any part of both, another for each number. */
enum { POWER_KINDS = 4 };

/* The disk as it is found after a loss of power of this kind. */
static inline power_disk *power_fail(const power_disk *from, int kind) {
    power_disk *d = power_copy(from);
    uint64_t random = 0x9e3779b97f4a7c15u * (uint64_t)(kind + 1) + (uint64_t)from->calls;
    for (int i = 1; i < d->n_nodes; i++) {
        power_node *n = &d->node[i];
        if (n->folder || kind == 1) continue;
        if (kind == 0) n->n = n->synced;
        if (kind == 2 || (kind > 2 && power_random(&random) % 2)) power_lose_bytes(n, &random);
    }
    for (int i = 0; i < d->n_changes; i++) {
        bool kept = kind == 2 || (kind > 2 && power_random(&random) % 2);
        for (int k = 0; kept && k < d->change[i].n; k++) power_set_name(d, &d->change[i].set[k]);
    }
    d->n_changes = 0;
    for (int i = 1; i < d->n_nodes; i++) d->node[i].synced = d->node[i].n;
    return d;
}

#endif
