/* mapping.c - see mapping.h. */
#include "mapping.h"

#include <stdatomic.h>
#include <sys/mman.h>

struct pf_mapping {
    pf_heap *heap;
    atomic_int refs;
    void *data;
    size_t bytes;
};

/* Empty files can't be mapped, and there are file systems that map nothing. */
int pf_mapping_open(pf_mapping **mapping, pf_heap *heap, const pf_reader *file) {
    struct stat info;
    *mapping = NULL;
    if (pf_file_calls()->stat(file->fd, &info) < 0) return pf_file_fail("look at", file->path);
    if (info.st_mode & S_IWOTH) {
        return pf_fail(PF_EIO,
                       "map %s: anybody may write to it, and what is mapped must stay as it is; "
                       "take that right away, or load it without mapping",
                       file->path);
    }
    size_t bytes = (size_t)file->size;
    void *data = bytes ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file->fd, 0) : MAP_FAILED;
    if (data == MAP_FAILED) return PF_OK;
    pf_mapping *m = pf_heap_alloc(heap, sizeof *m);
    if (!m) {
        munmap(data, bytes);
        return PF_ENOMEM;
    }
    *m = (pf_mapping){.heap = heap, .data = data, .bytes = bytes};
    atomic_init(&m->refs, 1);
    *mapping = m;
    return PF_OK;
}

const char *pf_mapping_data(const pf_mapping *mapping) { return mapping->data; }

static void let_go(void *context) {
    pf_mapping *m = context;
    if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) return;
    munmap(m->data, m->bytes);
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
