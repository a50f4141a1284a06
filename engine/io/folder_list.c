/*
 * folder_list.c - names and listing of a run folder: see folder_list.h. A name from a disk
 * is untrusted: it is a step only if it is exactly "step-N".
 */
#include "folder_list.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- names -------------------------------------------------------------------- */

/* Reads "step-N" and returns what follows the number, or NULL. No leading zeros: one
 * number, one name. */
const char *pf_step_parse(const char *name, uint64_t *step) {
    uint64_t value = 0;
    if (strncmp(name, "step-", 5) != 0) return NULL;
    const char *digits = name + 5, *c = digits;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*c - '0'), &value)) {
            return NULL;
        }
    }
    if (c == digits || (*digits == '0' && c - digits > 1)) return NULL;
    *step = value;
    return c;
}

int pf_step_path(char **path, const pf_engine *engine, const char *run, uint64_t step) {
    return pf_path(path, engine, "%s/step-%" PRIu64, run, step);
}

bool pf_temp_is_dead(const char *name) {
    const char *tmp = strstr(name, ".tmp-");
    long pid = tmp ? strtol(tmp + 5, NULL, 10) : 0;
    return pid > 0 && pid != (long)getpid() && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

/* ---- the listing of a run folder ---------------------------------------------- */

void pf_listing_free(pf_listing *l) {
    for (int i = 0; i < l->n_temp; i++) pf_path_free(l->temp[i]);
    if (l->temp) pf_heap_free(l->engine->heap, l->temp, (size_t)l->room_temp * sizeof *l->temp);
    if (l->step) pf_heap_free(l->engine->heap, l->step, (size_t)l->room * sizeof *l->step);
    *l = (pf_listing){0};
}

int pf_listing_add(pf_listing *l, uint64_t step) {
    PF_TRY(pf_heap_grow(l->engine->heap, (void **)&l->step, &l->room, l->n + 1, sizeof *l->step));
    l->step[l->n++] = step;
    return PF_OK;
}

static int add_temp(pf_listing *l, const char *name) {
    PF_TRY(pf_heap_grow(l->engine->heap, (void **)&l->temp, &l->room_temp, l->n_temp + 1,
                        sizeof *l->temp));
    PF_TRY(pf_path(&l->temp[l->n_temp], l->engine, "%s", name));
    l->n_temp++;
    return PF_OK;
}

/* Of a checkpoint (".step-9.tmp-...") or a mark (".BEST.tmp-..."): no other's files. */
static bool is_temp(const char *name) {
    if (!strncmp(name, ".step-", 6)) return strstr(name, ".tmp-") != NULL;
    size_t mark = name[0] == '.' ? strspn(name + 1, PF_MARK_LETTERS) : 0;
    return mark > 0 && !strncmp(name + 1 + mark, ".tmp-", 5);
}

static int add_name(pf_listing *l, const char *name) {
    uint64_t step;
    const char *rest = pf_step_parse(name + (name[0] == '.'), &step);
    if (rest && !strcmp(rest, name[0] == '.' ? ".old" : "")) return pf_listing_add(l, step);
    if (is_temp(name)) return add_temp(l, name);
    return PF_OK;
}

static int newer_first(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

/* Newest first, and once: there may be step-N and .step-N.old. */
static void sort_steps(pf_listing *l) {
    int n = 0;
    if (l->n > 1) qsort(l->step, (size_t)l->n, sizeof *l->step, newer_first);
    for (int i = 0; i < l->n; i++)
        if (n == 0 || l->step[n - 1] != l->step[i]) l->step[n++] = l->step[i];
    l->n = n;
}

int pf_listing_read(pf_listing *l, pf_engine *engine, const char *run) {
    pf_names names;
    *l = (pf_listing){.engine = engine};
    int result = pf_names_read(&names, engine, run), status = PF_OK;
    l->blind = result == -ENOSYS;
    if (l->blind) return PF_OK;
    if (result < 0) return pf_file_fail(result, "list", run);
    for (const char *name = NULL; status >= 0 && (name = pf_names_next(&names, name));)
        status = add_name(l, name);
    pf_names_free(&names);
    if (status < 0)
        pf_listing_free(l);
    else
        sort_steps(l);
    return status;
}

/* The step that a mark file names. PF_ENOTFOUND: no such file; PF_EFORMAT: nonsense in it. */
int pf_mark_read(pf_engine *engine, const char *path, uint64_t *step) {
    char text[64];
    pf_reader r;
    PF_TRY(pf_reader_open(&r, engine, path));
    size_t bytes = r.size < (int64_t)sizeof text ? (size_t)r.size : 0;
    int status = pf_reader_read(&r, 0, text, bytes);
    pf_reader_close(&r);
    if (status < 0) return status;
    text[bytes] = '\0';
    const char *rest = pf_step_parse(text, step);
    bool good = rest && (!*rest || !strcmp(rest, "\n")) && strlen(text) == bytes;
    return good ? PF_OK : pf_fail(PF_EFORMAT, "%s is damaged (it names no step)", path);
}

int pf_mark_read_in(pf_engine *engine, const char *run, const char *mark, uint64_t *step) {
    char *path;
    PF_TRY(pf_path(&path, engine, "%s/%s", run, mark));
    int status = pf_mark_read(engine, path, step);
    pf_path_free(path);
    return status;
}
