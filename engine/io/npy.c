/*
 * npy.c - tensors from numpy's .npy and .npz, and to them. What must hold: memory is asked for when
 * it is known that the numbers are there; what a tensor can't hold is refused, and says where it
 * stands; every byte of a file belongs to an array.
 */
#include <stdlib.h>
#include <string.h>

#include "named.h"
#include "npy.h"
#include "sort.h"

enum { PIECE = 64 * PF_BYTES_BLOCK }; /* elements between two looks at the cancel flag */

/* ---- bytes in ------------------------------------------------------------------- */

/* A file, or an entry of a zip file. */
typedef struct {
    pf_reader *file;
    pf_unzip *entry; /* NULL: the file */
    int64_t at, size;
} source;

static int read_bytes(source *in, void *out, size_t bytes) {
    if ((int64_t)bytes > in->size - in->at)
        return pf_fail(PF_EFORMAT, "it is cut short: %lld bytes, and no more", (long long)in->size);
    PF_TRY(in->entry ? pf_unzip_read(in->entry, out, bytes)
                     : pf_reader_read(in->file, in->at, out, bytes));
    in->at += (int64_t)bytes;
    return PF_OK;
}

static int read_header(pf_npy *npy, pf_heap *heap, source *in) {
    uint8_t front[12];
    PF_TRY(read_bytes(in, front, 10));
    if (memcmp(front, "\x93NUMPY", 6) != 0) return pf_fail(PF_EFORMAT, "it is no .npy file");
    if (front[6] < 1 || front[6] > 3)
        return pf_fail(PF_EFORMAT, "version %d of the format is not known (1 to 3 are)", front[6]);
    size_t n = front[8] | (size_t)front[9] << 8;
    if (front[6] > 1) {
        PF_TRY(read_bytes(in, front + 10, 2));
        n |= (size_t)front[10] << 16 | (size_t)front[11] << 24;
    }
    if (n > PF_NPY_MOST)
        return pf_fail(PF_EFORMAT, "its header has %zu bytes, at most %d are read", n, PF_NPY_MOST);
    char *text = pf_heap_alloc(heap, n + 1);
    if (!text) return PF_ENOMEM;
    text[n] = 0;
    int status = read_bytes(in, text, n);
    if (status >= 0) status = pf_npy_read_header(npy, text, n);
    pf_heap_free(heap, text, n + 1);
    return status;
}

/* The numbers are all there, and nothing else. */
static int check_size(const pf_npy *npy, const source *in) {
    int64_t bytes = (int64_t)npy->type->bytes;
    bool fits = true, empty = false;
    for (int d = 0; d < npy->rank; d++) {
        if (npy->shape[d] == 0)
            empty = true;
        else
            fits = fits && !__builtin_mul_overflow(bytes, npy->shape[d], &bytes);
    }
    if (!fits) return pf_fail(PF_EFORMAT, "its shape is too large for any file");
    if (empty) bytes = 0;
    if (bytes == in->size - in->at) return PF_OK;
    return pf_fail(PF_EFORMAT, "%s of %s is %lld bytes, behind the header there are %lld",
                   pf_shape_text(npy->rank, npy->shape), npy->type->name, (long long)bytes,
                   (long long)(in->size - in->at));
}

/* Elements in the file's order into a contiguous tensor. */
static int read_elements(pf_engine *engine, const pf_npy *npy, source *in, pf_tensor *to,
                         char *raw) {
    int64_t n = pf_tensor_numel(to), width = (int64_t)npy->type->bytes;
    size_t own = pf_dtype_size(to->dtype);
    char *out = pf_tensor_data(to);
    double bad = 0;
    if (n == 0) return read_bytes(in, raw, 0); /* an entry has a checksum all the same */
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t piece = pf_min(PIECE, n - at);
        PF_TRY(pf_check_cancel(engine));
        PF_TRY(read_bytes(in, raw, (size_t)(piece * width)));
        for (int64_t i = 0; i < piece; i += PF_BYTES_BLOCK) {
            int64_t more = pf_min(PF_BYTES_BLOCK, piece - i);
            int64_t good = pf_bytes_decode(npy->type, npy->big, raw + i * width, more,
                                           out + (size_t)(at + i) * own, &bad);
            if (good < more)
                return pf_fail(PF_EFORMAT, "element %s is %.17g, which %s cannot hold",
                               pf_place(at + i + good), bad, pf_dtype_name(to->dtype));
        }
    }
    return PF_OK;
}

static int read_through(pf_engine *engine, const pf_npy *npy, source *in, pf_tensor *to) {
    size_t bytes = (size_t)PIECE * npy->type->bytes;
    char *raw = pf_heap_alloc(engine->heap, bytes);
    if (!raw) return PF_ENOMEM;
    int status = read_elements(engine, npy, in, to, raw);
    pf_heap_free(engine->heap, raw, bytes);
    return status;
}

/* The columns stand first in the file: its bytes are those of the transposed array. */
static int read_fortran(pf_engine *engine, const pf_npy *npy, source *in, pf_tensor *to) {
    int64_t shape[PF_MAX_RANK];
    pf_tensor *turned;
    for (int d = 0; d < npy->rank; d++) shape[d] = npy->shape[npy->rank - 1 - d];
    PF_TRY(pf_tensor_make_lasting(&turned, engine->heap, to->dtype, npy->rank, shape));
    int status = read_through(engine, npy, in, turned);
    if (status >= 0) {
        pf_tensor view = pf_tensor_place(turned);
        for (int d = 0; d < npy->rank; d++) {
            view.shape[d] = npy->shape[d];
            view.stride[d] = turned->stride[npy->rank - 1 - d];
        }
        status = pf_tensor_assign(to, &view);
    }
    pf_tensor_release(&turned);
    return status;
}

/* Outside any open tape: what comes from a file outlives the step. */
static int read_array(pf_tensor **t, pf_engine *engine, source *in) {
    pf_npy npy;
    PF_TRY(read_header(&npy, engine->heap, in));
    PF_TRY(check_size(&npy, in));
    PF_TRY(pf_shape_valid(npy.rank, npy.shape, npy.type->as, "npy"));
    PF_TRY(pf_tensor_make_lasting(t, engine->heap, npy.type->as, npy.rank, npy.shape));
    int status =
        npy.fortran ? read_fortran(engine, &npy, in, *t) : read_through(engine, &npy, in, *t);
    if (status < 0) pf_tensor_release(t);
    return status;
}

int pf_npy_load(pf_tensor **t, pf_engine *engine, const char *path) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED(path);
    pf_reader file;
    PF_TRY(pf_reader_open(&file, engine, path));
    source in = {.file = &file, .size = file.size};
    int status = read_array(t, engine, &in);
    pf_reader_close(&file);
    return status < 0 ? pf_fail_in(status, "npy: %s", path) : status;
}

/* ---- several -------------------------------------------------------------------- */

static int load_entry(pf_named *named, pf_engine *engine, const pf_zip *zip, int i) {
    const pf_zip_entry *e = &zip->entry[i];
    size_t name = strlen(e->name);
    pf_unzip entry;
    if (name <= 4 || strcmp(e->name + name - 4, ".npy") != 0)
        return pf_fail(PF_EFORMAT, "'%.64s' is no array", e->name);
    char *own = strndup(e->name, name - 4);
    if (!own) return pf_fail(PF_ENOMEM, "npz: out of memory");
    named->name = own;
    PF_TRY(pf_unzip_open(&entry, zip, i));
    source in = {.entry = &entry, .size = e->bytes};
    int status = read_array(&named->tensor, engine, &in);
    pf_unzip_close(&entry);
    return status < 0 ? pf_fail_in(status, "'%.64s'", own) : status;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const pf_zip_entry *const *)a)->name, (*(const pf_zip_entry *const *)b)->name);
}

/* No two entries have one name. */
static int check_names(pf_engine *engine, const pf_zip *zip) {
    size_t bytes = ((size_t)zip->n + 1) * sizeof(const pf_zip_entry *);
    const pf_zip_entry **order = pf_heap_alloc(engine->heap, bytes);
    if (!order) return PF_ENOMEM;
    for (int i = 0; i < zip->n; i++) order[i] = &zip->entry[i];
    int status = pf_sort(engine, order, zip->n, sizeof *order, by_name);
    for (int i = 1; i < zip->n && status >= 0; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            status = pf_fail(PF_EFORMAT, "'%.64s' stands in it twice", order[i]->name);
    pf_heap_free(engine->heap, order, bytes);
    return status;
}

int pf_npz_load(pf_engine *engine, const char *path, pf_named **tensors, int *n) {
    PF_OPEN(engine);
    PF_NEED(path, tensors, n);
    pf_zip zip;
    *tensors = NULL;
    *n = 0;
    int status = pf_zip_open(&zip, engine, path);
    if (status < 0) return pf_fail_in(status, "npz: %s", path);
    pf_named *list = calloc((size_t)zip.n + 1, sizeof *list);
    status = list ? check_names(engine, &zip) : pf_fail(PF_ENOMEM, "npz: out of memory");
    for (int i = 0; i < zip.n && status >= 0; i++) status = load_entry(&list[i], engine, &zip, i);
    if (status < 0) {
        pf_named_free(list, zip.n);
        pf_fail_in(status, "npz: %s", path);
    } else {
        *tensors = list;
        *n = zip.n;
    }
    pf_zip_close(&zip);
    return status;
}

/* ---- bytes out ------------------------------------------------------------------ */

typedef struct {
    pf_writer *file;
    pf_zipper *zip; /* NULL: the file itself */
} target;

static int put_bytes(const target *to, const void *data, size_t bytes) {
    return to->zip ? pf_zipper_put(to->zip, data, bytes) : pf_writer_put(to->file, data, bytes);
}

/* Of a contiguous tensor, a block at a time. */
static int put_elements(pf_engine *engine, const target *to, const pf_tensor *t,
                        const pf_byte_type *type) {
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    const char *in = (const char *)t->storage->data + (size_t)t->offset * row->bytes;
    char raw[PF_BYTES_BLOCK * 8];
    double bad = 0;
    for (int64_t at = 0, n = pf_tensor_numel(t); at < n; at += PF_BYTES_BLOCK) {
        int64_t more = pf_min(n - at, PF_BYTES_BLOCK);
        if (at % PIECE == 0) PF_TRY(pf_check_cancel(engine));
        int64_t good =
            pf_bytes_encode(type, false, row, in + (size_t)at * row->bytes, more, raw, &bad);
        if (good < more)
            return pf_fail(PF_EINVAL, "element %s of %s is %.9g, which %s cannot hold",
                           pf_place(at + good), pf_shape_of(t), bad, type->name);
        PF_TRY(put_bytes(to, raw, (size_t)more * type->bytes));
    }
    return PF_OK;
}

/* name NULL: the tensor's own type. */
static int put_array(pf_engine *engine, const target *to, const pf_tensor *t, const char *name) {
    PF_HOLDS(t);
    const pf_byte_type *type = pf_byte_type_find(name ? name : pf_dtype_name(t->dtype));
    char header[512];
    size_t bytes;
    pf_tensor *copy;
    if (!type) return pf_fail(PF_EINVAL, "no type '%s'; there are u8, i8 ... f16, f32, f64", name);
    PF_TRY(pf_npy_write_header(type, t->rank, t->shape, header, &bytes));
    PF_TRY(put_bytes(to, header, bytes));
    if (pf_tensor_contiguous(t)) return put_elements(engine, to, t, type);
    PF_TRY(pf_tensor_make_lasting(&copy, engine->heap, t->dtype, t->rank, t->shape));
    int status = pf_tensor_assign(copy, t);
    if (status >= 0) status = put_elements(engine, to, copy, type);
    pf_tensor_release(&copy);
    return status;
}

static int finish(pf_writer *w, int status, const char *what, const char *path) {
    if (status >= 0) return pf_writer_commit(w, NULL);
    pf_writer_abort(w);
    return pf_fail_in(status, "%s: %s", what, path);
}

int pf_npy_save(pf_engine *engine, const char *path, const pf_tensor *t, const char *type) {
    PF_OPEN(engine);
    PF_NEED(path, t);
    pf_writer w;
    PF_TRY(pf_tensor_check(t, t->dtype, "npy", "tensor"));
    PF_TRY(pf_writer_open(&w, engine, path));
    return finish(&w, put_array(engine, &(target){.file = &w}, t, type), "npy", path);
}

/* A name is a path inside the file, and whoever unpacks that must find it below his folder. */
static bool is_inside(const char *name) {
    for (const char *part = name, *end;; part = end + 1) {
        end = strchrnul(part, '/');
        size_t n = (size_t)(end - part);
        if (n == 0 || memchr(part, '\\', n)) return false;
        if (part[0] == '.' && (n == 1 || (n == 2 && part[1] == '.'))) return false;
        if (!*end) return true;
    }
}

static int check_names_given(pf_engine *engine, const pf_named *tensors, int n) {
    for (int i = 0; i < n; i++) {
        const char *name = tensors[i].name;
        if (!name || !*name) return pf_fail(PF_EINVAL, "tensor %s has no name", pf_place(i));
        if (!is_inside(name))
            return pf_fail(PF_EINVAL,
                           "'%.64s' can't be a name: it is a path in the file, with '/' between "
                           "parts that are not empty, '.' or '..', and without a '\\'",
                           name);
    }
    return pf_named_differ(tensors, n, engine->heap);
}

static int put_named(pf_engine *engine, pf_zipper *zip, const pf_named *named, const char *type,
                     bool deflated) {
    char *entry; /* "name.npy" */
    PF_TRY(pf_tensor_check(named->tensor, named->tensor ? named->tensor->dtype : PF_F32, "npz",
                           named->name));
    PF_TRY(pf_path(&entry, engine, "%s.npy", named->name));
    int status = pf_zipper_begin(zip, entry, deflated);
    if (status >= 0) status = put_array(engine, &(target){.zip = zip}, named->tensor, type);
    if (status >= 0) status = pf_zipper_end(zip);
    pf_path_free(entry);
    return status;
}

int pf_npz_save(pf_engine *engine, const char *path, const pf_named *tensors, int n,
                const char *type, bool deflated) {
    PF_OPEN(engine);
    PF_NEED(path);
    PF_NEED_ARRAY(tensors, n);
    pf_writer w;
    PF_TRY(pf_writer_open(&w, engine, path));
    pf_zipper zip = {.to = &w, .heap = engine->heap};
    int status = check_names_given(engine, tensors, n);
    for (int i = 0; i < n && status >= 0; i++)
        status = put_named(engine, &zip, &tensors[i], type, deflated);
    if (status >= 0) status = pf_zipper_finish(&zip);
    pf_zipper_close(&zip);
    return finish(&w, status, "npz", path);
}
