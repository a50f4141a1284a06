/*
 * lpf_locale.c - the locale that a stranger's code runs in, "C", whatever the host's is: no table
 * of its makes a comparison of texts a long one, and none moves the point of a number. It is the
 * thread's alone, and the host's own in what is called of the host's.
 */
#include "lpf.h"

locale_t lpf_locale_enter(lpf_context *ctx) {
    const locale_t before = ctx->hosts;
    if (ctx->plain) ctx->hosts = uselocale(ctx->plain);
    return before;
}

void lpf_locale_leave(lpf_context *ctx, locale_t before) {
    if (ctx->plain) uselocale(ctx->hosts);
    ctx->hosts = before;
}

void lpf_locale_hosts(lpf_context *ctx, bool hosts) {
    if (ctx->plain) uselocale(hosts ? ctx->hosts : ctx->plain);
}
