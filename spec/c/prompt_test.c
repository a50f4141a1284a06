/*
 * prompt_test.c - `performer` on a terminal: lines that are edited and completed, what was typed
 * before, Ctrl-C in all that may run, the end; and on terminals that can do nothing.
 */
#include <performer.h>

#include "scratch.h"
#include "terminal.h"

static char folder[256], history[300];

#define UP     "\033[A"
#define CTRL_C "\003"
#define CTRL_D "\004"

/* `performer` with words of its own, a history file of this test's, and a kind of terminal. */
static void begin(terminal *t, const char *kind, const char *const *words) {
    char *argv[16] = {(char *)(uintptr_t)PROGRAM}, term[64], file[320];
    const char *set[] = {term, file, "OMP_WAIT_POLICY=passive", "LC_ALL=C.UTF-8", NULL};
    int n = 1;
    while (words && *words) argv[n++] = (char *)(uintptr_t)*words++;
    argv[n] = NULL;
    snprintf(term, sizeof term, "TERM=%s", kind);
    snprintf(file, sizeof file, "PF_HISTORY=%s", history);
    terminal_open(t, argv, set);
}

/* And its first prompt. */
static void start(terminal *t, const char *kind, const char *const *words) {
    begin(t, kind, words);
    CHECK(terminal_sees(t, "Ctrl-D ends."));
    CHECK(terminal_sees(t, "pf>"));
}

static int edits(const terminal *t) { return strstr(t->shown, "Tab completes") != NULL; }

/* Types a line, and waits for what it gives and the next prompt. */
static void line(terminal *t, const char *text, const char *gives) {
    terminal_type(t, text);
    terminal_type(t, "\r");
    CHECK(terminal_sees(t, "\n"));
    CHECK(terminal_sees(t, gives));
    CHECK(terminal_sees(t, "pf>"));
}

static void end(terminal *t) { CHECK(terminal_ends_by(t, CTRL_D) == 0); }

/* ---- any terminal ---------------------------------------------------------------- */

static void test_lines(terminal *t) {
    line(t, "1 + 1", "2");
    line(t, "kept = pf.ones(2, 3)", "");
    line(t, "kept:sum():item(), 'tw\xc3\xb6'", "6.0  \"tw\xc3\xb6\"");
    terminal_type(t, "for i = 1, 3 do\r");
    CHECK(terminal_sees(t, "  >"));
    line(t, "io.write(i, ';') end", "1;2;3;");
    terminal_type(t, "function (\r");
    CHECK(terminal_sees(t, "  >"));
    line(t, "", "error: ");
}

/* Whatever runs ends, and what was there is still there. */
static void test_stopping(terminal *t) {
    static const char *const runs[] = {
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "print(coroutine.resume(coroutine.create(function() while true do end end))) while true do "
        "end",
        "pf.rand(6000, 6000):matmul(pf.rand(6000, 6000))",
        "while true do pf.rand(1000, 1000):matmul(pf.rand(1000, 1000)) end",
        "while true do pcall(pf.matmul, pf.rand(500, 500), pf.rand(500, 500)) end",
        "string.find(('a'):rep(60), ('a*'):rep(40) .. 'b')", /* in C, where no hook is called */
        "while true do pcall(string.gsub, ('a'):rep(60), ('a*'):rep(40) .. 'b', '') end",
        "do local c <close> = setmetatable({}, { __close = function() "
        "for _ in ('a'):rep(60):gmatch(('a*'):rep(40) .. 'b') do end end }) while true do end end",
        "table.move({}, 1, 1 << 60, 2)",
        "coroutine.wrap(function() ('a'):rep(60):match(('a*'):rep(40) .. 'b') end)()",
        "io.read()",
        "repeat until pf.interrupted() error 'asked'",
        "setmetatable({}, { __tostring = function() while true do end end })",
    };
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        terminal_type(t, "io.write('be', 'gins') io.flush() ");
        if (runs[i][0] == 's') terminal_type(t, "return ");
        terminal_type(t, runs[i]);
        terminal_type(t, "\r");
        CHECK(terminal_sees(t, "begins"));
        usleep(100000); /* well inside; whenever it is, it ends */
        terminal_type(t, CTRL_C);
        CHECK(terminal_sees(t, runs[i][0] == 'r' ? "asked" : "interrupted"));
        CHECK(terminal_sees(t, "pf>"));
    }
    line(t, "kept:sum():item()", "6.0");
    terminal_type(t, "half a line");
    CHECK(terminal_sees(t, "half a line"));
    terminal_type(t, CTRL_C);
    CHECK(terminal_sees(t, "pf>"));
    terminal_type(t, "if true then\r");
    CHECK(terminal_sees(t, "  >"));
    terminal_type(t, CTRL_C);
    CHECK(terminal_sees(t, "pf>"));
    line(t, "'here' .. 1", "here1");
}

static void test_failures(terminal *t) {
    /* A sanitizer's malloc ends the program where others say no. */
    if (!SANITIZED) line(t, "pf.zeros(1000000, 1000000)", "out of memory");
    line(t, "kept:matmul(kept)", "error: ");
    line(t, "kept:sum():item()", "6.0");
    line(t, "require('performer').seed(1)", "");
}

/* A wish to end, while a line is written: the terminal is as it was. */
static void test_told_to_end(const char *kind) {
    static terminal t;
    struct termios before, after;
    start(&t, kind, NULL);
    terminal_type(&t, "while true do end\r");
    CHECK(terminal_sees(&t, "end"));
    usleep(100000);
    CHECK(tcgetattr(t.fd, &before) == 0);
    for (int i = 0; i < 4; i++) { /* which are no wish to end, however many */
        terminal_type(&t, CTRL_C);
        CHECK(terminal_sees(&t, "pf>"));
    }
    terminal_type(&t, "half");
    CHECK(terminal_sees(&t, "half"));
    kill(t.pid, SIGTERM);
    while (terminal_take(&t)) continue;
    const int known = tcgetattr(t.fd, &after);
    CHECK(known != 0 || before.c_lflag == after.c_lflag);
    CHECK(terminal_ends(&t) == 130);
}

static void test_kind(const char *kind) {
    static terminal t;
    start(&t, kind, NULL);
    test_lines(&t);
    test_stopping(&t);
    test_failures(&t);
    end(&t);
    if (strcmp(kind, "dumb") == 0) CHECK(!strchr(t.shown, '\033'));
    test_told_to_end(kind);
}

/* A script before the prompt ends as well. */
static void test_script(void) {
    static terminal t;
    char file[320];
    snprintf(file, sizeof file, "%s/endless.lua", folder);
    const char *const words[] = {"-i", file, NULL};
    FILE *out = fopen(file, "w");
    CHECK(out && fputs("made = 6 * 7\nprint 'begins'\nwhile true do end\n", out) >= 0);
    CHECK(out && fclose(out) == 0);
    begin(&t, "dumb", words);
    CHECK(terminal_sees(&t, "begins"));
    terminal_type(&t, CTRL_C);
    CHECK(terminal_sees(&t, "interrupted"));
    CHECK(terminal_sees(&t, "pf>"));
    line(&t, "made", "42");
    end(&t);
}

static void test_exits(void) {
    static const char *const inside[] = {"-e", "given = 41", "-i", NULL};
    static terminal t;
    start(&t, "dumb", inside);
    line(&t, "given + 1", "42");
    terminal_type(&t, "pf.exit(7)\r");
    CHECK(terminal_ends(&t) == 7);
    start(&t, "dumb", NULL);
    terminal_type(&t, "quit\r");
    CHECK(terminal_ends(&t) == 0);
    start(&t, "", NULL); /* TERM says nothing */
    line(&t, "error 'bad'", "error: bad");
    end(&t);
    CHECK(!strchr(t.shown, '\033'));
}

/* ---- a terminal that can move its cursor -------------------------------------------- */

static void test_completion(terminal *t) {
    terminal_type(t, "pf.log_so\t");
    CHECK(terminal_sees(t, "ftmax"));
    line(t, " == pf.log_softmax", "true");
    terminal_type(t, "nn.linear { fr\t3, t\t4 }\r");
    CHECK(terminal_sees(t, "linear { from = 3, to = 4 }"));
    CHECK(terminal_sees(t, "pf>"));
    terminal_type(t, "kept:num\t");
    CHECK(terminal_sees(t, "el"));
    line(t, "() * 7", "42");
    terminal_type(t, "pf.log_\t");
    CHECK(terminal_sees(t, "log_partition  log_softmax"));
    CHECK(terminal_sees(t, "pf.log_"));
    terminal_type(t, CTRL_C);
    CHECK(terminal_sees(t, "pf>"));
}

static void test_history(terminal *t) {
    line(t, "first = 11", "");
    line(t, "second = 22", "");
    terminal_type(t, UP UP "\r");
    line(t, "first + second", "33");
    terminal_type(t, "fir" UP UP); /* what begins so */
    line(t, " + 1", "");
    line(t, "first", "12");
    terminal_type(t, "function twice(x)\r");
    CHECK(terminal_sees(t, "  >"));
    line(t, "return 2 * x end", "");
    line(t, "twice = nil", "");
    terminal_type(t, UP UP); /* both of its lines */
    CHECK(terminal_sees(t, "return 2 * x end"));
    line(t, "", "");
    line(t, "twice(21)", "42");
}

static void test_sessions(void) {
    static terminal one, two;
    start(&one, "xterm", NULL);
    start(&two, "xterm", NULL);
    line(&one, "said = 'in one'", "");
    line(&two, "said = 'in two'", "");
    end(&one);
    end(&two);
    start(&one, "xterm", NULL);
    terminal_type(&one, UP);
    CHECK(terminal_sees(&one, "'in two'"));
    line(&one, UP, "");
    line(&one, "said", "\"in one\"");
    end(&one);
}

/* What is pasted is taken as it is: an empty line in it leaves nothing. */
static void test_paste(terminal *t) {
    terminal_type(t, "function pasted(x)\r\r  local y = x\r\r  return 2 * y\rend\r");
    for (int i = 0; i < 5; i++) CHECK(terminal_sees(t, "  >"));
    CHECK(terminal_sees(t, "pf>"));
    line(t, "pasted(21)", "42");
}

/* As a shell does that stops it, and lets it go on: the line is still there. */
static void test_stopped(terminal *t) {
    struct termios mode;
    terminal_type(t, "1 +");
    CHECK(terminal_sees(t, "1 +"));
    kill(t->pid, SIGSTOP);
    CHECK(tcgetattr(t->fd, &mode) == 0);
    mode.c_lflag |= ICANON | ECHO;
    CHECK(tcsetattr(t->fd, TCSANOW, &mode) == 0);
    kill(t->pid, SIGCONT);
    CHECK(terminal_sees(t, "1 +"));
    CHECK(tcgetattr(t->fd, &mode) == 0 && !(mode.c_lflag & ICANON));
    line(t, " 41", "42");
}

static void test_colours(void) {
    static terminal t;
    start(&t, "xterm", NULL);
    terminal_type(&t, "x");
    CHECK(terminal_sees(&t, "\033[0m x")); /* what is typed is as ever */
    terminal_type(&t, CTRL_C);
    CHECK(terminal_sees(&t, "pf>"));
    line(&t, "error 'bad'", "\033[31merror: \033[0mbad");
    end(&t);
    putenv((char *)(uintptr_t) "NO_COLOR=1");
    start(&t, "xterm", NULL);
    line(&t, "error 'bad'", "error: bad");
    end(&t);
    unsetenv("NO_COLOR");
}

static void test_size(terminal *t) {
    const struct winsize narrow = {.ws_row = 24, .ws_col = 40};
    CHECK(ioctl(t->fd, TIOCSWINSZ, &narrow) == 0);
    line(t, "pf.term.width(1)", "40");
    terminal_type(t, "'0123456789");
    CHECK(terminal_sees(t, "0123456789"));
    const struct winsize wide = {.ws_row = 24, .ws_col = 120};
    CHECK(ioctl(t->fd, TIOCSWINSZ, &wide) == 0);
    line(t, "0123456789', pf.term.width(1)", "\"01234567890123456789\"  120");
}

static void test_editing(void) {
    static terminal t;
    start(&t, "xterm", NULL);
    line(&t, "kept = pf.ones(2, 3)", "");
    test_completion(&t);
    test_history(&t);
    test_paste(&t);
    test_size(&t);
    test_stopped(&t);
    end(&t);
    test_colours();
    test_sessions();
}

int main(void) {
    static terminal t;
    scratch_open(folder, sizeof folder);
    snprintf(history, sizeof history, "%s/state/history", folder);
    test_kind("dumb");
    test_exits();
    test_script();
    start(&t, "xterm", NULL);
    const int can = edits(&t);
    end(&t);
    test_kind("xterm");
    if (can) test_editing();
    scratch_remove(folder);
    return CHECK_REPORT();
}
