/*
 * process.c - see process.h.
 *
 * SIGINT, SIGTERM, SIGHUP, SIGUSR1 (which mpirun hands on to its ranks, and waits for) and SIGXCPU
 * (a limit on processor time) are one wish: end, and keep what there is. A script that asks
 * pf.interrupted() sees the first one and ends by itself; any other script, and the second signal,
 * stop the engine's call and the script where they stand; what has not ended GRACE seconds later,
 * or at the third, is ended by the program. Of Ctrl-C alone a script that catches errors may think
 * what it likes: no time runs after the first.
 *
 * At a prompt Ctrl-C is another wish: that what runs ends, and the session goes on. No count of it
 * ends the program; Ctrl-\, the system's, does.
 *
 * What `nohup` ignores stays ignored. A write to a pipe that nobody reads, or beyond a limit on
 * file sizes, is a write that fails, not the end: the handlers do nothing, and unlike SIG_IGN
 * they don't outlive an exec. Only a script that looks at no result of a write (lpf_careful: a
 * command does look) would write on for ever to nobody, so it is stopped.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>

#include "bounded.h"
#include "lpf.h"
#include "performer_comm.h"

enum { GRACE = 2, LATE = 5 }; /* seconds */
enum { TOGETHER = 150 };    /* milliseconds: timeout(1), shells and service managers signal twice */
enum { CLEANING = 100000 }; /* instructions, and units in C, that __close has after a Ctrl-C */

static lua_State *volatile running;      /* for the signal handlers */
static volatile sig_atomic_t pending;    /* the script was told to stop, and has not heard it */
static volatile sig_atomic_t leaving;    /* the code that the program is to end with; 0: none yet */
static char last_words[256];             /* what it says then */
static volatile sig_atomic_t gone;       /* stopped because nobody reads the output */
static volatile sig_atomic_t ended = -1; /* process_end's code; -1: by os.exit */

/* Of a prompt: there is one; what it was given runs; Ctrl-C came; the window has another size; the
 * shell has given the terminal back. */
static volatile sig_atomic_t prompting, evaluating, struck, resized, resumed;
static uint64_t cleaning; /* units in C that __close still has */

/* ---- signals ------------------------------------------------------------------ */

static void stop_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    pending = 0;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted");
}

static void stop_script(void) {
    atomic_store(&lpf_stopping, 1);
    atomic_store(&lpf_cancel, 1);
    pending = 1;
    if (running)
        lua_sethook(running, stop_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                    1);
}

/* What was typed ends, also where it catches errors: the first of these lets clean-up run, from the
 * second on there is one at every instruction that is not the prompt's own. */
static void strike_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    const bool first = struck == 1;
    if (!struck) { /* a coroutine that outlived what was stopped */
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    struck = 2;
    if (first) cleaning = CLEANING;
    atomic_store(&lpf_cancel, 0);
    lua_sethook(L, strike_hook, LUA_MASKCOUNT, first ? CLEANING : 1);
    luaL_error(L, "interrupted");
}

/* What Lua's own functions do in C, where no hook is called, counts as instructions do. */
static void heed(lua_State *L, uint64_t units) {
    if (!evaluating || !struck) return;
    if (struck == 1 || units > cleaning) strike_hook(L, NULL);
    cleaning -= units;
}

void process_listen(lua_State *L) {
    static const bounded_listener listener = {heed};
    bounded_listen(L, &listener);
    bounded_long(L);
}

static void strike(void) {
    const int before = evaluating ? atomic_fetch_add(&lpf_interrupts, 1) : 1;
    if (before == 0 && atomic_load(&lpf_polled)) return; /* it asks */
    struck = 1;
    if (!evaluating) return;
    atomic_store(&lpf_cancel, 1);
    lua_sethook(running, strike_hook, LUA_MASKCOUNT, 1);
}

/* A launcher that ends all ranks has interrupted them all: rank 0 says it, or what it was about. */
static bool silent;

static void end_now(int number) {
    static const char text[] = "performer: interrupted\n";
    (void)number;
    if (leaving && last_words[0] && write(2, last_words, strlen(last_words)) < 0) _exit(leaving);
    if (leaving) _exit(leaving);
    if (silent) _exit(INTERRUPTED);
    if (write(2, text, sizeof text - 1) < 0) _exit(INTERRUPTED);
    _exit(INTERRUPTED);
}

/* leave(code [, seconds, words]): this process ends in so many seconds (LATE) at the latest,
 * whatever hangs; with these words, unless it is stopped before. leave(0): it stays. */
static int leave(lua_State *L) {
    const lua_Number seconds = luaL_optnumber(L, 2, LATE);
    const char *words = luaL_optstring(L, 3, "");
    const bool due = leaving != 0; /* a wish to stop has an alarm of its own */
    leaving = 0;                   /* whose words are changed */
    snprintf(last_words, sizeof last_words, words[0] ? "performer: %s\n" : "%s", words);
    leaving = (int)luaL_checkinteger(L, 1);
    if (leaving || due) alarm(leaving ? (unsigned)(seconds < 1e9 ? seconds + 0.5 : 1e9) : 0);
    return 0;
}

int luaopen_performer_leave(lua_State *L) {
    lua_pushcfunction(L, leave);
    return 1;
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void on_stop(int number) {
    static int64_t last; /* the handlers don't interrupt each other */
    if (prompting && number == SIGINT) {
        strike();
        return;
    }
    if (last_words[0]) leaving = 0; /* it was for what hangs, and this is a wish */
    const int kept = errno, before = atomic_load(&lpf_interrupts);
    const int64_t now = milliseconds();
    if (before == 0 || now - last >= TOGETHER) {
        last = now;
        atomic_store(&lpf_interrupts, before + 1);
        if (before >= 2) end_now(number);
        if (before > 0 || !atomic_load(&lpf_polled)) {
            if (before > 0 || number != SIGINT) alarm(GRACE);
            stop_script();
        }
    }
    errno = kept;
}

static void on_pipe(int number) {
    const int kept = errno;
    (void)number;
    if (!atomic_load(&lpf_careful) && (lpf_no_reader(1) || lpf_no_reader(2))) {
        gone = 1;
        stop_script();
    }
    errno = kept;
}

static void on_limit(int number) { (void)number; }

static void on_size(int number) {
    (void)number;
    resized = 1;
}

static void on_return(int number) {
    (void)number;
    resumed = 1;
}

/* The system repeats it every second until the hard limit: only the first one is a wish. */
static void on_cpu(int number) {
    static volatile sig_atomic_t seen;
    if (!seen) on_stop(number);
    seen = 1;
}

/* `heed`: also where the parent ignores it, as shells do with SIGINT of what runs behind. */
static void handle(int number, void (*handler)(int), bool heed) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
    sigfillset(&action.sa_mask);
    if (!heed && sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_IGN) return;
    sigaction(number, &action, NULL);
}

void process_watch(lua_State *L) {
    running = L;
    if (!L) return;
    silent = pf_comm_launched_rank() > 0;
    handle(SIGINT, on_stop, true);
    handle(SIGTERM, on_stop, false);
    handle(SIGHUP, on_stop, false);
    handle(SIGUSR1, on_stop, false);
    handle(SIGXCPU, on_cpu, false);
    handle(SIGALRM, end_now, true);
}

bool process_ending(void) { return atomic_load(&lpf_stopping) != 0; }

int process_stopped(void) {
    if (!atomic_load(&lpf_stopping)) return 0;
    if (gone) return READER_GONE;
    if (!silent) fprintf(stderr, "performer: interrupted\n");
    return INTERRUPTED;
}

void process_enter(lua_State *co) {
    running = co;
    /* What came while neither ran; and a Ctrl-C at a prompt ends who resumed it, too. */
    if (pending) stop_script();
    if (evaluating && struck) lua_sethook(co, strike_hook, LUA_MASKCOUNT, 1);
}

/* ---- a prompt ------------------------------------------------------------------ */

void process_prompt(void) {
    struct sigaction action;
    prompting = 1;
    /* A line that io.read() takes is one; what stands behind it is the prompt's. */
    if (!isatty(STDIN_FILENO)) setvbuf(stdin, NULL, _IONBF, 0);
    sigaction(SIGINT, NULL, &action);
    action.sa_flags &= ~SA_RESTART; /* io.read() ends too */
    sigaction(SIGINT, &action, NULL);
    handle(SIGWINCH, on_size, true);
    handle(SIGCONT, on_return, true);
}

int process_call(lua_State *L, int n, int results, int handler) {
    atomic_store(&lpf_interrupts, 0);
    atomic_store(&lpf_polled, 0);
    atomic_store(&lpf_cancel, 0);
    struck = 0;
    evaluating = 1;
    const int status = lua_pcall(L, n, results, handler);
    evaluating = 0;
    if (!atomic_load(&lpf_stopping)) {
        atomic_store(&lpf_interrupts, 0); /* a wish to end begins to count anew */
        atomic_store(&lpf_cancel, 0);
        lua_sethook(L, NULL, 0, 0);
    }
    return status;
}

bool process_struck(void) {
    const bool was = struck != 0;
    struck = 0;
    return was;
}

static bool is_news(void) { return struck || resized || resumed || atomic_load(&lpf_stopping); }

/* The signals are let in while it waits and at no other time, so none falls between the look at
 * what came before and the wait. */
process_input process_wait(int fd) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT};
    sigset_t ours, before;
    struct pollfd input = {.fd = fd, .events = POLLIN};
    sigemptyset(&ours);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) sigaddset(&ours, numbers[i]);
    sigprocmask(SIG_BLOCK, &ours, &before);
    while (!is_news() && ppoll(&input, 1, NULL, &before) < 0 && errno == EINTR) continue;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (atomic_load(&lpf_stopping)) return INPUT_ENDS;
    if (struck) {
        struck = 0;
        return INPUT_STRUCK;
    }
    const process_input news = resumed ? INPUT_RESUMED : resized ? INPUT_RESIZED : INPUT_READY;
    if (news == INPUT_RESUMED) resumed = 0;
    if (news == INPUT_RESIZED) resized = 0;
    return news;
}

/* ---- output ------------------------------------------------------------------- */

/* Also after os.exit. What a command could not write it has told already, by its code; a reader
 * that went away is no failure of a script that said it would look after that. */
static void check_output(void) {
    bool lost = ferror(stdout) != 0;
    errno = 0;
    if (fflush(stdout) != 0) lost = true;
    if (!lost || ended > DONE) return;
    if (lpf_no_reader(1)) {
        if (!atomic_load(&lpf_careful)) _exit(READER_GONE);
        return;
    }
    fprintf(stderr, "performer: not all of the standard output could be written%s%s\n",
            errno ? ": " : "", errno ? strerror(errno) : "");
    _exit(FAILED);
}

int process_end(int code) {
    ended = code;
    return code;
}

/* ---- beginning ---------------------------------------------------------------- */

/* A file that is opened as number 0, 1 or 2 would be read or written as the standard one. What is
 * written to a closed standard output fails, for results must not be lost in silence. */
static void fill_descriptors(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        const int mode = fd == STDOUT_FILENO ? O_RDONLY : O_RDWR;
        if (open("/dev/null", mode) < 0) _exit(FAILED); /* the lowest free number: fd */
    }
}

void process_begin(void) {
    fill_descriptors();
    handle(SIGPIPE, on_pipe, true);
    handle(SIGXFSZ, on_limit, true);
    atexit(check_output);
}
