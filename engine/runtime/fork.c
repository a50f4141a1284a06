/*
 * fork.c - see fork.h. What must hold: fork runs with every spin lock held by the thread that
 * forks, so that what they guard is whole in the child. Locks are taken in one order (the list's
 * mutex, then the list), and who holds a spin lock asks for no other.
 */
#include "fork.h"

#include <pthread.h>
#include <sched.h>

#include "status.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static pf_spin *list; /* under list_lock, as is `watching` */
static bool watching; /* the handlers stand */
static atomic_uint forks;

/* The yield lets a holder that lost its processor go on. */
void pf_spin_lock(pf_spin *spin) {
    for (int turns = 0; atomic_flag_test_and_set_explicit(&spin->taken, memory_order_acquire);)
        if (++turns % 64 == 0) sched_yield();
}

void pf_spin_unlock(pf_spin *spin) {
    atomic_flag_clear_explicit(&spin->taken, memory_order_release);
}

static void before_fork(void) {
    pthread_mutex_lock(&list_lock);
    for (pf_spin *s = list; s; s = s->next) pf_spin_lock(s);
}

static void after_fork(void) {
    for (pf_spin *s = list; s; s = s->next) pf_spin_unlock(s);
    pthread_mutex_unlock(&list_lock);
}

static void in_child(void) {
    atomic_fetch_add(&forks, 1);
    after_fork();
}

int pf_spin_open(pf_spin *spin) {
    *spin = (pf_spin){.taken = ATOMIC_FLAG_INIT};
    pthread_mutex_lock(&list_lock);
    if (!watching) watching = pthread_atfork(before_fork, after_fork, in_child) == 0;
    bool stands = watching;
    if (stands) {
        spin->next = list;
        if (list) list->prev = spin;
        list = spin;
    }
    pthread_mutex_unlock(&list_lock);
    return stands ? PF_OK : pf_fail(PF_ENOMEM, "out of memory: fork can't be watched");
}

void pf_spin_close(pf_spin *spin) {
    pthread_mutex_lock(&list_lock);
    if (spin->prev)
        spin->prev->next = spin->next;
    else
        list = spin->next;
    if (spin->next) spin->next->prev = spin->prev;
    pthread_mutex_unlock(&list_lock);
}

unsigned pf_forks(void) { return atomic_load_explicit(&forks, memory_order_relaxed); }
