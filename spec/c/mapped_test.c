/*
 * mapped_test.c - weights that lie in their file: the same bits as loaded, in no memory of the
 * engine's; engines and processes share them; damage is found as ever; whatever would write to
 * them is refused, and adapters beside them train; what can't lie there is read; and with the last
 * of the model the file is let go of.
 */
#include "child.h"
#include "folder.h"
#include "host.h"
#include "nn_support.h"
#include "scratch.h"

enum { L = 9 };

static char dir[64], run[128], file[160];
static size_t file_bytes;

static float *logits_of(pf_engine *e, pf_module *m) {
    pf_tensor *x = some_ids(e, 1, L, 1);
    float *out = forward_of(e, m, x, NULL, NULL);
    pf_tensor_release(&x);
    return out;
}

/* On a disk: pages of a file in memory count as written to. */
static void make_run(void) {
    pf_engine *e = engine_of(1, 5);
    pf_module *m = layer_of(e, "performer",
                            "{'vocab': 1500, 'dim': 128, 'layers': 2, 'heads': 2, 'length': 64, "
                            "'causal': true, 'kernel': {'features': 16}}");
    strcpy(dir, "/tmp/performer-mapped-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    snprintf(run, sizeof run, "%s/run", dir);
    snprintf(file, sizeof file, "%s/step-1/model.safetensors", run);
    CHECK_OK(pf_checkpoint_save(e, run, 1, m, NULL, NULL, NULL, 0));
    free(scratch_read(file, &file_bytes));
    CHECK(file_bytes > 1 << 20);
    pf_module_release(&m);
    pf_engine_close(&e);
}

/* ---- what of the file this process has in its memory ---- */

typedef struct {
    long rss, shared, own_dirty; /* KiB */
} pages;

static pages pages_of_file(void) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    pages p = {0};
    bool ours = false;
    long n;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx", &from, &to) == 2) ours = strstr(line, file) != NULL;
        if (!ours) continue;
        if (sscanf(line, "Rss: %ld", &n) == 1) p.rss += n;
        if (sscanf(line, "Shared_Clean: %ld", &n) == 1) p.shared += n;
        if (sscanf(line, "Private_Dirty: %ld", &n) == 1) p.own_dirty += n;
    }
    if (maps) fclose(maps);
    return p;
}

/* ---- shared ---- */

/* In another process, with an engine of its own: nearly all of the file is this one's as well, and
 * none of it a copy. */
static int load_in_child(const float *want) {
    pf_engine *e = engine_of(1, 1);
    pf_module *m = NULL;
    if (pf_model_load_mapped(&m, e, run) < 0) return 1;
    float *got = logits_of(e, m);
    pages p = pages_of_file();
    bool good = memcmp(want, got, L * 1500 * sizeof *got) == 0 && p.own_dirty == 0 &&
                p.shared * 1024 > (long)file_bytes / 10 * 9;
    if (!good) fprintf(stderr, "  %ld KiB, %ld shared, %ld own\n", p.rss, p.shared, p.own_dirty);
    return good ? 0 : 2;
}

static void test_shared(void) {
    pf_engine *e = engine_of(1, 7), *other = engine_of(2, 8);
    pf_module *loaded = NULL, *mapped = NULL, *again = NULL;
    int ended = -1;
    size_t before = live_bytes(e);
    CHECK_OK(pf_model_load(&loaded, e, run));
    size_t whole = live_bytes(e) - before;
    float *want = logits_of(e, loaded);
    pf_module_release(&loaded);
    before = live_bytes(e);
    CHECK_OK(pf_model_load_mapped(&mapped, e, run));
    CHECK(live_bytes(e) - before < whole - file_bytes / 10 * 9);
    CHECK_OK(pf_model_load_mapped(&again, other, run));
    float *got = logits_of(e, mapped), *more = logits_of(other, again);
    CHECK(memcmp(want, got, L * 1500 * sizeof *want) == 0);
    CHECK(memcmp(want, more, L * 1500 * sizeof *want) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) CHILD_EXIT(load_in_child(want));
    CHECK(child > 0 && waitpid(child, &ended, 0) == child && ended == 0);
    pf_engine_close(&e), pf_engine_close(&other);
    CHECK(pages_of_file().rss > 0);
    pf_module_release(&again), pf_module_release(&mapped);
    CHECK(pages_of_file().rss == 0);
    free(want), free(got), free(more);
}

/* ---- only read ---- */

static bool refused(int status) {
    return status == PF_ESTATE && strstr(pf_last_error(), "only read") != NULL;
}

static void test_refused(void) {
    pf_engine *e = engine_of(1, 7);
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_tape *tape = NULL;
    CHECK_OK(pf_model_load_mapped(&m, e, run));
    float *want = logits_of(e, m);
    CHECK(refused(pf_optimizer_new(&o, e, m, NULL)));
    CHECK(refused(pf_checkpoint_restore(e, run, m, NULL, NULL, NULL)));
    CHECK(pf_module_adapt(e, m, "*", 2, 1) > 0);
    CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
    for (int step = 0; step < 2; step++) {
        pf_tensor *x = some_ids(e, 1, L, 1), *loss = NULL;
        CHECK_OK(pf_tape_open(&tape, e));
        CHECK_OK(pf_module_loss(&loss, e, m, x, x, NULL));
        CHECK_OK(pf_tape_backward(tape, loss, NULL));
        pf_tensor_release(&x), pf_tensor_release(&loss);
        pf_tape_close(&tape);
        CHECK_OK(pf_optimizer_step(o, e, 0.1, 0, NULL));
    }
    float *got = logits_of(e, m);
    CHECK(memcmp(want, got, L * 1500 * sizeof *want) != 0);
    CHECK(refused(pf_module_merge(m)));
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_engine_close(&e);
    free(want), free(got);
}

/* ---- the file ---- */

static void test_anybody(void) {
    pf_engine *e = engine_of(1, 7);
    pf_module *m = NULL;
    CHECK(chmod(file, 0666) == 0);
    CHECK_FAILS(PF_EIO, pf_model_load_mapped(&m, e, run));
    CHECK(strstr(pf_last_error(), "anybody"));
    CHECK_OK(pf_model_load(&m, e, run));
    CHECK(chmod(file, 0644) == 0);
    pf_module_release(&m);
    pf_engine_close(&e);
}

static void test_damage(void) {
    pf_engine *e = engine_of(1, 7);
    pf_module *m = NULL;
    size_t bytes;
    char *text = scratch_read(file, &bytes);
    text[bytes - 7] ^= 4;
    CHECK(scratch_write(file, text, bytes) == 0);
    CHECK_FAILS(PF_EFORMAT, pf_model_load_mapped(&m, e, run));
    CHECK(strstr(pf_last_error(), "checksum"));
    text[bytes - 7] ^= 4;
    CHECK(scratch_write(file, text, bytes) == 0);
    CHECK_OK(pf_model_load_mapped(&m, e, run));
    pf_module_release(&m);
    pf_engine_close(&e);
    free(text);
}

/* A header of an odd length, as others may write it: then no number lies where tensors lie. */
static void test_odd(void) {
    pf_engine *e = engine_of(1, 7);
    pf_module *m = NULL, *loaded = NULL;
    pf_manifest manifest = {0};
    size_t bytes, before = live_bytes(e);
    uint64_t header;
    char *text = scratch_read(file, &bytes), hash[PF_HASH_TEXT];
    static const char *const names[] = {"config.json", "state.json", "model.safetensors"};
    memcpy(&header, text, sizeof header);
    char *odd = malloc(bytes + 1);
    memcpy(odd, text, 8 + header);
    odd[8 + header] = ' ';
    memcpy(odd + 9 + header, text + 8 + header, bytes - 8 - header);
    header++;
    memcpy(odd, &header, sizeof header);
    CHECK(scratch_write(file, odd, bytes + 1) == 0);
    for (int i = 0; i < 3; i++) {
        size_t n;
        char *one = scratch_read(scratch_path("%s/step-1/%s", run, names[i]), &n);
        pf_hash_bytes(one, n, hash);
        CHECK_OK(pf_manifest_add(&manifest, names[i], (int64_t)n, hash));
        free(one);
    }
    CHECK(unlink(scratch_path("%s/step-1/manifest.json", run)) == 0);
    CHECK_OK(pf_manifest_write(&manifest, e, scratch_path("%s/step-1", run), run));
    CHECK_OK(pf_model_load(&loaded, e, run));
    size_t whole = live_bytes(e) - before;
    CHECK_OK(pf_model_load_mapped(&m, e, run));
    CHECK(live_bytes(e) - before > 2 * whole - 4096 && pages_of_file().rss == 0);
    float *want = logits_of(e, loaded), *got = logits_of(e, m);
    CHECK(memcmp(want, got, L * 1500 * sizeof *want) == 0);
    pf_module_release(&m), pf_module_release(&loaded);
    pf_engine_close(&e);
    free(text), free(odd), free(want), free(got);
}

int main(void) {
    make_run();
    test_shared();
    test_refused();
    test_anybody();
    test_damage();
    test_odd();
    scratch_remove(dir);
    return CHECK_REPORT();
}
