/*
 * performer.h - the public interface of Performer, in sections by noun: status, engines and tensors
 * here, the rest on pages that it includes at its end. Kernels, attention without a model around it
 * and streaming states are its second half, performer_attention.h, which a program includes by
 * itself.
 *
 * Manners, of all pages:
 *
 * Failure. A function that can fail returns a negative pf_status and leaves a message for this
 * thread: pf_last_error, whose text is good until the thread asks again. Success leaves the message
 * alone. The library never aborts, exits, prints, or changes OpenMP, locale or signal settings.
 *
 * Ownership. A pointer-to-pointer first argument means the caller owns what comes back, and
 * closes, releases or frees it; after a failure it is NULL. A returned plain pointer is borrowed
 * from its parent. What is handed in is copied or retained, where no comment says otherwise.
 *
 * NULL. Every pointer is needed, but those marked PF_NULLABLE and arrays of no elements. A function
 * that returns a status answers PF_EINVAL and names the argument; a getter, which tells something
 * of an object and can't fail, gives 0, NULL or false; close, release and free do nothing, also
 * with the address of a NULL.
 *
 * Size. A struct that begins with `size` is its caller's: set it to sizeof the struct. Options that
 * are shorter, of an older header, mean defaults beyond; longer ones are refused (PF_EINVAL) where
 * they say what this library doesn't know, as is a size of 0. Results are filled as far as their
 * size goes. Structs without a size are elements of arrays, and never grow.
 *
 * Closing. An engine may close before what was made in it: all of that can still be released.
 * Tensors, modules and kernels go on in other engines; whatever needs the closed one (streams,
 * tapes, each call that is given it, as long as anything made in it is held) answers PF_ESTATE.
 *
 * Callbacks return a status and leave a text with pf_set_error. They must return: no exception and
 * no longjmp passes through the library, and what is calling them must not be closed.
 *
 * Engines don't see each other. An engine is used by one thread at a time. Shapes are
 * row-major; attention tensors are (B, H, L, d). Dimensions count from 0 here, and
 * negative ones from the end; ranges are half open.
 */
#ifndef PERFORMER_H
#define PERFORMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PF_API           __attribute__((visibility("default")))
#define PF_NULLABLE      /* before an argument's name: it may be NULL */
#define PF_VERSION_MAJOR 0
#define PF_VERSION_MINOR 1
#define PF_VERSION_PATCH 0
#define PF_MAX_RANK      8
/* Changes with a release that a program of an older header could misread, and with it the SONAME
 * (libperformer.so.2): before 1.0 a minor one, from then on a major one. Between two of them
 * functions and fields are added only. What is to go stays for a minor version more, marked
 * deprecated for compilers to say, with what to call instead in its comment and the changelog. */
#define PF_ABI_VERSION   2

typedef struct pf_engine pf_engine;
typedef struct pf_config pf_config;
typedef struct pf_tensor pf_tensor;
typedef struct pf_tape pf_tape;
typedef struct pf_module pf_module;
typedef struct pf_state pf_state;
typedef struct pf_stream pf_stream;
typedef struct pf_optimizer pf_optimizer;
typedef struct pf_data pf_data;
typedef struct pf_file_access pf_file_access; /* performer_files.h */
typedef struct {
    const char *name;
    pf_tensor *tensor;
} pf_named;

/* ---- status ----------------------------------------------------------------------------
 * What a call says of its end: one of these, and in words, which name the place and what to do
 * about it, pf_last_error. Whole numbers from 0 up are success, and often a result. */

#define PF_STATUS_LIST(X)                                                                          \
    X(PF_OK, 0, "ok")                                                                              \
    X(PF_EINVAL, -1, "invalid argument")                                                           \
    X(PF_ESHAPE, -2, "shapes don't fit")                                                           \
    X(PF_EDTYPE, -3, "wrong dtype")                                                                \
    X(PF_ENOMEM, -4, "out of memory or over the byte budget")                                      \
    X(PF_EIO, -5, "reading or writing failed")                                                     \
    X(PF_EFORMAT, -6, "malformed or damaged file")                                                 \
    X(PF_ENOTFOUND, -7, "no such file, op, layer or option")                                       \
    X(PF_ECANCEL, -8, "cancelled by the host")                                                     \
    X(PF_ESTATE, -9, "not possible in this state (closed tape, used tensor)")                      \
    X(PF_ENUMERIC, -10, "a value that is not finite")                                              \
    X(PF_EHOST, -11, "a callback of the host failed")                                              \
    X(PF_ELIMIT, -12, "over a limit of work, time or depth")
#define PF_STATUS_ENUM(name, value, text) name = (value),
typedef enum { PF_STATUS_LIST(PF_STATUS_ENUM) PF_STATUS_LIMIT = -99 } pf_status;
#undef PF_STATUS_ENUM

PF_API const char *pf_status_name(int status); /* "PF_ESHAPE" */
PF_API const char *pf_status_text(int status); /* "shapes don't fit" */
/* This thread's last message, "" if none. The places in it (dimensions, rows, children ...) count
 * from 0 as in this header, or from `first`, for hosts whose users count otherwise. */
PF_API const char *pf_last_error(void);
PF_API const char *pf_last_error_from(int first);
/* What a callback says of its failure, in place of the message that stands: copied, cut at 2 KB;
 * NULL: the status's own text. Returns `status`, which must be negative: one of the list, PF_EHOST
 * at best, or a number of the host's own, which then comes out of the call that called back. */
PF_API int pf_set_error(int status, const char *PF_NULLABLE text);
PF_API const char *pf_version(void);  /* "0.1.0" */
PF_API uint32_t pf_abi_version(void); /* the library's PF_ABI_VERSION */

/* ---- engine ----------------------------------------------------------------------------
 * Everything lives in an engine: its memory, threads, random numbers and ops. Open one with its
 * options, or NULL; what outlives it (tensors, modules) keeps its heap.
 *
 * Its threads work under the floating-point settings (rounding, denormals) of the thread that
 * calls, so that no bit depends on who does what, and take no signals but their own faults, which
 * reach the host's handler, and what a profiler or a limit of processor time sends to all.
 *
 * fork: the child uses and closes what it inherited as its parent would; the threads stay behind,
 * and others start when they are needed. If another thread was in a call of an engine at that
 * moment, the child can close this one, not use it. */

typedef enum { PF_CPU_GENERIC, PF_CPU_AVX2, PF_CPU_AVX512, PF_CPU_BEST = 99 } pf_cpu;
typedef enum { PF_LOG_DEBUG, PF_LOG_INFO, PF_LOG_WARN, PF_LOG_SILENT } pf_log_level;
typedef void (*pf_log_fn)(void *context, pf_log_level level, const char *message);

/* resize, which is needed. block NULL: allocate; bytes 0: free; old_bytes is what the block had.
 * NULL: failure. Called on any thread that holds something of the engine's, workers among them. */
typedef struct {
    size_t size;
    void *(*resize)(void *context, void *block, size_t old_bytes, size_t bytes);
    void *context;
} pf_allocator;

/* The threads of an engine. Its own ones are called NAME-1, NAME-2 ..., or its work is done by the
 * host's: `run` then calls work(argument) on up to n threads, in any order or at the same time, on
 * its own too if it likes, and returns when all of these calls have. Fewer calls will do, and none:
 * what is left the caller does alone. n is at most pf_options.threads. Results are the same bits
 * whoever does the work. A negative status fails the call that wanted the work done. */
typedef struct {
    size_t size;
    int (*run)(void *context, int n, void (*work)(void *argument), void *argument); /* or NULL */
    void *context;
    const char *name; /* of own ones, copied, cut at 10 bytes; NULL: "performer" */
    size_t stack;     /* bytes of an own one's; 0: the system's choice, else 64 KiB and more */
} pf_workers;

/* What a long call is at: `done` of `total` bytes, numbers, rows or tokens (0: nobody knows).
 * Called now and then on the thread that made the call; it makes no calls with that engine. What
 * is not 0 ends the call with PF_ECANCEL, as the cancel flag does. what: in a few words, "loading
 * weights". */
typedef int (*pf_progress_fn)(void *context, const char *what, uint64_t done, uint64_t total);

/* Bounds of what is done with an engine; 0 in a field: none.
 *
 * Work is counted by the problem alone, so that it ends at the same place everywhere: a unit is
 * about an instruction of Lua's, a call of an op 64 of them, 16 numbers that it reads or writes one
 * more, and 64 multiplications of a matrix product. What doesn't fit is refused before it begins.
 * Seconds are the monotonic clock's, which is looked at within every long call: at most a tenth of
 * one over it ends. Depth: of scripts that call the host that calls scripts, of JSON, of configs.
 *
 * Over its bytes a call answers PF_ENOMEM, over the others PF_ELIMIT; as with a cancel, objects are
 * what they were before it. What moves numbers in place (an optimizer's step, pf_tensor_fill ...)
 * is refused before it begins, and ends when it has begun. */
typedef struct {
    size_t size;
    size_t bytes;   /* held in all: tensors, Lua, files in memory */
    uint64_t work;  /* units, from when they are set */
    double seconds; /* likewise */
    int depth;      /* levels */
} pf_limits;

typedef struct {
    size_t size;
    int threads;                   /* 0: as many as OpenMP would use */
    uint64_t seed;                 /* of everything random */
    size_t memory;                 /* byte budget, 0: none */
    pf_cpu cpu;                    /* highest kernel level; PF_CPU in the environment has its say */
    const pf_allocator *allocator; /* copied; NULL: the C library's */
    pf_log_fn log;                 /* NULL: silent */
    void *log_context;
    pf_log_level log_level;
    const void *cancel;      /* const atomic_int *: non-zero stops long calls; NULL: never */
    bool no_cache;           /* freed memory goes back at once: slower, and valgrind sees misuse */
    const pf_limits *limits; /* copied; as pf_engine_limit, NULL: none */
    const pf_workers *workers; /* copied; NULL: threads of its own, with defaults */
    pf_progress_fn progress;   /* NULL: nobody is told */
    void *progress_context;
    double progress_every;       /* seconds between two of its calls at least; 0: a tenth */
    const pf_file_access *files; /* copied; as pf_engine_files, NULL: the C library's */
} pf_options;
/* The defaults, to begin a pf_options with: either way, in C and in C++. One of zeros and a size is
 * valid, too, and another: PF_CPU_GENERIC, portable kernels, several times slower. */
#ifndef __cplusplus
#define PF_OPTIONS_DEFAULT                                                                         \
    { .size = sizeof(pf_options), .cpu = PF_CPU_BEST, .log_level = PF_LOG_INFO }
static inline pf_options pf_options_default(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    return options;
}
#else
#define PF_OPTIONS_DEFAULT pf_options_default()
static inline pf_options pf_options_default(void) {
    pf_options options = pf_options();
    options.size = sizeof options, options.cpu = PF_CPU_BEST, options.log_level = PF_LOG_INFO;
    return options;
}
#endif

typedef struct {
    size_t size;
    size_t live, peak; /* bytes held, and their highest mark */
    int threads;
    pf_cpu cpu;
    uint64_t seed;
    const char *cpu_name; /* "avx2" */
    const char *blas;     /* what the BLAS says of itself; asking loads it */
    size_t outside;       /* bytes that others hold within its budget (pf_meter_bytes) */
} pf_info;

/* `abi` is the PF_ABI_VERSION that the caller was written for; another's library is refused, with
 * PF_EINVAL. Who finds functions by name may call pf_engine_open, then nothing is compared. */
PF_API int pf_engine_open_abi(pf_engine **engine, const pf_options *PF_NULLABLE options,
                              uint32_t abi);
static inline int pf_engine_open(pf_engine **engine, const pf_options *PF_NULLABLE options) {
    return pf_engine_open_abi(engine, options, PF_ABI_VERSION);
}
PF_API void pf_engine_close(pf_engine **engine);
/* Keeps the pointer good beyond the close, to be told PF_ESTATE by; NULL of NULL. Nothing else is
 * kept, and the engine closes as ever. Once for each pf_engine_retain: pf_engine_release. */
PF_API pf_engine *pf_engine_retain(pf_engine *engine);
PF_API void pf_engine_release(pf_engine **engine);
PF_API bool pf_engine_closed(const pf_engine *engine); /* of an engine that is kept */
/* Bounds from now on, in place of those before, with all counts at 0; NULL: none. Once work or time
 * is over, whatever is asked of the engine answers PF_ELIMIT until they are set again. The budget
 * that it was opened with holds beside `bytes`. Bounds of a script or a call: pf_meter_open. */
PF_API int pf_engine_limit(pf_engine *engine, const pf_limits *PF_NULLABLE limits);
PF_API void pf_seed(pf_engine *engine, uint64_t seed);
PF_API int pf_engine_info(const pf_engine *engine, pf_info *info);
/* live and peak alone, at no cost. */
PF_API void pf_engine_memory(const pf_engine *engine, size_t *PF_NULLABLE live,
                             size_t *PF_NULLABLE peak);
PF_API void pf_engine_reset_peak(pf_engine *engine);

/* ---- tensors ---------------------------------------------------------------------------
 * Counted arrays of numbers. New ones are contiguous; `empty` has undefined contents. An open
 * tape owns what is made while it is open (pf_tensor_detach keeps one longer); rank 0 is a
 * scalar. A number that is put in must fit: what the dtype cannot hold is PF_EINVAL. */

typedef enum { PF_F32, PF_I32 } pf_dtype;

PF_API const char *pf_dtype_name(pf_dtype dtype); /* "f32", "i32" */
PF_API size_t pf_dtype_size(pf_dtype dtype);

PF_API int pf_tensor_empty(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                           const int64_t *shape);
PF_API int pf_tensor_full(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                          const int64_t *shape, double value);
PF_API int pf_tensor_arange(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int64_t n);
PF_API int pf_tensor_rand(pf_tensor **t, pf_engine *engine, int rank, const int64_t *shape,
                          bool normal); /* uniform (0,1) or N(0,1), a new stream a call */
/* Whole numbers from low to high, both among them, i32. */
PF_API int pf_tensor_randint(pf_tensor **t, pf_engine *engine, int rank, const int64_t *shape,
                             int64_t low, int64_t high);
PF_API int pf_tensor_randperm(pf_tensor **t, pf_engine *engine, int64_t n); /* 0 .. n-1, i32 */
/* rows x columns, 1 on the diagonal. */
PF_API int pf_tensor_eye(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int64_t rows,
                         int64_t columns);
/* n numbers at equal steps, f32: the first is a, the last b. */
PF_API int pf_tensor_linspace(pf_tensor **t, pf_engine *engine, double a, double b, int64_t n);
/* Elements of another machine's or a file's, row-major: type "u8", "i8", "u16", "i16", "u32",
 * "i32", "u64", "i64", "f16", "bf16", "f32" or "f64", little endian unless `big`. Whole numbers
 * become i32, others f32, rounded; PF_EINVAL: one that is too large for it. */
PF_API int pf_tensor_from_bytes(pf_tensor **t, pf_engine *engine, const char *type, bool big,
                                const void *bytes, size_t size, int rank, const int64_t *shape);
/* The other way: rounded to the nearest, ties to even, where the type has fewer digits; PF_EINVAL:
 * a number that is no whole one, or too large, for the type. */
PF_API int pf_tensor_to_bytes(const pf_tensor *t, const char *type, bool big, void *bytes,
                              size_t size);
/* The host's memory as a tensor, without a copy: `data` holds the elements in row-major order, at
 * an address that is a multiple of pf_dtype_size, and stays where it is until `release` is called
 * (NULL: nobody is told), once, when the last that reads it has gone: the tensor, its views, what a
 * tape keeps. That may be on any thread that lets go of a tensor, and after the engine has closed;
 * no tape owns it. A call that fails releases nothing. What is written on either side is seen on
 * the other; where a tape is open the host says so (pf_tensor_changed). */
typedef void (*pf_release_fn)(void *context);
PF_API int pf_tensor_wrap(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                          const int64_t *shape, void *data, pf_release_fn PF_NULLABLE release,
                          void *PF_NULLABLE context);
/* The same of memory that is only read: every write in place, an optimizer that would train it, a
 * checkpoint restored into it is refused with PF_ESTATE, and pf_tensor_data is to be read. */
PF_API int pf_tensor_wrap_const(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                                const int64_t *shape, const void *data,
                                pf_release_fn PF_NULLABLE release, void *PF_NULLABLE context);
PF_API pf_tensor *pf_tensor_retain(pf_tensor *t);
PF_API void pf_tensor_release(pf_tensor **t);

PF_API int pf_tensor_rank(const pf_tensor *t);
PF_API int64_t pf_tensor_size(const pf_tensor *t, int dim);
PF_API int64_t pf_tensor_numel(const pf_tensor *t);
PF_API pf_dtype pf_tensor_dtype(const pf_tensor *t);
PF_API bool pf_tensor_alive(const pf_tensor *t); /* false once its tape has closed */
PF_API bool pf_tensor_contiguous(const pf_tensor *t);
PF_API bool pf_tensor_read_only(const pf_tensor *t); /* its memory is only read, by anybody */

/* Copies all elements out of / into a tensor in row-major order, whatever its strides.
 * f32 tensors take and give float or double, i32 ones int32_t or double. */
PF_API int pf_tensor_read(const pf_tensor *t, void *out, size_t bytes);
PF_API int pf_tensor_write(pf_tensor *t, const void *in, size_t bytes);
PF_API int pf_tensor_get(const pf_tensor *t, int64_t index, double *out); /* flat, row-major */
/* These, and pf_tensor_write, change numbers in place. No tape records that: what an open tape has
 * read and reads again is refused by its backward, numbers that it made or that were copied from
 * its graph by the next op that reads them. */
PF_API int pf_tensor_set(pf_tensor *t, int64_t index, double value);
PF_API int pf_tensor_copy(pf_tensor *to, const pf_tensor *from); /* same shape; converts */
PF_API int pf_tensor_fill(pf_tensor *t, double value);
/* t[row] of the first dimension, of as many elements as `from`. */
PF_API int pf_tensor_set_row(pf_tensor *t, int64_t row, const pf_tensor *from);
/* The box of t from first[d] to before end[d] in its first n dimensions := from, stretched as ops
 * stretch their inputs. end[d] PF_PART_ONE: the position first[d] alone, and `from` has no such
 * dimension. PF_EINVAL: a number that t's dtype does not hold. */
#define PF_PART_ONE ((int64_t)-1)
PF_API int pf_tensor_set_part(pf_tensor *t, const int64_t *first, const int64_t *end, int n,
                              const pf_tensor *from);
/* The same of the rows of t where mask (i32 of 1 and 0, of t's shape or its first sizes) is 1: as
 * `masked_select` gives them. */
PF_API int pf_tensor_set_masked(pf_tensor *t, const pf_tensor *mask, const pf_tensor *from);
/* A contiguous copy outside any tape and outside the graph. */
PF_API int pf_tensor_detach(pf_tensor **out, pf_engine *engine, const pf_tensor *t);
/* The tensor's own memory, borrowed: its elements in row-major order, good as long as it lives; of
 * contiguous and alive tensors, else NULL. */
PF_API void *pf_tensor_data(pf_tensor *t);
/* A write through pf_tensor_data can't be seen: say so after it, where a tape is open. */
PF_API void pf_tensor_changed(pf_tensor *t);
/* Text for people: shape, dtype and at most 6 edge values a dimension. pf_text_free. */
PF_API int pf_tensor_show(char **text, const pf_tensor *t);

/* ---- describe --------------------------------------------------------------------------
 * All that has a name, as plain data to be freed: what help, docs, command lines and bindings are
 * made from. engine NULL: without the ops, all else being the same in every engine. A map of
 *   ops         [{name, args, results, doc, min_inputs, max_inputs, outputs, differentiable,
 *                 attrs: [{name, kind, default, required, choices, doc}]}], in order of index
 *   layers      [{type, doc, options}]
 *   kernel      {options}
 *   maps        [{name, doc, softmax: estimates exp(x.y), positive, tilted, regular: rows of norm
 *                 sqrt(d), eps, width: features a projection}], the names that a kernel takes
 *   attention   [{name, doc, takes_kernel, streams, state_grows, state_slides: up to a window only,
 *                 carries: a state to a later call, trains_in_parts, tells_weights, auto: "auto"
 *                 may choose it, options}]
 *   optimizers  [{name, doc, options}]
 *   schedules   [{name, doc, options}]
 * where options are [{name, kind: int, number, bool, string or tree, default: as text, required,
 * choices: "a|b|c" where there are some, needs: what it has no effect without, doc}]. needs:
 * "rotary" positions, a "causal" model, a "projection", layers in "training". */
PF_API int pf_describe(pf_config **tree, pf_engine *PF_NULLABLE engine);

#ifdef __cplusplus
}
#endif

#include "performer_model.h"   /* modules, streams, checkpoints */
#include "performer_ops.h"     /* ops, gradients */
#include "performer_data.h"    /* plain data; tokenizers, data sets, batches */
#include "performer_files.h"   /* access to files as a host gives it; files in memory */
#include "performer_train.h"   /* optimizers, averages, schedules */
#include "performer_comm.h"    /* training on several ranks */
#include "performer_serving.h" /* a running batch that sequences join and leave */
#include "performer_extend.h"  /* layers of the host's, recomputation, gradient check, yardstick */

#endif
