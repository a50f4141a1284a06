/*
 * size_test.c - the rule of sizes (performer.h), for every struct that begins with its size,
 * wherever a public function takes one: 0 is refused; a longer one is refused where it says
 * something beyond what the library knows, and taken where it doesn't; of a shorter one, at the end
 * of a page, nothing is read or written behind its size.
 * In LIVING_IN_A_HOST.md: [versions.4].
 */
#include "border.h"

#include "border_calls.h"

static size_t wanted;

static size_t exactly(unsigned char *bytes, size_t size) {
    (void)bytes, (void)size;
    return wanted;
}

static size_t longer(unsigned char *bytes, size_t size) {
    (void)bytes;
    return size + 24;
}

static size_t longer_with_more(unsigned char *bytes, size_t size) {
    bytes[size + 16] = 1;
    return size + 24;
}

static int refused(const border_row *row, const char *how) {
    snprintf(border_doing, 4096, "%s with a struct %s", row->name, how);
    border_answer answer = row->call(-1);
    if (row->kind != BORDER_STATUS) return 0;
    if (answer.status == PF_EINVAL && strstr(pf_last_error(), "struct")) return 0;
    border_fail(pf_status_name(answer.status));
    border_fail(pf_last_error());
    return 1;
}

static const border_parameter *sized(const border_row *row) {
    for (int i = 0; i < row->n; i++) {
        if (row->parameter[i].size) return &row->parameter[i];
    }
    return NULL;
}

static int each_refusal(const border_row *row) {
    const border_parameter *p = sized(row);
    if (!p) return 0;
    border_size = exactly, wanted = 0;
    int failed = refused(row, "of size 0");
    border_size = longer_with_more;
    return failed + (p->constant ? refused(row, "that says more") : 0);
}

static int each_size(const border_row *row) {
    const border_parameter *p = sized(row);
    int failed = 0;
    border_size = longer;
    pf_set_error(PF_EHOST, "none yet");
    snprintf(border_doing, 4096, "%s with a longer struct", row->name);
    row->call(-1);
    if (strstr(pf_last_error(), "this library knows")) border_fail(pf_last_error()), failed++;
    border_size = exactly;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    border_page_end = pages + page;
    if (mprotect(border_page_end, page, PROT_NONE) != 0) return failed + 1;
    /* In steps of a size_t: a struct that begins with one has no other sizes, or addresses. */
    for (wanted = sizeof(size_t); wanted <= p->size; wanted += sizeof(size_t)) {
        snprintf(border_doing, 4096, "%s with a struct of %zu bytes", row->name, wanted);
        row->call(-1);
    }
    return failed;
}

/* The one that lies in another. [versions.1] */
static void test_allocator(void) {
    pf_allocator allocator = {.size = 0};
    pf_options options = pf_options_default();
    pf_engine *e = NULL;
    options.allocator = &allocator;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    allocator.size = sizeof allocator; /* without its function it is none */
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    CHECK_FAILS(PF_EINVAL, pf_engine_open_abi(&e, &options, PF_ABI_VERSION + 1));
    CHECK(!e && strstr(pf_last_error(), "ABI"));
}

int main(void) {
    border_open();
    pf_tape_close(&B.tape);
    border_run_all(border_rows, sizeof border_rows / sizeof *border_rows, each_refusal);
    for (size_t i = 0; i < sizeof border_rows / sizeof *border_rows; i++) {
        if (sized(&border_rows[i])) border_run(&border_rows[i], each_size);
    }
    border_close();
    pf_engine_close(&B.engine);
    test_allocator();
    return CHECK_REPORT();
}
