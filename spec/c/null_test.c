/*
 * null_test.c - the rule of NULL (performer.h), for every public function and each of its pointers
 * in turn: a status is PF_EINVAL with a message that names the argument, and what the call was to
 * make is NULL; a getter gives 0, NULL or false; the others do nothing.
 * In LIVING_IN_A_HOST.md: [lifetimes.5].
 */
#include "border.h"

#include "border_calls.h"

static int with_null(const border_row *row, int i) {
    const char *name = row->parameter[i].name;
    snprintf(border_doing, 4096, "%s with %s NULL", row->name, name);
    B.places[0] = &B;
    border_answer answer = row->call(i);
    if (row->kind == BORDER_NOTHING) return 0;
    if (row->kind == BORDER_GETTER) return answer.empty ? 0 : (border_fail("gives something"), 1);
    int failed = 0;
    if (answer.status != PF_EINVAL) border_fail(pf_status_name(answer.status)), failed++;
    if (!strstr(pf_last_error(), name)) border_fail(pf_last_error()), failed++;
    if (row->cleared && i > 0 && B.places[0]) border_fail("left a result"), failed++;
    return failed;
}

static int each_null(const border_row *row) {
    int failed = 0;
    for (int i = 0; i < row->n; i++) {
        const border_parameter *p = &row->parameter[i];
        if (p->pointer && !p->nullable) failed += with_null(row, i);
    }
    return failed;
}

/* A NULL that is optional is no failure of its own, whatever else is. */
static int each_nullable(const border_row *row) {
    for (int i = 0; i < row->n; i++) {
        if (!row->parameter[i].nullable) continue;
        snprintf(border_doing, 4096, "%s without %s", row->name, row->parameter[i].name);
        row->call(i);
    }
    return 0;
}

/* The address of a NULL; arrays whose elements are NULL. */
static int hollow(const border_row *row) {
    memset(B.tensors, 0, sizeof B.tensors);
    memset(B.modules, 0, sizeof B.modules);
    memset(B.words, 0, sizeof B.words);
    memset(B.named, 0, sizeof B.named);
    for (int i = 0; i < row->n; i++) {
        const char *type = row->parameter[i].type;
        bool array = strstr(type, "*const *") || strstr(type, "const pf_named *");
        bool address = row->kind == BORDER_NOTHING && strstr(type, " **");
        if (!array && !address) continue;
        snprintf(border_doing, 4096, "%s with NULL in %s", row->name, row->parameter[i].name);
        row->call(-1);
    }
    return 0;
}

int main(void) {
    border_open();
    border_run_all(border_rows, sizeof border_rows / sizeof *border_rows, each_null);
    for (size_t i = 0; i < sizeof border_rows / sizeof *border_rows; i++) {
        border_run(&border_rows[i], each_nullable);
        border_run(&border_rows[i], hollow);
    }
    border_close();
    pf_engine_close(&B.engine);
    return CHECK_REPORT();
}
