/*
 * undo.c - a call that moves a tree of states on is all or nothing: it begins with the tree's
 * position, counts and tensors held beside it, and ends by letting go of these or by putting them
 * back. Neither can fail, and nothing is copied here: who moves a node on makes new tensors.
 *
 * What a layer of the host keeps is moved on as a copy, where the host can make one; where it
 * can't, a call that is cut short after the layer's turn leaves the tree broken, and every later
 * use of it says so.
 */
#include "state.h"

int pf_state_check(const pf_state *state) {
    if (!state->broken) return PF_OK;
    return pf_fail(PF_ESTATE, "state: a call was interrupted after a layer of the host had moved "
                              "on what only it knows; load the state, or fork it before a call");
}

/* Keys and values behind those held are spare room, so a kind that only grows is undone by its
 * position. */
static bool holds_tensors(const pf_state *s) {
    return s->kind && (!s->kind->grows || s->kind->slides);
}

static void begin(pf_state *s) {
    s->before = (pf_state_before){.position = s->position, .recent = s->recent, .host = s->host};
    for (int i = 0; i < PF_STATE_TENSORS && holds_tensors(s); i++) {
        s->before.tensor[i] = pf_tensor_retain(s->tensor[i]);
    }
    s->moving = true;
    s->touched = false;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) begin(s->child[i]);
    }
}

int pf_state_begin(pf_state *state) {
    PF_TRY(pf_state_check(state));
    begin(state);
    return PF_OK;
}

static void release_host(pf_state *s, void *host) {
    if (host && s->layer.release_state) s->layer.release_state(s->layer.context, host);
}

/* What was before is let go of. */
static void keep(pf_state *s, const pf_engine *e) {
    for (int i = 0; i < PF_STATE_TENSORS; i++) pf_tensor_release(&s->before.tensor[i]);
    if (s->due) s->kind->keep(s, e);
    pf_tensor_release(&s->due);
    if (!s->touched && s->before.host != s->host) release_host(s, s->before.host);
    s->moving = false;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) keep(s->child[i], e);
    }
}

/* What was before comes back; false where the host has changed what it was. */
static bool go_back(pf_state *s) {
    bool whole = !s->touched;
    s->position = s->before.position;
    s->recent = s->before.recent;
    for (int i = 0; i < PF_STATE_TENSORS && holds_tensors(s); i++) {
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = s->before.tensor[i];
        s->before.tensor[i] = NULL;
    }
    pf_tensor_release(&s->due);
    if (!s->touched && s->host != s->before.host) {
        release_host(s, s->host);
        s->host = s->before.host;
    }
    s->moving = false;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i] && !go_back(s->child[i])) whole = false;
    }
    return whole;
}

int pf_state_end(pf_state *state, const pf_engine *engine, int status) {
    if (status >= 0) {
        keep(state, engine);
    } else if (!go_back(state)) {
        state->broken = true;
    }
    return status;
}

int pf_state_renew(pf_state *s, pf_engine *e, int i) {
    pf_tensor *own = NULL;
    PF_TRY(pf_tensor_detach(&own, e, s->tensor[i]));
    pf_tensor_release(&s->tensor[i]);
    s->tensor[i] = own;
    return PF_OK;
}

/* Once a call: later turns of the same layer go on with the copy. */
int pf_state_renew_host(pf_state *s, pf_engine *e) {
    void *own = NULL;
    if (!s->host || s->host != s->before.host || s->touched) return PF_OK;
    if (!s->layer.fork_state) {
        s->touched = true;
        return PF_OK;
    }
    PF_TRY(s->layer.fork_state(s->layer.context, e, s->host, s->batch, NULL, s->batch, &own));
    s->host = own;
    return PF_OK;
}
