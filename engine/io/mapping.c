/* mapping.c - see mapping.h. */
#include "mapping.h"

#include <stdatomic.h>

enum { ANYBODY_WRITES = 2, ALIGNED = 16 };

struct pf_mapping {
    pf_heap *heap;
    atomic_int refs;
    pf_file_access io; /* that mapped it: the engine may have another by now, or have closed */
    const void *data;
    size_t bytes;
};

static void unmap(const pf_mapping *m) { m->io.unmap(m->io.context, m->data, m->bytes); }

/* What can't be mapped, or lies where no tensor can, is read. */
static bool map(pf_mapping *m, const pf_file *file) {
    bool can = m->bytes > 0 && m->io.map && m->io.unmap;
    if (!can || m->io.map(m->io.context, file->handle, m->bytes, &m->data) < 0) return false;
    if ((uintptr_t)m->data % ALIGNED == 0) return true;
    unmap(m);
    return false;
}

/* Empty files can't be mapped, and there are disks that map nothing. */
int pf_mapping_open(pf_mapping **mapping, pf_heap *heap, const pf_reader *file) {
    pf_file_info info;
    *mapping = NULL;
    int result = pf_disk_about(&file->file, &info);
    if (result < 0) return pf_file_fail(result, "look at", file->path);
    if (info.mode & ANYBODY_WRITES) {
        return pf_fail(PF_EIO,
                       "map %s: anybody may write to it, and what is mapped must stay as it is; "
                       "take that right away, or load it without mapping",
                       file->path);
    }
    pf_mapping *m = pf_heap_alloc(heap, sizeof *m);
    if (!m) return PF_ENOMEM;
    *m = (pf_mapping){.heap = heap, .io = *file->file.io, .bytes = (size_t)file->size};
    atomic_init(&m->refs, 1);
    if (map(m, &file->file))
        *mapping = m;
    else
        pf_heap_free(heap, m, sizeof *m);
    return PF_OK;
}

const char *pf_mapping_data(const pf_mapping *mapping) { return mapping->data; }

static void let_go(void *context) {
    pf_mapping *m = context;
    if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) return;
    unmap(m);
    pf_heap_free(m->heap, m, sizeof *m);
}

pf_lender pf_mapping_lender(pf_mapping *mapping) {
    atomic_fetch_add_explicit(&mapping->refs, 1, memory_order_relaxed);
    return (pf_lender){.lends = true, .fixed = true, .release = let_go, .context = mapping};
}

void pf_mapping_close(pf_mapping **mapping) {
    if (*mapping) let_go(*mapping);
    *mapping = NULL;
}
