/*
 * disk_memory.c - files in the memory of an engine, behind paths that begin with "memory:": a tree
 * of nodes in its heap, so that they count in its budget and go when it closes. It is an access to
 * files like a host's. What must hold: a node that was removed or replaced stays until its last
 * handle is closed.
 */
#include <errno.h>
#include <string.h>

#include "disk.h"

enum { MOST_PATH = 4096 }; /* as the system's: a path is walked once a call */

typedef struct node {
    struct node *parent; /* NULL: of the root, and of what was removed */
    struct node *first, *next;
    char *name;
    uint64_t number;
    int64_t changed; /* a count: it is the time of this disk */
    int64_t handles;
    bool folder;
    bool lent; /* the bytes are the caller's */
    uint8_t *bytes;
    int64_t n, capacity;
} node;

struct pf_memory_files {
    pf_heap *heap;
    pf_file_access access;
    node root;
    uint64_t count; /* of nodes so far */
    int64_t clock;
};

/* ---- nodes ---- */

static node *make_node(pf_memory_files *d, const char *name, size_t length, bool folder) {
    pf_heap *heap = d->heap;
    node *n = pf_heap_zalloc(heap, sizeof *n);
    if (!n) return NULL;
    n->name = pf_heap_alloc(heap, length + 1);
    if (!n->name) {
        pf_heap_free(heap, n, sizeof *n);
        return NULL;
    }
    memcpy(n->name, name, length);
    n->name[length] = '\0';
    n->folder = folder;
    n->number = ++d->count;
    n->changed = ++d->clock;
    return n;
}

static void free_bytes(pf_memory_files *d, node *n) {
    if (n->bytes && !n->lent) pf_heap_free(d->heap, n->bytes, (size_t)n->capacity);
    n->bytes = NULL;
    n->n = n->capacity = 0;
    n->lent = false;
}

static void free_node(pf_memory_files *d, node *n) {
    free_bytes(d, n);
    pf_heap_free(d->heap, n->name, strlen(n->name) + 1);
    pf_heap_free(d->heap, n, sizeof *n);
}

static void put_in(pf_memory_files *d, node *parent, node *n) {
    n->parent = parent;
    n->next = parent->first;
    parent->first = n;
    parent->changed = ++d->clock;
}

static void take_out(pf_memory_files *d, node *n) {
    node **at = &n->parent->first;
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    n->parent->changed = ++d->clock;
    n->parent = n->next = NULL;
}

/* Out of the tree; gone, where no handle holds it. */
static void drop(pf_memory_files *d, node *n) {
    take_out(d, n);
    if (n->handles == 0) free_node(d, n);
}

/* ---- paths ---- */

static node *child_of(const node *parent, const char *name, size_t length) {
    for (node *n = parent->first; n; n = n->next)
        if (strlen(n->name) == length && memcmp(n->name, name, length) == 0) return n;
    return NULL;
}

/* Where a path leads: the folder that its last part stands in, and that part; a part of no length
 * is the folder itself. */
typedef struct {
    node *folder;
    const char *name;
    size_t length;
} place;

/* The next part of a path, without the slashes before it. */
static size_t part_of(const char **path) {
    *path += strspn(*path, "/");
    return strcspn(*path, "/");
}

static bool is_up(const char *part, size_t n) { return n == 2 && part[0] == '.' && part[1] == '.'; }

static bool is_here(const char *part, size_t n) { return n == 1 && part[0] == '.'; }

static int find_place(pf_memory_files *d, const char *path, place *to) {
    if (!pf_path_in_memory(path))
        return -EACCES; /* of a disk that a host hands on as all there is */
    if (strnlen(path, MOST_PATH) == MOST_PATH) return -ENAMETOOLONG;
    const char *at = path + sizeof PF_MEMORY_PATH - 1;
    *to = (place){.folder = &d->root, .name = ""};
    for (size_t n; (n = part_of(&at)) > 0; at += n) {
        if (to->length > 0) { /* it was not the last one: so it is a folder */
            node *next = child_of(to->folder, to->name, to->length);
            if (!next) return -ENOENT;
            if (!next->folder) return -ENOTDIR;
            *to = (place){.folder = next, .name = ""};
        }
        if (is_up(at, n))
            to->folder = to->folder->parent ? to->folder->parent : &d->root;
        else if (!is_here(at, n))
            to->name = at, to->length = n;
    }
    return 0;
}

/* *n: what stands there, which may be nothing; *at: where that is, also of a folder that the path
 * ends in by a dot. */
static int find(pf_memory_files *d, const char *path, place *at, node **n) {
    int result = find_place(d, path, at);
    *n = NULL;
    if (result < 0) return result;
    *n = at->length ? child_of(at->folder, at->name, at->length) : at->folder;
    if (at->length == 0 && at->folder->parent) {
        at->folder = (*n)->parent;
        at->name = (*n)->name;
        at->length = strlen(at->name);
    }
    return 0;
}

/* What must stand there. */
static int find_node(pf_memory_files *d, const char *path, node **n) {
    place at;
    int result = find(d, path, &at, n);
    return result >= 0 && !*n ? -ENOENT : result;
}

/* ---- open files ---- */

static int make(pf_memory_files *d, const char *path, bool folder, node **n) {
    place at;
    int result = find(d, path, &at, n);
    if (result < 0) return result;
    if (*n) return -EEXIST;
    *n = make_node(d, at.name, at.length, folder);
    if (!*n) return -ENOMEM;
    put_in(d, at.folder, *n);
    return 0;
}

static int memory_open(void *context, const char *path, pf_open_how how, unsigned mode,
                       void **file) {
    pf_memory_files *d = context;
    node *n;
    (void)mode;
    int result = how == PF_OPEN_NEW ? make(d, path, false, &n) : find_node(d, path, &n);
    if (result < 0) return result;
    if (how == PF_OPEN_FOLDER && !n->folder) return -ENOTDIR;
    n->handles++;
    *file = n;
    return 0;
}

static void tell(const pf_memory_files *d, const node *n, pf_file_info *info) {
    info->kind = n->folder ? PF_ENTRY_FOLDER : PF_ENTRY_FILE;
    info->bytes = n->n;
    info->modified = n->changed;
    info->volume = (uint64_t)(uintptr_t)d;
    info->number = n->number;
}

static int memory_about(void *context, void *file, pf_file_info *info) {
    tell(context, file, info);
    return 0;
}

static int memory_look(void *context, const char *path, pf_file_info *info) {
    node *n;
    int result = find_node(context, path, &n);
    if (result >= 0) tell(context, n, info);
    return result;
}

/* A file that was written gives back what it took too much of: it may stay for long. */
static void fit(pf_memory_files *d, node *n) {
    if (n->lent || n->capacity - n->n <= n->capacity / 8) return;
    uint8_t *fitting = pf_heap_alloc(d->heap, (size_t)n->n);
    if (!fitting) return;
    memcpy(fitting, n->bytes, (size_t)n->n);
    pf_heap_free(d->heap, n->bytes, (size_t)n->capacity);
    n->bytes = fitting;
    n->capacity = n->n;
}

static int memory_close(void *context, void *file) {
    pf_memory_files *d = context;
    node *n = file;
    if (--n->handles > 0) return 0;
    if (!n->parent && n != &d->root)
        free_node(d, n);
    else
        fit(d, n);
    return 0;
}

static int64_t memory_read_at(void *context, void *file, int64_t offset, void *out, size_t bytes) {
    const node *n = file;
    (void)context;
    if (n->folder) return -EISDIR;
    if (offset < 0) return -EINVAL;
    if (offset >= n->n) return 0;
    int64_t left = n->n - offset, got = bytes < (size_t)left ? (int64_t)bytes : left;
    memcpy(out, n->bytes + offset, (size_t)got);
    return got;
}

static int64_t memory_write(void *context, void *file, const void *in, size_t bytes) {
    pf_memory_files *d = context;
    node *n = file;
    if (n->lent || bytes > (size_t)PTRDIFF_MAX / 4) return -EINVAL;
    if (pf_heap_grow(d->heap, (void **)&n->bytes, &n->capacity, n->n + (int64_t)bytes, 1) < 0)
        return -ENOMEM;
    memcpy(n->bytes + n->n, in, bytes);
    n->n += (int64_t)bytes;
    n->changed = ++d->clock;
    return (int64_t)bytes;
}

/* No other engine sees these folders. */
static int memory_lock(void *context, void *file) { return (void)context, (void)file, 0; }

/* ---- names ---- */

static node *hold(node *n) {
    if (n) n->handles++;
    return n;
}

/* Held, so that whatever `each` removes, the next one is a node still; where that one has gone
 * elsewhere, the list ends. */
static int memory_list(void *context, const char *path, pf_entry_fn each, void *to) {
    node *folder;
    int result = find_node(context, path, &folder);
    if (result < 0) return result;
    if (!folder->folder) return -ENOTDIR;
    for (node *n = hold(folder->first), *next; n; n = next) {
        const bool there = result >= 0 && n->parent == folder;
        next = there ? hold(n->next) : NULL;
        if (there) result = each(to, n->name);
        memory_close(context, n);
    }
    return result;
}

static bool lies_in(const node *n, const node *folder) {
    while (n && n != folder) n = n->parent;
    return n != NULL;
}

/* Takes what stands at the place that n is to have out of its way. */
static int make_way(pf_memory_files *d, const node *n, node *there) {
    if (n->folder && !there->folder) return -ENOTDIR;
    if (!n->folder && there->folder) return -EISDIR;
    if (there->first) return -ENOTEMPTY;
    drop(d, there);
    return 0;
}

static int memory_rename(void *context, const char *from, const char *to) {
    pf_memory_files *d = context;
    node *n, *there;
    place at;
    int result = find_node(d, from, &n);
    if (result >= 0) result = find(d, to, &at, &there);
    if (result < 0) return result;
    if (n == there) return 0;
    if (n == &d->root || there == &d->root || lies_in(at.folder, n)) return -EINVAL;
    char *name = pf_heap_alloc(d->heap, at.length + 1);
    if (!name) return -ENOMEM;
    memcpy(name, at.name, at.length);
    name[at.length] = '\0';
    if (there) result = make_way(d, n, there);
    if (result < 0) {
        pf_heap_free(d->heap, name, at.length + 1);
        return result;
    }
    take_out(d, n);
    pf_heap_free(d->heap, n->name, strlen(n->name) + 1);
    n->name = name;
    put_in(d, at.folder, n);
    return 0;
}

static int memory_exchange(void *context, const char *path_a, const char *path_b) {
    pf_memory_files *d = context;
    node *a, *b;
    int result = find_node(d, path_a, &a);
    if (result >= 0) result = find_node(d, path_b, &b);
    if (result < 0) return result;
    if (lies_in(a, b) || lies_in(b, a)) return a == b ? 0 : -EINVAL;
    node *of_a = a->parent, *of_b = b->parent;
    char *name = a->name;
    take_out(d, a), take_out(d, b);
    a->name = b->name, b->name = name;
    put_in(d, of_b, a), put_in(d, of_a, b);
    return 0;
}

static int memory_make_dir(void *context, const char *path) {
    node *n;
    return make(context, path, true, &n);
}

static int memory_remove(void *context, const char *path) {
    node *n;
    int result = find_node(context, path, &n);
    if (result < 0) return result;
    if (!n->parent) return -EBUSY;
    if (n->first) return -ENOTEMPTY;
    drop(context, n);
    return 0;
}

/* ---- the disk ---- */

/* However deep a tree is, without a stack: down to a leaf, and on from its parent. */
static void free_tree(pf_memory_files *d, node *folder) {
    for (node *n = folder; n->first || n != folder;) {
        if (n->first) {
            n = n->first;
            continue;
        }
        node *above = n->parent;
        drop(d, n);
        n = above;
    }
}

/* When an engine closes nothing of it is open any more. */
static void close_disk(pf_engine *engine, void *thing) {
    pf_memory_files *d = thing;
    (void)engine;
    free_tree(d, &d->root);
    pf_heap_free(d->heap, d, sizeof *d);
}

static const pf_file_access calls = {
    .size = sizeof(pf_file_access),
    .open = memory_open,
    .about = memory_about,
    .read_at = memory_read_at,
    .close = memory_close,
    .write = memory_write,
    .lock = memory_lock,
    .look = memory_look,
    .list = memory_list,
    .rename = memory_rename,
    .exchange = memory_exchange,
    .make_dir = memory_make_dir,
    .remove = memory_remove,
};

static pf_memory_files *make_disk(pf_heap *heap) {
    pf_memory_files *d = pf_heap_zalloc(heap, sizeof *d);
    if (!d) return NULL;
    d->heap = heap;
    d->root.name = "";
    d->root.folder = true;
    d->access = calls;
    d->access.context = d;
    return d;
}

static pf_memory_files *disk_of(pf_engine *engine) {
    pf_memory_files *d = engine->own[PF_OWN_FILES].thing;
    if (d || engine->closed) return d;
    d = make_disk(engine->heap);
    if (d) pf_engine_own(engine, PF_OWN_FILES, d, close_disk);
    return d;
}

const pf_file_access *pf_disk_memory(pf_engine *engine) {
    pf_memory_files *d = disk_of(engine);
    return d ? &d->access : NULL;
}

/* ---- public ---- */

static int need_memory(const char *path, const char *where) {
    if (pf_path_in_memory(path)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: '%s' is no path in memory, which begins with \"" PF_MEMORY_PATH "\"", where,
                   path);
}

int pf_memory_get(pf_engine *engine, const char *path, const void **data, size_t *bytes) {
    PF_OPEN(engine);
    PF_NEED(path, data, bytes);
    node *n = NULL;
    *data = NULL;
    *bytes = 0;
    PF_TRY(need_memory(path, __func__));
    pf_memory_files *d = disk_of(engine);
    int result = d ? find_node(d, path, &n) : -ENOMEM;
    if (result >= 0 && n->folder) result = -EISDIR;
    if (result < 0) return pf_file_fail(result, "read", path);
    *data = n->bytes ? (const void *)n->bytes : "";
    *bytes = (size_t)n->n;
    return PF_OK;
}

/* Beside what stands there, whose place it takes when it is whole. */
int pf_memory_lend(pf_engine *engine, const char *path, const void *data, size_t bytes) {
    PF_OPEN(engine);
    PF_NEED(path, data);
    node *n, *there = NULL;
    place at;
    PF_TRY(need_memory(path, __func__));
    pf_memory_files *d = disk_of(engine);
    int result = d ? find(d, path, &at, &there) : -ENOMEM;
    if (result >= 0 && there && there->folder) result = -EISDIR;
    if (result < 0) return pf_file_fail(result, "lend", path);
    if (!(n = make_node(d, at.name, at.length, false))) return PF_ENOMEM;
    if (there) drop(d, there);
    n->bytes = (uint8_t *)(uintptr_t)data;
    n->n = n->capacity = (int64_t)bytes;
    n->lent = true;
    put_in(d, at.folder, n);
    return PF_OK;
}

int pf_memory_files_open(pf_memory_files **files, pf_engine *engine) {
    PF_OUT(files);
    PF_OPEN(engine);
    *files = make_disk(engine->heap);
    if (!*files) return PF_ENOMEM;
    (*files)->access.lock = NULL; /* an engine would hold it longer than these files are open */
    pf_heap_retain(engine->heap);
    return PF_OK;
}

const pf_file_access *pf_memory_files_access(const pf_memory_files *files) {
    return files ? &files->access : NULL;
}

void pf_memory_files_close(pf_memory_files **files) {
    pf_memory_files *d = files ? *files : NULL;
    if (!d) return;
    pf_heap *heap = d->heap;
    *files = NULL;
    close_disk(NULL, d);
    pf_heap_release(heap);
}
